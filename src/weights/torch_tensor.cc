#include "weights/torch_tensor.h"

#include <algorithm>
#include <array>
#include <utility>

#include "core/check.h"

namespace fovea {

namespace {

using Kind = PickleValue::Kind;

constexpr int kMaxWrappers = 16;
constexpr int64_t kMostRepeated = int64_t{1} << 16;
constexpr std::string_view kUtils = "torch._utils";

struct TorchType {
  std::string_view storage, dtype;  // empty: there is no such class
  size_t size;
  std::optional<StoredType> type;  // nullopt: not supported
};
constexpr std::array<TorchType, 21> kTorchTypes{{{"FloatStorage", "float32", 4, StoredType::kF32},
                                                 {"DoubleStorage", "float64", 8, StoredType::kF64},
                                                 {"HalfStorage", "float16", 2, StoredType::kF16},
                                                 {"BFloat16Storage", "bfloat16", 2, StoredType::kBF16},
                                                 {"LongStorage", "int64", 8, StoredType::kI64},
                                                 {"IntStorage", "int32", 4, StoredType::kI32},
                                                 {"ShortStorage", "int16", 2, StoredType::kI16},
                                                 {"CharStorage", "int8", 1, StoredType::kI8},
                                                 {"ByteStorage", "uint8", 1, StoredType::kU8},
                                                 {"BoolStorage", "bool", 1, StoredType::kBool},
                                                 {"", "uint16", 2, StoredType::kU16},
                                                 {"", "uint32", 4, StoredType::kU32},
                                                 {"", "uint64", 8, StoredType::kU64},
                                                 {"UntypedStorage", "", 1, std::nullopt},
                                                 {"ComplexFloatStorage", "complex64", 8, std::nullopt},
                                                 {"ComplexDoubleStorage", "complex128", 16, std::nullopt},
                                                 {"QInt8Storage", "qint8", 1, std::nullopt},
                                                 {"QUInt8Storage", "quint8", 1, std::nullopt},
                                                 {"QInt32Storage", "qint32", 4, std::nullopt},
                                                 {"QUInt4x2Storage", "quint4x2", 1, std::nullopt},
                                                 {"QUInt2x4Storage", "quint2x4", 1, std::nullopt}}};

// Functions and classes whose first argument is the tensor.
struct Wrapper {
  std::string_view module, name;
};
constexpr std::array<Wrapper, 4> kWrappers{{{kUtils, "_rebuild_parameter"},
                                            {kUtils, "_rebuild_parameter_with_state"},
                                            {"torch.nn.parameter", "Parameter"},            // before 0.4
                                            {"torch.autograd.variable", "Variable"}}};      // before 0.4
// (function, type, arguments, ...): tensors of subclasses.
constexpr std::array<Wrapper, 3> kFromType{
    {{"torch._tensor", "_rebuild_from_type_v2"}, {"torch._tensor", "_rebuild_from_type"}, {"torch.tensor", "_rebuild_from_type"}}};

bool is_any(const Pickle& pickle, const PickleValue& v, std::span<const Wrapper> names) {
  return std::ranges::any_of(names, [&](const Wrapper& w) { return pickle.is_global(v, w.module, w.name); });
}

// No size is zero.
bool row_major(std::span<const int64_t> sizes, std::span<const int64_t> strides) {
  int64_t dense = 1;
  for (size_t i = sizes.size(); i > 0; --i) {
    if (sizes[i - 1] != 1 && strides[i - 1] != dense) return false;
    dense *= sizes[i - 1];
  }
  return true;
}

// How `function` makes a tensor from its arguments; nullopt when it makes none.
std::optional<TorchTensors::Rebuild> rebuild_by(const Pickle& pickle, const PickleValue& function, std::span<const PickleValue> args) {
  if (pickle.is_global(function, kUtils, "_rebuild_tensor_v2") || pickle.is_global(function, kUtils, "_rebuild_tensor"))
    return TorchTensors::Rebuild{args, false, {}};
  if (pickle.is_global(function, kUtils, "_rebuild_tensor_v3")) return TorchTensors::Rebuild{args, true, {}};
  if (function.kind != Kind::kGlobal || pickle[function].head.str() != kUtils) return std::nullopt;
  const std::string_view name = pickle[function].args.str();
  if (!name.starts_with("_rebuild_") || is_any(pickle, function, kWrappers)) return std::nullopt;
  return TorchTensors::Rebuild{args, false, name};
}

}  // namespace

std::optional<size_t> torch_storage_element_size(std::string_view storage) {
  for (const TorchType& t : kTorchTypes)
    if (!storage.empty() && t.storage == storage) return t.size;
  return std::nullopt;
}

std::span<const PickleValue> call_arguments(const Pickle& pickle, const PickleValue& call) {
  const PickleValue& args = pickle[call].args;
  return args.kind == Kind::kTuple ? std::span<const PickleValue>(pickle[args].items) : std::span<const PickleValue>();
}

TorchTensors::TorchTensors(const std::string& path, const Pickle& pickle, Storages storages)
    : path_(path), pickle_(pickle), source_(std::move(storages)) {}

void TorchTensors::broken(const std::string& name, std::string_view what) const {
  fail("'{}': tensor {} {}", path_, printable(name), what);
}

bool TorchTensors::calls(const PickleValue& call, std::string_view module, std::string_view name) const {
  return call.kind == Kind::kCall && pickle_.is_global(pickle_[call].head, module, name);
}

std::optional<TorchTensors::Rebuild> TorchTensors::find(PickleValue v) const {
  for (int wrappers = 0; v.kind == Kind::kCall; ++wrappers) {
    require(wrappers < kMaxWrappers, "'{}': a tensor in it is nested more than {} levels deep", path_, kMaxWrappers);
    const PickleValue& function = pickle_[v].head;
    const std::span<const PickleValue> args = call_arguments(pickle_, v);
    if (auto rebuild = rebuild_by(pickle_, function, args)) return rebuild;
    if (is_any(pickle_, function, kFromType)) {
      if (args.size() < 3 || args[2].kind != Kind::kTuple) return std::nullopt;
      if (auto rebuild = rebuild_by(pickle_, args[0], pickle_[args[2]].items)) return rebuild;
      if (!is_any(pickle_, args[0], kWrappers) || pickle_[args[2]].items.empty()) return std::nullopt;
      v = pickle_[args[2]].items[0];
    } else if (is_any(pickle_, function, kWrappers) && !args.empty()) {
      v = args[0];
    } else {
      return std::nullopt;
    }
  }
  return std::nullopt;
}

// A tuple of sizes or strides, bare or as torch.Size.
std::vector<int64_t> TorchTensors::integers(const std::string& name, PickleValue v) const {
  if (calls(v, "torch", "Size") && !call_arguments(pickle_, v).empty()) v = call_arguments(pickle_, v)[0];
  if (v.kind != Kind::kTuple && v.kind != Kind::kList) broken(name, "has no shape");
  std::vector<int64_t> out;
  const auto& items = pickle_[v].items;
  if (items.size() > Shape::kMaxRank)
    broken(name, fmt::format("has {} dimensions; at most {} are supported", items.size(), Shape::kMaxRank));
  for (const PickleValue& i : items) {
    if (i.kind != Kind::kInt || i.integer < 0) broken(name, "has a size or stride that is not a natural number");
    out.push_back(i.integer);
  }
  return out;
}

StoredType TorchTensors::element_type(const std::string& name, const PickleValue& v, bool storage) const {
  for (const TorchType& t : kTorchTypes) {
    const std::string_view wanted = storage ? t.storage : t.dtype;
    if (t.type && !wanted.empty() && (pickle_.is_global(v, "torch", wanted) || pickle_.is_global(v, "torch.cuda", wanted))) return *t.type;
  }
  broken(name, fmt::format("has the element type {}, which is not supported", printable(pickle_.global_name(v))));
}

// id: ("storage", type, key, location, elements, view); view: None or, before 0.4, (key, first element, elements).
FilePart TorchTensors::storage(const std::string& name, std::span<const PickleValue> id, StoredType type) {
  const auto [it, is_new] = storages_.try_emplace(std::string(id[2].str()));
  if (is_new) it->second = source_(it->first);
  FilePart part = it->second;
  if (id.size() < 6 || id[5].kind != Kind::kTuple) return part;
  const std::span<const PickleValue> view = pickle_[id[5]].items;
  const auto held = static_cast<int64_t>(part.span.size() / size_of(type));
  const bool natural = view.size() == 3 && view[1].kind == Kind::kInt && view[2].kind == Kind::kInt && view[1].integer >= 0 && view[2].integer >= 0;
  if (!natural || view[1].integer > held || view[2].integer > held - view[1].integer) broken(name, "has a view beyond its storage");
  part.span = part.span.subspan(static_cast<size_t>(view[1].integer) * size_of(type), static_cast<size_t>(view[2].integer) * size_of(type));
  return part;
}

// args: (storage, offset, size, stride, ...).
WeightTensor TorchTensors::read(std::string name, const Rebuild& rebuild) {
  if (!rebuild.unsupported.empty())
    broken(name, fmt::format("is made by torch._utils.{}: quantised, sparse and other special tensors are not supported", printable(rebuild.unsupported)));
  const auto args = rebuild.args;
  if (args.size() < (rebuild.has_dtype ? 7u : 4u) || args[0].kind != Kind::kPersistent || args[1].kind != Kind::kInt)
    broken(name, "is not described as torch.save does it");
  const PickleValue id = pickle_[args[0]].args;
  const auto parts = id.kind == Kind::kTuple ? std::span<const PickleValue>(pickle_[id].items) : std::span<const PickleValue>();
  if (parts.size() < 5 || parts[0].str() != "storage" || parts[2].kind != Kind::kText || parts[2].length == 0)
    broken(name, "has a storage that is not described as torch.save does it");
  const StoredType type = rebuild.has_dtype ? element_type(name, args[6], false) : element_type(name, parts[1], true);

  const std::vector<int64_t> sizes = integers(name, args[2]), strides = integers(name, args[3]);
  if (sizes.size() != strides.size()) broken(name, "has another number of strides than dimensions");
  const Shape shape(sizes);
  int64_t elements = 1, last = args[1].integer;
  bool overflow = last < 0;
  for (int64_t d : sizes) overflow = __builtin_mul_overflow(elements, d, &elements) || overflow;
  for (size_t i = 0; i < sizes.size() && elements != 0; ++i) {
    int64_t reach = 0;
    overflow = __builtin_mul_overflow(sizes[i] - 1, strides[i], &reach) || __builtin_add_overflow(last, reach, &last) || overflow;
  }
  if (overflow) broken(name, fmt::format("has an offset, shape {} or strides that overflow 64 bits", shape));

  const std::byte* data = nullptr;
  bool mapped = false;
  if (elements != 0) {
    const FilePart part = storage(name, parts, type);
    const auto held = static_cast<int64_t>(part.span.size() / size_of(type));
    if (last >= held)
      broken(name, fmt::format("reaches element {} of its storage, which holds {}; the file may be damaged", last, held));
    // Views may repeat elements, but not so that few bytes describe a huge tensor.
    if (elements > std::max(held, kMostRepeated))
      broken(name, fmt::format("repeats the {} elements of its storage to {}; save it with .contiguous()", held, elements));
    mapped = part.mapped;
    data = part.span.data() + static_cast<size_t>(args[1].integer) * size_of(type);
  }
  return {std::move(name), type, shape, data, elements == 0 || row_major(sizes, strides) ? std::vector<int64_t>() : strides, mapped};
}

std::shared_ptr<const void> TorchTensors::take_memory() {
  return std::make_shared<std::unordered_map<std::string, FilePart>>(std::move(storages_));
}

}  // namespace fovea
