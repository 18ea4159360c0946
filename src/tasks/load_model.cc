#include "tasks/load_model.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include "core/text.h"
#include "ops/pack_weights.h"
#include "tasks/facts.h"
#include "tasks/param_sources.h"
#include "tasks/stranger_config.h"
#include "weights/int8_rows.h"
#include "weights/sharded.h"
#include "weights/strict_load.h"

namespace fovea {

namespace {

namespace fs = std::filesystem;

constexpr const char* kConfigKey = "fovea.config";
constexpr std::string_view kTrainingState = "optimizer.";  // tensors of our own files that are no weights

// Input sizes are kept apart from the other settings: they shape the position table of a preset, not that of a file.
struct Request {
  Settings settings;
  int64_t height = 0, width = 0;
};

int64_t pixels(const std::string& key, const std::string& value) {
  ModelConfig c;
  set_option(c, key, value);
  const int64_t size = key == "height" ? c.input.height : c.input.width;
  require(size > 0 && size <= 16384, "--set {}={}: image sizes are 1 to 16384", key, value);
  return size;
}

Request request_of(const LoadOptions& options) {
  Request r;
  for (const auto& [key, value] : options.set) {
    if (key == "height") r.height = pixels(key, value);
    else if (key == "width") r.width = pixels(key, value);
    else r.settings.emplace_back(key, value);
  }
  if (options.height > 0) r.height = options.height;
  if (options.width > 0) r.width = options.width;
  if (r.height == 0) r.height = r.width;
  if (r.width == 0) r.width = r.height;
  require(r.height >= 0 && r.width >= 0 && r.height <= 16384 && r.width <= 16384, "the image size {}x{} is out of range (1 to 16384)",
          r.height, r.width);
  return r;
}

void set_size(LoadedModel& loaded, const Request& request) {
  const InputConfig& input = loaded.classifier->config().input;
  loaded.height = request.height > 0 ? request.height : input.height;
  loaded.width = request.width > 0 ? request.width : input.width;
  const auto reasons = loaded.classifier->backbone().unsupported(loaded.height, loaded.width);
  require(reasons.empty(), "{} cannot take images of {}x{}: {}", loaded.classifier->config().name, loaded.height, loaded.width,
          fmt::join(reasons, "; "));
}

// What becomes of the parameters: plain values, or what an inference reads.
struct Target {
  DType dtype;
  Context* inference = nullptr;
  std::string products = "f32";  // of the inference; "auto": int8 for a source in int8
};

void fill(LoadedModel& loaded, ParamSource& source, const Target& target) {
  ParamStore& params = loaded.classifier->params();
  if (target.inference) {
    loaded.type = target.products == "auto" && loaded.dtype == "int8" ? ProductType::kInt8 : product_type(target.products);
    params.allocate_for_inference(target.dtype);
    pack_from(source, params, *target.inference, loaded.type);
    return;
  }
  params.allocate(target.dtype, ParamStore::Gradients::kNo);
  ThreadPool pool(0);
  for (Param& p : params.params()) {
    source.read(p, p.value, pool);
    source.done(p);
  }
}

// Memory is taken only for what the file is known to hold.
void require_all(const Classifier& classifier, const MappedWeights& weights, const WeightFile& file, const Dialect* dialect) {
  std::vector<WantedTensor> wanted;
  for (const Param& p : classifier.params().params()) wanted.push_back({p.name, p.shape});
  require_match(wanted, weights, classifier.config().name.empty() ? "the model" : classifier.config().name,
                [&] {
                  const bool positions_alone = dialect != nullptr && dialect->name == "timm" && classifier.config().family == "vit" && weights.find("pos_embed") == nullptr;
                  if (positions_alone) return std::string("; a ViT that was built without positions (timm's pos_embed='none') is loaded with --set positions=false");
                  return dialect == nullptr ? std::string() : nearly(file, dialect);
                });
}

// "decoder.* (24 tensors)" for each first word of the names, or for the first two where the model itself has the first.
std::vector<std::string> left_out(const MappedWeights& weights) {
  std::set<std::string, std::less<>> own;
  const auto words = [](const std::string& name, size_t from) { return name.find('.', from); };
  for (const MappedTensor& t : weights.tensors)
    for (const WeightTensor& part : t.parts) own.insert(part.name.substr(0, words(part.name, 0)));
  std::vector<std::pair<std::string, int64_t>> groups;
  for (const std::string& name : weights.beside) {
    size_t dot = words(name, 0);
    if (dot != std::string::npos && own.contains(std::string_view(name).substr(0, dot))) dot = words(name, dot + 1);
    const std::string group = dot == std::string::npos ? name : name.substr(0, dot) + ".*";
    const auto at = std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return g.first == group; });
    if (at == groups.end()) groups.emplace_back(group, 1);
    else ++at->second;
  }
  std::vector<std::string> out;
  for (const auto& [group, count] : groups)
    out.push_back(count == 1 ? printable(group) : fmt::format("{} ({} tensors)", printable(group), count));
  return out;
}

OpenedModel open_preset(ModelConfig config, const LoadOptions& options, const Request& request) {
  if (!options.attention.empty()) config.attention = options.attention;
  apply_settings(config, request.settings);
  if (request.height > 0) {
    config.input.height = request.height;
    config.input.width = request.width;
  }
  validate(config);
  OpenedModel opened;
  LoadedModel& loaded = opened.loaded;
  loaded.source = "preset (random weights)";
  loaded.dialect = "fovea";
  loaded.classifier = std::make_unique<Classifier>(config);
  set_size(loaded, request);
  loaded.dtype = "f32";
  return opened;
}

// Of our own files: the scales beside weights in int8, and whether `t` is such scales.
std::optional<WeightTensor> int8_scale(const WeightFile& file, const WeightTensor& t) {
  if (t.type != StoredType::kI8) return std::nullopt;
  const WeightTensor* scale = file.find(int8_scale_name(t.name));
  const bool fits = scale && scale->type == StoredType::kF32 && t.shape.rank() > 0 && scale->shape == Shape{t.shape[0]};
  require(fits, "'{}': {} is in int8 but has no scale of each output beside it; convert the original again", file.path(), printable(t.name));
  return *scale;
}
bool scales_integers(const WeightFile& file, const WeightTensor& t) {
  if (!t.name.ends_with(kInt8ScaleSuffix)) return false;
  const WeightTensor* weight = file.find(std::string_view(t.name).substr(0, t.name.size() - kInt8ScaleSuffix.size()));
  return weight && weight->type == StoredType::kI8;
}

MappedWeights own_weights(const WeightFile& file) {
  MappedWeights w;
  w.path = file.path();
  for (const WeightTensor& t : file.tensors()) {
    if (t.name.starts_with(kTrainingState)) w.ignored.push_back(t.name);
    else if (!scales_integers(file, t)) w.tensors.push_back({t.name, t.shape, {t}, int8_scale(file, t)});
  }
  return w;
}

// int8 where there are such weights, else the type of most of the elements.
std::string stored_dtype(const MappedWeights& weights) {
  std::map<std::string, int64_t> elements;
  for (const MappedTensor& t : weights.tensors) {
    if (t.scale) return "int8";
    for (const WeightTensor& part : t.parts) elements[std::string(name_of(part.type))] += part.elements();
  }
  const auto most = std::max_element(elements.begin(), elements.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  std::string name = most == elements.end() ? "f32" : most->first;
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name;
}

// With pool=avg a dialect whose last norm follows the pooling has what we call fc_norm.
void rename_last_norm(MappedWeights& weights, const ModelConfig& config) {
  if (config.hierarchical() || !config.norms_pooled() || weights.find("fc_norm.weight")) return;
  for (MappedTensor& t : weights.tensors)
    if (t.name == "norm.weight" || t.name == "norm.bias") t.name = "fc_" + t.name;
}

// What `convert` put beside names that are not ours: what those names and shapes cannot tell. The rest follows from the dialect, whose
// home may treat other sizes in its own way.
struct ToldConfig {
  Settings settings;
  std::pair<int64_t, int64_t> size;
  std::vector<std::string> class_names;
};

std::optional<ToldConfig> told_beside_names(const WeightFile& file, const RecognisedModel& model) {
  const auto at = file.metadata().find(kForeignConfigKey);
  if (at == file.metadata().end()) return std::nullopt;
  const ModelConfig c = config_from_json(at->second, file.path());
  ToldConfig told{{}, {c.input.height, c.input.width}, c.class_names};
  for (const auto& [key, value] : settings_of(c, {"mean", "std", "crop", "resize_size", "interpolation", "resize", "crop_rounding", "norm_epsilon", "positions"}))
    if (!value.empty()) told.settings.emplace_back(key, value);
  const bool stripes = model.kind == "cswin", windows = is_unknown(model, "window_sizes");
  const char* heads = c.hierarchical() ? "stage_heads" : "heads";
  for (const auto& [key, value] : settings_of(c, {heads, "attention", "activation", "pool", "pool_prefix", "block_norm"})) {
    if (key == "attention" && !stripes && !windows) continue;
    if ((key == heads && !is_assumed(model, "num_heads") && !is_unknown(model, "num_heads")) || (key == "pool" && !is_assumed(model, "pool"))) continue;
    told.settings.emplace_back(key, value);
  }
  return told;
}

// The settings for a file's model: windows lack nothing.
Settings completed(const ModelConfig& config, Settings settings) {
  for (auto& [key, value] : settings)
    if (key == "attention") value = complete_windows(config, value);
  return settings;
}

OpenedModel open_file(const std::string& path, const LoadOptions& options, Request request, const std::string& untold_attention) {
  require(options.attention.empty(), "'{}' holds weights of one attention; another one (--attention) can be chosen for a preset only", path);
  OpenedModel opened;
  opened.file = open_weights(path);
  const WeightFile& file = opened.file;
  LoadedModel& loaded = opened.loaded;
  MappedWeights& weights = opened.weights;
  loaded.source = path;
  loaded.container = file.container();
  loaded.metadata = file.metadata();
  ModelConfig config;
  const Dialect* dialect = nullptr;
  if (const auto own = file.metadata().find(kConfigKey); own != file.metadata().end()) {
    config = config_from_json(own->second, path);
    loaded.metadata.erase(kConfigKey);
    loaded.dialect = "fovea";
    weights = own_weights(file);
    apply_settings(config, completed(config, request.settings));
  } else {
    const RecognisedModel model = require_recognised(file);
    Settings settings = request.settings;
    std::pair<int64_t, int64_t> size(request.height, request.width);
    const std::optional<ToldConfig> told = told_beside_names(file, model);
    loaded.metadata.erase(kForeignConfigKey);
    if (told) {
      settings.insert(settings.begin(), told->settings.begin(), told->settings.end());  // a later one wins
      size = told->size;
    } else if (is_unknown(model, "window_sizes") && !untold_attention.empty()) {
      settings.emplace(settings.begin(), "attention", untold_attention);
    }
    config = stranger_config(file, model, settings, size, loaded.assumed);
    apply_settings(config, completed(config, settings));
    if (!told) std::tie(request.height, request.width) = size;
    if (told && std::ssize(told->class_names) == config.classes) config.class_names = told->class_names;
    if (told && config.hierarchical()) std::tie(config.input.height, config.input.width) = size;
    dialect = model.dialect;
    loaded.dialect = std::string(dialect->name);
    weights = map_keys(file, model);
    loaded.left_out = left_out(weights);
    rename_last_norm(weights, config);
  }
  validate(config);
  loaded.classifier = std::make_unique<Classifier>(config);
  require_all(*loaded.classifier, weights, file, dialect);
  set_size(loaded, request);
  loaded.dtype = stored_dtype(weights);
  return opened;
}

std::string weights_in_run(const std::string& folder) {
  for (const char* name : {"best.safetensors", "last.safetensors"})
    if (const fs::path p = fs::path(folder) / name; fs::exists(p)) return p.string();
  if (const auto weights = weights_in_folder(folder)) return *weights;
  fail("'{}' is no run directory: it has neither best.safetensors nor last.safetensors (nor model.safetensors, pytorch_model.bin or an index of shards); "
       "name a run that `fovea train` made", folder);
}

LoadedModel load(const std::string& model, const LoadOptions& options, const Target& target, const std::string& untold_attention) {
  OpenedModel opened = open_model(model, options, untold_attention);
  if (opened.file.tensors().empty()) {
    RandomSource source{Rng(options.seed)};
    fill(opened.loaded, source, target);
  } else {
    FileSource source(opened.weights);
    fill(opened.loaded, source, target);
  }
  return std::move(opened.loaded);
}

}  // namespace

void apply_settings(ModelConfig& config, const Settings& settings) {
  ModelConfig asked = config;
  for (const auto& [key, value] : settings)
    if (key == "channels") set_option(asked, key, value);
  change_channels(config.input, asked.input.channels);
  for (const auto& [key, value] : settings)
    if (key != "channels") set_option(config, key, value);
}

OpenedModel open_model(const std::string& model, const LoadOptions& options, const std::string& untold_attention) {
  require(!model.empty(), "no model was named; give a preset, a weights file or a run directory");
  const Request request = request_of(options);
  std::error_code ignored;
  if (fs::is_directory(model, ignored)) return open_file(weights_in_run(model), options, request, untold_attention);
  if (const ModelPreset* p = find_preset(model)) return open_preset(p->config, options, request);
  std::vector<std::string> names;
  for (const ModelPreset& p : model_presets()) names.push_back(p.config.name);
  if (fs::exists(model, ignored)) return open_file(model, options, request, untold_attention);
  const bool path_like = model.find('/') != std::string::npos || fs::path(model).has_extension();
  require(!path_like, "there is no file or folder '{}'", model);
  fail("there is no model '{}', neither as a preset nor as a file{}; `fovea list models` shows the presets", model, did_you_mean(model, names));
}

LoadedModel load_model(const std::string& model, const LoadOptions& options, DType dtype, const std::string& untold_attention) {
  return load(model, options, {dtype, nullptr, ""}, untold_attention);
}

LoadedModel load_for_inference(const std::string& model, const LoadOptions& options, Context& ctx) {
  (void)product_type(options.dtype);  // a wrong name is told before the file is read
  return load(model, options, {ctx.dtype(), &ctx, options.dtype}, "");
}

ProductType training_product_type(const std::string& dtype) {
  require(dtype == "auto" || dtype == "f32" || dtype == "bf16", "--dtype {}: a training step is in f32 or bf16", dtype);
  return product_type(dtype);
}

ProductType product_type(const std::string& dtype) {
  if (dtype == "f32" || dtype == "auto") return ProductType::kOwn;
  if (dtype == "bf16") return ProductType::kBF16;
  if (dtype == "int8") return ProductType::kInt8;
  fail("--dtype {}: choose f32, bf16 or int8", dtype);
}

std::string_view name_of(ProductType type) {
  return type == ProductType::kBF16 ? "bf16" : type == ProductType::kInt8 ? "int8" : "f32";
}

}  // namespace fovea
