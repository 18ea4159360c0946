#include "tasks/convert_dialect.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <optional>
#include <unordered_map>

#include "core/convert.h"
#include "fovea/info.h"
#include "tasks/checkpoint.h"
#include "tasks/home_config.h"
#include "tasks/load_model.h"
#include "tasks/stranger_config.h"
#include "weights/safetensors.h"

namespace fovea {

namespace {

// Tensors and the memory that they lie in.
struct Store {
  std::vector<WeightTensor> tensors;
  std::vector<Buffer> memory;

  std::byte* reserve(size_t bytes) { return static_cast<std::byte*>(memory.emplace_back(std::max<size_t>(bytes, 1)).data()); }
};

bool plain(const MappedTensor& t) { return t.parts.size() == 1 && t.parts[0].strides.empty() && !t.scale; }

bool one_type(const MappedTensor& t) {
  return std::all_of(t.parts.begin(), t.parts.end(), [&](const WeightTensor& p) { return p.type == t.parts[0].type; });
}

// The elements of `t`, which has parts or strides, side by side: as they are stored, or in f32 what is stored in several ways.
void add_contiguous(const MappedTensor& t, Store& store) {
  if (plain(t)) {
    WeightTensor w = t.parts[0];
    w.name = t.name;
    w.shape = t.shape;
    store.tensors.push_back(std::move(w));
    return;
  }
  const bool as_stored = one_type(t) && !t.scale;
  const StoredType type = as_stored ? t.parts[0].type : StoredType::kF32;
  std::byte* to = store.reserve(static_cast<size_t>(t.shape.elements()) * size_of(type));
  store.tensors.push_back({t.name, type, t.shape, to, {}});
  if (!as_stored) {
    t.read(reinterpret_cast<float*>(to));
    return;
  }
  for (const WeightTensor& part : t.parts) {
    part.copy(to);
    to += part.elements() * static_cast<int64_t>(size_of(type));
  }
}

// The model's parameters in its own order, under our names.
Store parameters_of(const std::string& model, const LoadOptions& load, OpenedModel& opened) {
  Store store;
  if (opened.file.tensors().empty()) {
    opened.loaded = load_model(model, load, DType::kF32);
    for (const Param& p : opened.loaded.classifier->params().params())
      store.tensors.push_back({p.name, StoredType::kF32, p.shape, static_cast<const std::byte*>(p.value.data), {}});
    return store;
  }
  std::unordered_map<std::string_view, const MappedTensor*> by_name;
  for (const MappedTensor& t : opened.weights.tensors) by_name.emplace(t.name, &t);
  for (const Param& p : opened.loaded.classifier->params().params()) add_contiguous(*by_name.at(p.name), store);
  return store;
}

DType dtype_to_write(const std::string& dtype) {
  for (const DType t : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16})
    if (name_of(t) == dtype) return t;
  fail("--dtype {}: under another code base's names weights are f64, f32, f16 or bf16", dtype);
}

// Brings every tensor to `type`. Throws Error when a value does not fit.
void change_type(Store& store, DType type) {
  for (WeightTensor& t : store.tensors) {
    if (t.type == *stored_type_of(type)) continue;
    std::vector<double> values(static_cast<size_t>(t.elements()));
    t.read(values.data());
    const Tensor to(store.reserve(values.size() * size_of(type)), t.shape, type);
    convert(ConstTensor(values.data(), t.shape, DType::kF64), to);
    for (int64_t i = 0; i < to.elements(); ++i)
      require(std::isfinite(load_scalar(to, i)) || !std::isfinite(values[static_cast<size_t>(i)]), "{} has the value {}, which {} cannot hold; choose another --dtype",
              printable(t.name), values[static_cast<size_t>(i)], name_of(type));
    t = {t.name, *stored_type_of(type), t.shape, static_cast<const std::byte*>(to.data), {}};
  }
}

// What is written must come back as what it was made of.
void require_same(const WeightFile& written, const Store& ours, const Dialect& dialect, const std::string& model) {
  const auto again = recognise(written);
  const std::string cannot = fmt::format("'{}' cannot be written as {}: ", model, dialect.name);
  require(again && again->dialect == &dialect && again->prefix.empty(), "{}a file with its names would be taken for {}", cannot,
          again ? again->dialect->name : "no model at all");
  const MappedWeights mapped = map_keys(written, *again);
  std::unordered_map<std::string_view, const MappedTensor*> by_name;
  for (const MappedTensor& t : mapped.tensors) by_name.emplace(t.name, &t);
  for (const WeightTensor& t : ours.tensors) {
    const auto at = by_name.find(t.name);
    require(at != by_name.end() && at->second->shape == t.shape, "{}{} would not come back from it", cannot, printable(t.name));
    Store back;
    add_contiguous(*at->second, back);
    const WeightTensor& b = back.tensors[0];
    require(b.type == t.type && std::memcmp(b.data, t.data, static_cast<size_t>(t.elements()) * size_of(t.type)) == 0,
            "{}{} would come back with other values", cannot, printable(t.name));
  }
  require(mapped.tensors.size() == ours.tensors.size() && mapped.unmatched.empty(), "{}it would come back with more tensors than it has", cannot);
}

// A model in a dialect. Throws Error when the dialect cannot express it.
struct Written {
  const Dialect* dialect;
  Store store;
  std::vector<ConstantTensor> constants;  // whose data the store refers to
};

Written write_checked(const Dialect& dialect, const Store& ours, const RecognisedModel& facts, const std::string& model) {
  Written w{&dialect, {}, {}};
  for (const MappedTensor& t : write_as(dialect, ours.tensors, facts)) add_contiguous(t, w.store);
  if (dialect.constants != nullptr) w.constants = dialect.constants(facts);
  for (const ConstantTensor& c : w.constants) w.store.tensors.push_back({c.name, c.type, c.shape, c.data.data(), {}});
  require_same(WeightFile("what is written", "memory", w.store.tensors, {}, nullptr), ours, dialect, model);
  return w;
}

DType dtype_of_stored(StoredType t) {
  for (const DType d : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16, DType::kI64, DType::kI32, DType::kI8, DType::kU8})
    if (stored_type_of(d) == t) return d;
  fail("weights of the type {} cannot be written; choose --dtype", name_of(t));
}

}  // namespace

Conversion convert_to_dialect(const std::string& model, const std::string& out, const ConvertOptions& options) {
  LoadOptions load;
  load.set = options.set;
  load.height = options.height;
  load.width = options.width;
  load.seed = options.seed;
  OpenedModel opened = open_model(model, load);
  const ModelConfig config = opened.loaded.classifier->config();
  const RecognisedModel facts = facts_of(config);
  const std::vector<const Dialect*> candidates = dialects_named(options.to, facts.kind);
  Store ours = parameters_of(model, load, opened);
  if (options.dtype != "auto") change_type(ours, dtype_to_write(options.dtype));

  std::optional<Written> written;
  std::string reasons;
  for (const Dialect* d : candidates) {
    try {
      written.emplace(write_checked(*d, ours, facts, model));
      break;
    } catch (const Error& e) {
      reasons += (reasons.empty() ? "" : "; ") + std::string(e.what());
    }
  }
  require(written.has_value(), "{}", reasons);
  const Dialect& dialect = *written->dialect;

  Conversion r;
  r.source = opened.loaded.source;
  r.from_dtype = opened.loaded.dtype;
  r.out = out;
  r.dtype = options.dtype != "auto" ? options.dtype : opened.loaded.dtype == "int8" ? "f32" : opened.loaded.dtype;
  r.dialect = std::string(dialect.name);
  r.parameters = opened.loaded.classifier->params().count();
  r.assumed = opened.loaded.assumed;
  r.left_out = opened.loaded.left_out;
  Metadata metadata = opened.loaded.metadata;
  metadata.erase(kTrainingStateKey);
  metadata["format"] = "pt";
  metadata["fovea.dtype"] = r.dtype;
  metadata["fovea.version"] = version();
  metadata[kForeignConfigKey] = to_json(config);
  std::vector<TensorToWrite> tensors;
  for (const WeightTensor& t : written->store.tensors) tensors.push_back({t.name, dtype_of_stored(t.type), t.shape, t.data});
  if (const auto text = home_config(dialect.name, config)) {
    r.beside = (std::filesystem::path(out).parent_path() / "config.json").string();
    write_beside(r.beside, *text);
  }
  write_safetensors(out, tensors, metadata);
  r.bytes = static_cast<int64_t>(std::filesystem::file_size(out));
  return r;
}

}  // namespace fovea
