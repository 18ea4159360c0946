#include "weights/torch_zip.h"

#include <algorithm>
#include <array>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "core/check.h"
#include "weights/pickle.h"

namespace fovea {

namespace {

using Kind = PickleValue::Kind;

constexpr int kMaxDepth = 64;
constexpr int64_t kMaxSteps = int64_t{1} << 21;

// Where a checkpoint keeps the weights, by preference.
constexpr std::array<std::string_view, 8> kEntries{"state_dict_ema", "model_ema", "state_dict", "model_state_dict",
                                                   "model_state", "model", "net", "module"};
constexpr std::array<std::string_view, 2> kPrefixes{"module.", "_orig_mod."};

struct TypeName {
  std::string_view storage, dtype;
  StoredType type;
};
constexpr std::array<TypeName, 13> kTypeNames{{{"FloatStorage", "float32", StoredType::kF32},
                                               {"DoubleStorage", "float64", StoredType::kF64},
                                               {"HalfStorage", "float16", StoredType::kF16},
                                               {"BFloat16Storage", "bfloat16", StoredType::kBF16},
                                               {"LongStorage", "int64", StoredType::kI64},
                                               {"IntStorage", "int32", StoredType::kI32},
                                               {"ShortStorage", "int16", StoredType::kI16},
                                               {"CharStorage", "int8", StoredType::kI8},
                                               {"ByteStorage", "uint8", StoredType::kU8},
                                               {"BoolStorage", "bool", StoredType::kBool},
                                               {"", "uint16", StoredType::kU16},
                                               {"", "uint32", StoredType::kU32},
                                               {"", "uint64", StoredType::kU64}}};

// The reader proper: interprets the data of one pickle.
class ZipReader {
 public:
  ZipReader(ZipArchive& zip, std::string folder, const Pickle& pickle)
      : path_(zip.path()), zip_(zip), folder_(std::move(folder)), pickle_(pickle) {}

  WeightFile run() {
    PickleValue root = pickle_.root;
    collect_settings(root);
    std::string entry;
    while (const PickleValue* inner = wrapped(root, entry)) {
      root = *inner;
      collect_settings(root);
    }
    if (!entry.empty()) metadata_["torch.entry"] = entry;
    visit(root, "", 0);
    require(!tensors_.empty(), "'{}' holds no tensors that can be read{}; save model.state_dict() instead", path_,
            root.kind == Kind::kCall ? fmt::format(" (its content is a pickled {})", printable(pickle_.global_name(pickle_[root].head)))
                                     : "");
    for (std::string_view prefix : kPrefixes)
      while (std::ranges::all_of(tensors_, [&](const WeightTensor& t) { return t.name.size() > prefix.size() && t.name.starts_with(prefix); }))
        for (WeightTensor& t : tensors_) t.name.erase(0, prefix.size());
    auto memory = std::make_shared<Storages>(std::move(storages_));
    return WeightFile(path_, "PyTorch zip", std::move(tensors_), std::move(metadata_), std::move(memory));
  }

 private:
  using Storages = std::unordered_map<std::string, ZipArchive::Bytes>;

  // Counts every value looked at: shared parts can make a small pickle describe a huge tree.
  void step(int depth) {
    require(depth <= kMaxDepth, "'{}': its content is nested more than {} levels deep", path_, kMaxDepth);
    require(++steps_ <= kMaxSteps, "'{}': its content has more than {} values", path_, kMaxSteps);
  }

  std::span<const PickleValue> arguments(const PickleValue& call) const {
    const PickleValue& args = pickle_[call].args;
    return args.kind == Kind::kTuple ? std::span<const PickleValue>(pickle_[args].items) : std::span<const PickleValue>();
  }

  bool calls(const PickleValue& v, std::string_view module, std::string_view name) const {
    return v.kind == Kind::kCall && pickle_.is_global(pickle_[v].head, module, name);
  }

  // Follows parameters and tensor subclasses to the rebuild call of the plain tensor; nullopt when v is no tensor.
  struct Rebuild {
    std::span<const PickleValue> args;
    bool has_dtype = false;  // _v3: the element type is args[6], the storage is untyped
  };
  std::optional<Rebuild> tensor(PickleValue v, int depth) {
    constexpr std::string_view kUtils = "torch._utils";
    while (v.kind == Kind::kCall) {
      step(depth++);
      const std::span<const PickleValue> args = arguments(v);
      const PickleValue& head = pickle_[v].head;
      if (pickle_.is_global(head, kUtils, "_rebuild_tensor_v2") || pickle_.is_global(head, kUtils, "_rebuild_tensor"))
        return Rebuild{args, false};
      if (pickle_.is_global(head, kUtils, "_rebuild_tensor_v3")) return Rebuild{args, true};
      if (args.empty()) return std::nullopt;
      if (pickle_.is_global(head, kUtils, "_rebuild_parameter") || pickle_.is_global(head, kUtils, "_rebuild_parameter_with_state")) {
        v = args[0];
      } else if (pickle_.is_global(head, "torch._tensor", "_rebuild_from_type_v2") && args.size() >= 3 && args[2].kind == Kind::kTuple) {
        if (pickle_.is_global(args[0], kUtils, "_rebuild_tensor_v2")) return Rebuild{pickle_[args[2]].items, false};
        return std::nullopt;
      } else {
        return std::nullopt;
      }
    }
    return std::nullopt;
  }

  // A dict, or an object of a class derived from one: keys and values alternate.
  std::span<const PickleValue> pairs(const PickleValue& v) const {
    if (v.kind != Kind::kDict && v.kind != Kind::kCall) return {};
    const auto& items = pickle_[v].items;
    return {items.data(), items.size() / 2 * 2};
  }

  const PickleValue* lookup(const PickleValue& v, std::string_view key) const {
    const PickleValue* found = nullptr;
    const auto p = pairs(v);
    for (size_t i = 0; i < p.size(); i += 2)
      if (p[i].str() == key) found = &p[i + 1];  // the last one wins, as in Python
    return found;
  }

  // The dict behind an attribute of a pickled module.
  const PickleValue* attribute(const PickleValue& v, std::string_view key) const {
    return v.kind == Kind::kCall && pickle_[v].state.kind == Kind::kDict ? lookup(pickle_[v].state, key) : nullptr;
  }

  bool holds_tensor(const PickleValue& v, int depth) {
    step(depth);
    if (tensor(v, depth)) return true;
    const auto p = pairs(v);
    for (size_t i = 0; i < p.size(); i += 2)
      if (holds_tensor(p[i + 1], depth + 1)) return true;
    for (std::string_view part : kModuleParts)
      if (const PickleValue* inner = attribute(v, part); inner != nullptr && holds_tensor(*inner, depth + 1)) return true;
    return false;
  }

  // The entry of `root` that holds the weights, or nullptr when root itself does.
  const PickleValue* wrapped(const PickleValue& root, std::string& entry) {
    const auto p = pairs(root);
    for (size_t i = 0; i < p.size(); i += 2)
      if (tensor(p[i + 1], 0)) return nullptr;
    for (std::string_view key : kEntries) {
      const PickleValue* inner = lookup(root, key);
      if (inner == nullptr || !holds_tensor(*inner, 0)) continue;
      step(static_cast<int>(std::ranges::count(entry, '.')));  // a cycle of wrappers ends here
      entry += entry.empty() ? key : fmt::format(".{}", key);
      return inner;
    }
    return nullptr;
  }

  void collect_settings(const PickleValue& root) {
    constexpr size_t kLongest = 4096;
    const auto p = pairs(root);
    for (size_t i = 0; i < p.size(); i += 2) {
      if (p[i].kind != Kind::kText || p[i].length > kLongest) continue;
      const PickleValue& v = p[i + 1];
      std::string& text = metadata_[fmt::format("torch.{}", p[i].str())];
      if (v.kind == Kind::kInt) text = fmt::format("{}", v.integer);
      else if (v.kind == Kind::kBool) text = v.integer != 0 ? "True" : "False";
      else if (v.kind == Kind::kFloat) text = fmt::format("{}", v.real);
      else if (v.kind == Kind::kText && v.length <= kLongest) text = std::string(v.str());
      else metadata_.erase(fmt::format("torch.{}", p[i].str()));
    }
  }

  static std::string join(const std::string& prefix, std::string_view key) {
    return prefix.empty() ? std::string(key) : fmt::format("{}.{}", prefix, key);
  }

  // Collects the tensors below v under dotted names.
  void visit(const PickleValue& v, const std::string& name, int depth) {
    step(depth);
    if (const auto rebuild = tensor(v, depth)) return add(name, *rebuild);
    // A key given twice counts once, with its last value.
    const auto p = pairs(v);
    std::unordered_map<std::string_view, size_t> last;
    for (size_t i = 0; i < p.size(); i += 2)
      if (p[i].kind == Kind::kText) last[p[i].str()] = i;
    for (size_t i = 0; i < p.size(); i += 2) {
      if (p[i].kind == Kind::kInt) visit(p[i + 1], join(name, std::to_string(p[i].integer)), depth + 1);
      if (p[i].kind == Kind::kText && last[p[i].str()] == i) visit(p[i + 1], join(name, p[i].str()), depth + 1);
    }
    if (v.kind == Kind::kTuple || v.kind == Kind::kList)
      for (size_t i = 0; i < pickle_[v].items.size(); ++i) visit(pickle_[v].items[i], join(name, std::to_string(i)), depth + 1);
    for (std::string_view part : kModuleParts)
      if (const PickleValue* inner = attribute(v, part)) visit(*inner, name, depth + 1);
  }

  [[noreturn]] void broken(const std::string& name, std::string_view what) const {
    fail("'{}': tensor {} {}", path_, printable(name), what);
  }

  // A tuple of sizes or strides, bare or as torch.Size.
  std::vector<int64_t> integers(const std::string& name, PickleValue v) const {
    if (calls(v, "torch", "Size") && !arguments(v).empty()) v = arguments(v)[0];
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

  StoredType element_type(const std::string& name, const PickleValue& v, bool storage) const {
    for (const TypeName& t : kTypeNames) {
      const std::string_view wanted = storage ? t.storage : t.dtype;
      if (!wanted.empty() && (pickle_.is_global(v, "torch", wanted) || pickle_.is_global(v, "torch.cuda", wanted))) return t.type;
    }
    broken(name, fmt::format("has the element type {}, which is not supported", printable(pickle_.global_name(v))));
  }

  const ZipArchive::Bytes& storage(std::string_view key) {
    const auto [it, is_new] = storages_.try_emplace(std::string(key));
    if (is_new) it->second = zip_.read(fmt::format("{}data/{}", folder_, key));
    return it->second;
  }

  // args: (storage, offset, size, stride, ...); the storage's persistent id: ("storage", type, key, location, elements).
  void add(const std::string& name, const Rebuild& rebuild) {
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
      const ZipArchive::Bytes& bytes = storage(parts[2].str());
      const auto held = static_cast<int64_t>(bytes.span.size() / size_of(type));
      if (last >= held)
        broken(name, fmt::format("reaches element {} of its storage, which holds {}; the file may be damaged", last, held));
      mapped = bytes.mapped;
      data = bytes.span.data() + static_cast<size_t>(args[1].integer) * size_of(type);
    }
    int64_t dense = 1;
    bool contiguous = true;
    for (size_t i = sizes.size(); i > 0; --i) {
      contiguous = contiguous && (sizes[i - 1] == 1 || strides[i - 1] == dense);
      dense *= sizes[i - 1];
    }
    tensors_.push_back({name, type, shape, data, contiguous || elements == 0 ? std::vector<int64_t>() : strides, mapped});
  }

  static constexpr std::array<std::string_view, 3> kModuleParts{"_parameters", "_buffers", "_modules"};

  const std::string& path_;
  ZipArchive& zip_;
  std::string folder_;
  const Pickle& pickle_;
  int64_t steps_ = 0;
  Storages storages_;
  std::vector<WeightTensor> tensors_;
  WeightFile::Metadata metadata_;
};

}  // namespace

WeightFile read_torch_zip(ZipArchive& zip) {
  const std::string& path = zip.path();
  std::string folder;
  bool found = false;
  for (const std::string& name : zip.names()) {
    if (!name.ends_with("data.pkl")) continue;
    const std::string before = name.substr(0, name.size() - std::string_view("data.pkl").size());
    if (before.empty() || before.find('/') == before.size() - 1) {
      folder = before;
      found = true;
      break;
    }
  }
  require(found, "'{}' is a zip archive, but neither what torch.save writes (no data.pkl in it) nor a NumPy .npz (no .npy)", path);
  require(!zip.has(folder + "constants.pkl"), "'{}' is a TorchScript program; save its state_dict() with torch.save instead", path);
  if (zip.has(folder + "byteorder")) {
    const ZipArchive::Bytes order = zip.read(folder + "byteorder");
    const std::string_view text(reinterpret_cast<const char*>(order.span.data()), order.span.size());
    require(text == "little", "'{}' has the byte order {}; only little is supported", path, printable(text));
  }
  const ZipArchive::Bytes stream = zip.read(folder + "data.pkl");
  const Pickle pickle = parse_pickle(stream.span, fmt::format("'{}'", path));
  return ZipReader(zip, folder, pickle).run();
}

}  // namespace fovea
