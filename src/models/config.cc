#include "models/config.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/json.h"
#include "core/text.h"
#include "embed/resample.h"

namespace fovea {

namespace {

using Json = nlohmann::ordered_json;

// One list of all fields serves JSON both ways and --set: visit(name, member).
template <class Config, class Visit>
void visit_fields(Config& c, Visit&& visit) {
  visit("name", c.name);
  visit("family", c.family);
  visit("channels", c.input.channels);
  visit("height", c.input.height);
  visit("width", c.input.width);
  visit("crop", c.input.crop_pct);
  visit("resize_size", c.input.resize_size);
  visit("interpolation", c.input.interpolation);
  visit("resize", c.input.resize);
  visit("crop_rounding", c.input.crop_rounding);
  visit("mean", c.input.mean);
  visit("std", c.input.std);
  visit("classes", c.classes);
  visit("class_names", c.class_names);
  visit("attention", c.attention);
  visit("convolutional_stem", c.convolutional_stem);
  visit("patch", c.patch);
  visit("dim", c.dim);
  visit("mlp_ratio", c.mlp_ratio);
  visit("qkv_bias", c.qkv_bias);
  visit("qk_norm", c.qk_norm);
  visit("activation", c.activation);
  visit("norm_epsilon", c.norm_epsilon);
  visit("merge_norm_epsilon", c.merge_norm_epsilon);
  visit("layer_scale", c.layer_scale);
  visit("block_norm", c.block_norm);
  visit("parallel", c.parallel);
  visit("dropout", c.dropout);
  visit("drop_path", c.drop_path);
  visit("depth", c.depth);
  visit("heads", c.heads);
  visit("head_dim", c.head_dim);
  visit("class_token", c.class_token);
  visit("distillation_token", c.distillation_token);
  visit("distillation_head", c.distillation_head);
  visit("register_tokens", c.register_tokens);
  visit("pre_norm", c.pre_norm);
  visit("pool", c.pool);
  visit("pool_prefix", c.pool_prefix);
  visit("last_norm", c.last_norm);
  visit("representation", c.representation);
  visit("head_bias", c.head_bias);
  visit("positions", c.positions);
  visit("prefix_positions", c.prefix_positions);
  visit("register_positions", c.register_positions);
  visit("position_grid", c.position_grid);
  visit("position_resampling", c.position_resampling);
  visit("patch_rest", c.patch_rest);
  visit("depths", c.depths);
  visit("stage_heads", c.stage_heads);
  visit("absolute_positions", c.absolute_positions);
  visit("swin_version", c.swin_version);
  visit("pyramid_norms", c.pyramid_norms);
  visit("first_pyramid_norm", c.first_pyramid_norm);
}

void parse_value(const std::string& key, const std::string& text, std::string& out) { (void)key, out = text; }

template <class Number>
  requires(std::is_same_v<Number, int64_t> || std::is_same_v<Number, double>)
void parse_value(const std::string& key, const std::string& text, Number& out) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  require(error == std::errc() && end == text.data() + text.size() && !text.empty(), "--set {}={}: expected a number", key, text);
  out = value;
}

void parse_value(const std::string& key, const std::string& text, bool& out) {
  require(text == "true" || text == "false" || text == "1" || text == "0", "--set {}={}: expected true or false", key, text);
  out = text == "true" || text == "1";
}

template <class Item>
void parse_value(const std::string& key, const std::string& text, std::vector<Item>& out) {
  out.clear();
  if (text.empty()) return;
  for (const std::string& part : split(text, ',')) parse_value(key, part, out.emplace_back());
}

// A value for a message: the beginning of a long one.
std::string shown(const Json& j) {
  constexpr size_t kMost = 60;
  const std::string text = j.dump(-1, ' ', true);
  return text.size() <= kMost ? text : text.substr(0, kMost) + "...";
}

template <class T>
constexpr std::string_view kind_of() {
  if constexpr (std::is_same_v<T, std::string>) return "a text";
  if constexpr (std::is_same_v<T, bool>) return "true or false";
  if constexpr (std::is_same_v<T, int64_t>) return "a whole number";
  if constexpr (std::is_same_v<T, double>) return "a number";
  return "a list";
}

}  // namespace

std::string to_json(const ModelConfig& config) {
  Json j;
  visit_fields(config, [&](const char* name, const auto& member) { j[name] = member; });
  return j.dump(2);
}

ModelConfig config_from_json(const std::string& text, const std::string& where) {
  const Json j = parse_json<Json>(text);
  require(j.is_object(), "{}: the model configuration is no JSON object", where);
  ModelConfig c;
  visit_fields(c, [&](const char* name, auto& member) {
    using T = std::remove_reference_t<decltype(member)>;
    if (!j.contains(name)) return;
    if (!read_json(j[name], member)) fail("{}: the model configuration's '{}' is {}, expected {}", where, name, shown(j[name]), kind_of<T>());
  });
  try {
    validate(c);
  } catch (const Error& e) {
    fail("{}: {}", where, e.what());
  }
  return c;
}

bool takes_pictures(const InputConfig& input) { return input.channels == 1 || input.channels == 3; }

void change_channels(InputConfig& input, int64_t channels) {
  constexpr int64_t kSensible = 65536;  // what validate() refuses takes no memory before
  if (input.channels == channels || channels < 1 || channels > kSensible) {
    input.channels = channels;
    return;
  }
  input.channels = channels;
  for (auto* list : {&input.mean, &input.std}) {
    const double sum = std::accumulate(list->begin(), list->end(), 0.0);
    list->assign(static_cast<size_t>(channels), sum / static_cast<double>(std::max<size_t>(1, list->size())));
  }
}

void set_option(ModelConfig& config, const std::string& key, const std::string& value) {
  std::vector<std::string> known;
  bool found = false;
  visit_fields(config, [&](const char* name, auto& member) {
    known.emplace_back(name);
    if (key != name) return;
    parse_value(key, value, member);
    found = true;
  });
  require(found, "--set {}={}: there is no such key{}; the keys are {}", key, value, did_you_mean(key, known), fmt::join(known, ", "));
  if (key == "crop") config.input.resize_size.clear();  // which would go before it
  // Grey statistics for colour images and the reverse are the common case: one number serves all channels.
  for (auto* list : {&config.input.mean, &config.input.std})
    if (list->size() == 1 && config.input.channels == 3) list->assign(3, list->front());
}

namespace {

void require_one_of(std::string_view key, const std::string& value, std::initializer_list<std::string_view> choices) {
  require(std::find(choices.begin(), choices.end(), value) != choices.end(), "{} must be one of {}, got '{}'", key, fmt::join(choices, ", "), value);
}

// How pictures are fitted; their channels and size are looked at by validate() itself.
void validate_fitting(const InputConfig& input) {
  require(input.crop_pct > 0 && input.crop_pct <= 1, "crop must be in (0, 1], got {}", input.crop_pct);
  require_one_of("interpolation", input.interpolation, {"nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"});
  require_one_of("resize", input.resize, {"shorter", "squash", "border", "none"});
  require_one_of("crop_rounding", input.crop_rounding, {"even", "down"});
  require(input.resize_size.size() <= 2, "resize_size is one number or a height and a width, got {} numbers", input.resize_size.size());
  for (const int64_t s : input.resize_size) require(s > 0 && s <= 65536, "resize_size {} is out of range (1 to 65536)", s);
  for (const double m : input.mean) require(std::isfinite(m), "a mean of {} cannot normalise images", m);
  for (const double s : input.std) require(s > 0 && std::isfinite(s), "a standard deviation of {} cannot normalise images", s);
}

// No size of a model within these, and no product of sizes, leaves 64 bits.
void validate_ranges(const ModelConfig& c) {
  struct Range {
    const char* key;
    int64_t value, least, most;
  };
  const Range ranges[] = {{"patch", c.patch, 1, 16384},       {"dim", c.dim, 1, 65536},          {"depth", c.depth, 1, 1000},
                          {"heads", c.heads, 1, 65536},       {"head_dim", c.head_dim, 0, 65536}, {"register_tokens", c.register_tokens, 0, 65536},
                          {"representation", c.representation, 0, 65536}};
  for (const Range& r : ranges) require(r.value >= r.least && r.value <= r.most, "{}={} is out of range ({} to {})", r.key, r.value, r.least, r.most);
  constexpr double kWidestPerceptron = 1 << 20;
  const double hidden = static_cast<double>(c.dim) * c.mlp_ratio;
  require(hidden >= 1 && hidden <= kWidestPerceptron, "mlp_ratio={} of {} channels is out of range (1 to {} hidden values)", c.mlp_ratio, c.dim,
          kWidestPerceptron);
  require(c.norm_epsilon > 0 && std::isfinite(c.norm_epsilon), "norm_epsilon must be positive, got {}", c.norm_epsilon);
  require(c.merge_norm_epsilon == 0 || (c.family == "swin" && c.merge_norm_epsilon > 0 && std::isfinite(c.merge_norm_epsilon)),
          "merge_norm_epsilon is a positive number of a swin, or 0 for that of its blocks; got {}", c.merge_norm_epsilon);
  require(std::isfinite(c.layer_scale), "layer_scale={} is no number to begin with", c.layer_scale);
  require(c.dropout >= 0 && c.dropout < 1 && c.drop_path >= 0 && c.drop_path < 1, "dropout and drop_path must be in [0, 1)");
}

}  // namespace

std::vector<std::pair<std::string, std::string>> settings_of(const ModelConfig& config, const std::vector<std::string>& keys) {
  const auto text = [](const Json& j) { return j.is_string() ? j.get<std::string>() : j.dump(); };
  std::vector<std::pair<std::string, std::string>> out;
  visit_fields(config, [&](const char* name, const auto& member) {
    if (std::find(keys.begin(), keys.end(), name) == keys.end()) return;
    const Json j = member;
    std::string value;
    if (!j.is_array()) value = text(j);
    else
      for (const Json& item : j) value += (value.empty() ? "" : ",") + text(item);
    out.emplace_back(name, std::move(value));
  });
  return out;
}

void validate(const ModelConfig& c) {
  require(c.family == "vit" || c.hierarchical(), "there is no model family '{}'; choose vit, swin or cswin", c.family);
  require(c.input.channels >= 1 && c.input.channels <= 1024, "images have 1 to 1024 channels (pictures 1 or 3), got {}", c.input.channels);
  require(c.input.height > 0 && c.input.width > 0 && c.input.height <= 16384 && c.input.width <= 16384,
          "the input size {}x{} is out of range (1 to 16384)", c.input.height, c.input.width);
  require(c.input.mean.size() == static_cast<size_t>(c.input.channels) && c.input.std.size() == c.input.mean.size(),
          "{} image channels need as many means and standard deviations, got {} and {}", c.input.channels, c.input.mean.size(),
          c.input.std.size());
  validate_fitting(c.input);
  require(c.classes >= 0 && c.classes <= 1000000, "the number of classes must be 1 to 1000000, or 0 for features alone, got {}", c.classes);
  require(c.class_names.empty() || c.class_names.size() == static_cast<size_t>(c.classes), "{} class names for {} classes",
          c.class_names.size(), c.classes);
  validate_ranges(c);
  (void)activation_named(c.activation);
  require(c.family == "vit" || !gated(c.activation), "activation {} is for the perceptrons of a ViT; {} has plain ones", c.activation, c.family);
  require_one_of("patch_rest", c.patch_rest, {"pad", "drop"});
  require(c.patch_rest == "pad" || (c.input.height >= c.patch && c.input.width >= c.patch),
          "images of {}x{} have no whole patch of {}, and patch_rest=drop leaves the rest out", c.input.height, c.input.width, c.patch);
  require(c.position_grid.empty() || (c.position_grid.size() == 2 && std::ranges::all_of(c.position_grid, [](int64_t n) { return n > 0 && n <= 4096; })),
          "position_grid is a height and a width in patches, got {}", fmt::join(c.position_grid, ","));
  require(!c.absolute_positions || c.family == "swin", "absolute_positions are for a swin; {} {}", c.family, c.family == "vit" ? "has positions" : "has none");
  require(c.positions || c.family == "vit", "positions are for a vit; a swin's are absolute_positions");
  if (c.absolute_positions && c.position_resampling != "none") (void)cubic_rule_named(c.position_resampling);
  if (c.family == "vit") {
    (void)cubic_rule_named(c.position_resampling);
    require_one_of("block_norm", c.block_norm, {"pre", "res_post"});
    require(c.parallel >= 1 && c.parallel <= 16 && (c.parallel == 1 || c.block_norm == "pre"), "parallel={} is out of range (1 to 16){}", c.parallel,
            c.block_norm == "pre" ? "" : "; with block_norm=res_post it is 1");
    require_one_of("pool", c.pool, {"token", "avg", "token_avg", "map"});
    require(c.pool == "map" || !c.pool_prefix, "pool_prefix is for pool=map; pool={} says by itself what is pooled", c.pool);
    require(c.pool != "map" || (!gated(c.activation) && c.heads > 0 && c.dim % c.heads == 0),
            "attention pooling (pool=map) has a plain perceptron and heads that divide {} channels; got activation {} and {} heads", c.dim, c.activation, c.heads);
    require_one_of("last_norm", c.last_norm, {"auto", "tokens", "pooled", "none"});
    require(c.last_norm != "pooled" || c.pool != "token_avg", "last_norm=pooled has no meaning for token_avg, whose two halves have the width of a norm each");
    require(!c.convolutional_stem || (c.patch_rest == "pad" && !c.pre_norm), "a convolutional stem pads the image and keeps its biases");
    require(c.representation == 0 || !c.distillation_token, "a representation layer of width {} has no place before two heads", c.representation);
    require(!gated(c.activation) || mlp_width(c) % 2 == 0, "a gated perceptron of {} hidden values has no two halves; change mlp_ratio", mlp_width(c));
    require(c.pool == "avg" || c.pool == "map" || c.class_token, "pool={} needs a class token", c.pool);
    require(c.head_dim > 0 || c.dim % c.heads == 0, "{} channels do not divide into {} heads; set head_dim or heads", c.dim, c.heads);
    require(!c.distillation_token || c.class_token, "a distillation token needs a class token");
    require(c.pool == "token" || !c.distillation_token || !c.distillation_head, "two heads read two tokens; pool={} is for one head", c.pool);
  } else {
    require(c.swin_version == 1 || c.swin_version == 2, "swin_version must be 1 or 2, got {}", c.swin_version);
    require(!c.depths.empty() && c.depths.size() == c.stage_heads.size() && c.depths.size() <= kMaxStages,
            "depths and stage_heads must be equally long, 1 to {} numbers, got {} and {}", kMaxStages, c.depths.size(), c.stage_heads.size());
    for (size_t i = 0; i < c.depths.size(); ++i)
      require(c.depths[i] > 0 && c.depths[i] <= 1000 && c.stage_heads[i] > 0 && (c.dim << i) % c.stage_heads[i] == 0,
              "stage {}: {} blocks, {} channels and {} heads do not fit", i + 1, c.depths[i], c.dim << i, c.stage_heads[i]);
  }
  if (c.family == "cswin")
    require(c.patch == 4 && !c.convolutional_stem, "the stem of cswin is its own: patch=4 and no convolutional_stem, got patch={}{}", c.patch,
            c.convolutional_stem ? " and one" : "");
  require(c.patch_rest == "pad" || (c.family == "swin" ? !c.convolutional_stem : c.family == "vit"), "patch_rest=drop is for plain patches of a vit or swin");
  require(c.family == "vit" || (c.parallel == 1 && c.block_norm == "pre"), "parallel and block_norm are for a vit; {} has blocks of its own", c.family);
  require(!c.pyramid_norms || c.hierarchical(), "pyramid_norms are for swin and cswin; {} has no pyramid", c.family);
  require(c.first_pyramid_norm == 0 || (c.family == "swin" && c.first_pyramid_norm > 0 && c.first_pyramid_norm < std::ssize(c.depths)),
          "first_pyramid_norm {} is no stage of a swin", c.first_pyramid_norm);
  // Each is an object with parameters of its own, and a text of a few letters asks for it.
  constexpr int64_t kMostAttentions = 65536;
  const int64_t blocks = c.hierarchical() ? std::accumulate(c.depths.begin(), c.depths.end(), int64_t{0}) : c.depth;
  const int64_t parts = 1 + std::ranges::count_if(c.attention, [](char letter) { return letter == ',' || letter == '+'; });
  require(parts <= kMostAttentions / (blocks * c.parallel), "{} blocks with {} attentions each are more than {} in all; take fewer blocks or parts", blocks,
          parts * c.parallel, kMostAttentions);
}

Activation activation_named(const std::string& name) {
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_tanh") return Activation::kGeluTanh;
  if (name == "relu") return Activation::kRelu;
  if (name == "quick_gelu") return Activation::kQuickGelu;
  if (name == "silu" || gated(name)) return Activation::kSilu;
  fail("there is no activation '{}'; choose gelu, gelu_tanh, relu, quick_gelu, silu or, for a ViT, swiglu", name);
}

bool gated(const std::string& activation) { return activation == "swiglu"; }

// Ratios come from divisions, which may fall short of a whole number by rounding.
int64_t mlp_width(const ModelConfig& c) { return static_cast<int64_t>(static_cast<double>(c.dim) * c.mlp_ratio + 1e-6); }

}  // namespace fovea
