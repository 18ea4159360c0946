#include "tasks/stranger_config.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/text.h"

namespace fovea {

namespace {

using ForeignJson = nlohmann::json;

bool has(const std::vector<std::string>& list, std::string_view key) { return std::find(list.begin(), list.end(), key) != list.end(); }

bool is_set(const Settings& settings, std::string_view key) {
  return std::any_of(settings.begin(), settings.end(), [&](const auto& s) { return s.first == key; });
}

std::string fact_text(const RecognisedModel& model, std::string_view key) {
  const auto it = model.facts.find(std::string(key));
  if (it == model.facts.end()) return "";
  const auto* text = std::get_if<std::string>(&it->second);
  return text ? *text : "";
}

double fact_number(const RecognisedModel& model, std::string_view key, double otherwise) {
  const auto it = model.facts.find(std::string(key));
  if (it == model.facts.end()) return otherwise;
  if (const auto* number = std::get_if<double>(&it->second)) return *number;
  const auto* whole = std::get_if<int64_t>(&it->second);
  return whole ? static_cast<double>(*whole) : otherwise;
}

std::vector<int64_t> integers(const std::string& text) {
  std::vector<int64_t> out;
  for (const std::string& part : split(text, ',')) out.push_back(std::strtoll(part.c_str(), nullptr, 10));
  return out;
}

// The longest preset name in the file's name whose shape is that of the weights.
const ModelConfig* preset_in_name(const std::string& path, const ModelConfig& like) {
  const std::string name = std::filesystem::path(path).filename().string();
  const ModelConfig* best = nullptr;
  for (const ModelPreset& p : model_presets()) {
    const ModelConfig& c = p.config;
    const bool fits = c.family == like.family && c.swin_version == like.swin_version && c.dim == like.dim && c.patch == like.patch &&
                      c.input.channels == like.input.channels &&
                      (c.hierarchical() ? c.depths == like.depths : c.depth == like.depth && c.distillation_token == like.distillation_token);
    if (fits && name.find(c.name) != std::string::npos && (!best || c.name.size() > best->name.size())) best = &c;
  }
  return best;
}

// The preprocessing that a config.json in timm's or Hugging Face's manner states.
struct StatedInput {
  std::vector<double> mean, std;
  double crop = 0;
  std::string interpolation;
  std::vector<int64_t> size;  // channels, height, width
};

template <class T>
void take(const ForeignJson& j, const char* key, T& out) {
  const auto it = j.find(key);
  if (it == j.end()) return;
  try {
    out = it->get<T>();
  } catch (const ForeignJson::exception&) {  // of another kind than expected: as if it were not stated
  }
}

StatedInput stated_beside(const std::string& path) {
  StatedInput s;
  std::ifstream in(std::filesystem::path(path).parent_path() / "config.json");
  if (!in) return s;
  ForeignJson j = ForeignJson::parse(in, nullptr, false);
  if (!j.is_object()) return s;
  if (j.contains("pretrained_cfg") && j["pretrained_cfg"].is_object()) j = ForeignJson(j["pretrained_cfg"]);
  take(j, "mean", s.mean);
  take(j, "std", s.std);
  take(j, "crop_pct", s.crop);
  take(j, "interpolation", s.interpolation);
  take(j, "input_size", s.size);
  return s;
}

void set_vit(ModelConfig& c, const RecognisedModel& m, const Settings& settings) {
  c.family = "vit";
  c.attention = "global";
  c.depth = m.integer("depth");
  c.class_token = m.integer("class_token") != 0;
  c.distillation_token = m.kind == "deit_distilled";
  c.register_tokens = m.integer("register_tokens");
  c.pool = fact_text(m, "pool").empty() ? "token" : fact_text(m, "pool");
  c.qk_norm = m.integer("qk_norm") != 0;
  c.layer_scale = m.integer("layer_scale") != 0 ? 1e-5 : 0;
  const int64_t width = m.integer("attention_width");
  c.heads = m.integer("num_heads");
  for (const auto& [key, value] : settings)
    if (key == "heads") set_option(c, key, value);
  require(c.heads > 0, "the file does not tell its number of heads ({} channels in all); give it as --set heads=N", width);
  require(width > 0 && width % c.heads == 0, "{} attention channels do not divide into {} heads; --set heads=N changes the number", width, c.heads);
  c.head_dim = width / c.heads == c.dim / c.heads && c.dim % c.heads == 0 ? 0 : width / c.heads;
  // A table without rows for the prefix tokens has a square of rows by itself.
  const int64_t tokens = m.integer("tokens"), prefix = m.integer("prefix_tokens");
  c.prefix_positions = prefix == 0 || exact_root(tokens - prefix).has_value() || !exact_root(tokens).has_value();
}

// One attention for each stage of Swin V1 or V2; a single one where all stages have the same.
std::string window_specs(const RecognisedModel& m) {
  const bool second = m.integer("swin_version", 1) == 2;
  const std::vector<std::string> windows = split(fact_text(m, "window_sizes"), ','), pretrained = split(fact_text(m, "pretrained_windows"), ',');
  std::vector<std::string> specs;
  for (size_t i = 0; i < windows.size(); ++i) {
    specs.push_back(fmt::format("{}:size={}", second ? "window_v2" : "window", windows[i]));
    if (second && m.facts.contains("pretrained_windows") && pretrained[i] != windows[i]) specs.back() += ":pretrained_window=" + pretrained[i];
  }
  if (std::all_of(specs.begin(), specs.end(), [&](const std::string& s) { return s == specs.front(); })) specs.resize(1);
  return fmt::format("{}", fmt::join(specs, "/"));
}

void set_swin(ModelConfig& c, const RecognisedModel& m, const std::string& path, const Settings& settings) {
  c.family = "swin";
  c.swin_version = m.integer("swin_version", 1);
  c.depths = integers(fact_text(m, "depths"));
  c.stage_heads = integers(fact_text(m, "num_heads"));
  if (m.facts.contains("window_sizes")) {
    c.attention = window_specs(m);
  } else if (const ModelConfig* preset = preset_in_name(path, c); preset && c.swin_version == 2) {  // whose parameters tell none
    c.attention = preset->attention;
  } else {
    require(is_set(settings, "attention"), "'{}' does not tell its windows; give them as --set attention={}", path,
            c.swin_version == 2 ? "window_v2:size=N" : "window:size=HxW");
  }
}

// Neither heads nor stripes show in the shapes: heads go with the width as published; stripes are a 32nd of the image in the
// later stages (7 tokens at 224 pixels, 12 at 384), once the image's size is known.
void set_cswin(ModelConfig& c, const RecognisedModel& m, const Settings& settings) {
  c.family = "cswin";
  c.depths = integers(fact_text(m, "depths"));
  c.stage_heads = integers(fact_text(m, "num_heads"));
  c.qk_norm = m.integer("qk_norm") != 0;
  c.layer_scale = m.integer("layer_scale") != 0 ? 1e-5 : 0;
  c.pyramid_norms = m.integer("pyramid_norms") != 0;
  for (const auto& [key, value] : settings)
    if (key == "stage_heads") set_option(c, key, value);
  require(c.stage_heads.size() == c.depths.size(), "the file does not tell its numbers of heads; give them as --set stage_heads=N,N,...");
}

std::string cswin_attention(const RecognisedModel& m, int64_t image_side) {
  const std::vector<int64_t> branches = integers(fact_text(m, "branches"));
  const int64_t wide = std::max<int64_t>(1, image_side / 32);
  std::vector<std::string> stages;
  for (size_t i = 0; i < branches.size(); ++i)
    stages.push_back(branches[i] == 1 ? "cross_shaped:branches=1" : fmt::format("cross_shaped:stripe={}", i == 0 ? 1 : i == 1 ? 2 : wide));
  return fmt::format("{}", fmt::join(stages, "/"));
}

}  // namespace

ModelConfig stranger_config(const WeightFile& file, const RecognisedModel& m, const Settings& settings,
                            std::pair<int64_t, int64_t> size, std::vector<std::string>& assumed) {
  require(m.integer("patch_norm") == 0, "'{}' normalises its patches, which this version's ViT does not do", file.path());
  ModelConfig c;
  c.name = std::filesystem::path(file.path()).stem().string();
  c.input.channels = m.integer("in_channels", 3);
  c.patch = m.integer("patch_size", 16);
  c.dim = m.integer("dim");
  c.qkv_bias = m.integer("qkv_bias", 1) != 0;
  c.norm_epsilon = fact_number(m, "norm_eps", 1e-6);
  c.classes = m.integer("num_classes");
  require(c.classes > 0, "'{}' has no classification head; a file with one is needed", file.path());
  require(c.dim > 0, "'{}' has no patch embedding", file.path());
  c.mlp_ratio = static_cast<double>(m.integer("mlp_width")) / static_cast<double>(c.dim);
  if (m.kind == "swin")
    set_swin(c, m, file.path(), settings);
  else if (m.kind == "cswin")
    set_cswin(c, m, settings);
  else
    set_vit(c, m, settings);

  const ModelConfig* preset = preset_in_name(file.path(), c);
  const StatedInput stated = stated_beside(file.path());
  const std::string from = preset ? fmt::format(" (as {} has it)", preset->name) : "";
  const auto assume = [&](std::string_view key, const std::string& value) {
    if (!is_set(settings, key)) assumed.push_back(fmt::format("{}={}{}", key, value, from));
  };

  if (has(m.unknown, "window_sizes") && preset && c.swin_v2()) assume("attention", c.attention);

  // Input size.
  if (const int64_t side = m.integer("image_size"); side > 0) {
    c.input.height = c.input.width = side;
  } else if (preset) {
    c.input.height = preset->input.height;
    c.input.width = preset->input.width;
  } else if (stated.size.size() == 3) {
    c.input.height = stated.size[1];
    c.input.width = stated.size[2];
  } else if (m.kind == "swin" || m.kind == "cswin") {
    const std::string window = split(fact_text(m, "window_sizes"), ',').front();
    c.input.height = c.input.width = c.swin_v2() ? (window == "24" ? 384 : window == "12" ? 192 : 256) : window == "12" ? 384 : 224;
    if (size.first == 0) assume("height", fmt::format("{} and width={}", c.input.height, c.input.width));
  } else {
    require(size.first > 0, "'{}' does not tell the size of its images, which are not square; give it as --size HxW", file.path());
    c.input.height = size.first;
    c.input.width = size.second;
  }

  // Preprocessing.
  const size_t channels = static_cast<size_t>(std::max<int64_t>(1, c.input.channels));
  if (preset) c.input = preset->input;
  if (stated.mean.size() == channels && stated.std.size() == channels) {
    c.input.mean = stated.mean;
    c.input.std = stated.std;
  } else {
    if (!preset) {
      const bool colour = channels == 3;
      c.input.mean = colour ? InputConfig().mean : std::vector<double>(channels, 0.5);
      c.input.std = colour ? InputConfig().std : std::vector<double>(channels, 0.5);
    }
    assume("mean", fmt::format("{}", fmt::join(c.input.mean, ",")));
    assume("std", fmt::format("{}", fmt::join(c.input.std, ",")));
  }
  if (stated.crop > 0) {
    c.input.crop_pct = stated.crop;
  } else {
    // Small images are used whole.
    if (!preset) c.input.crop_pct = c.input.height <= 64 ? 1.0 : c.input.height >= 384 ? 1.0 : 0.9;
    assume("crop", fmt::format("{}", c.input.crop_pct));
  }
  if (!stated.interpolation.empty()) c.input.interpolation = stated.interpolation;
  else assume("interpolation", c.input.interpolation);

  if (m.kind == "cswin") {
    c.attention = cswin_attention(m, c.input.height);
    if (!preset) assume("attention", c.attention);
    if (has(m.assumed, "num_heads") && !(preset && preset->stage_heads == c.stage_heads))
      assume("stage_heads", fmt::format("{}", fmt::join(c.stage_heads, ",")));
  }
  if (has(m.assumed, "num_heads") && !c.hierarchical() && !(preset && preset->heads == c.heads)) assume("heads", fmt::format("{}", c.heads));
  if (has(m.assumed, "norm_eps")) {
    if (preset) c.norm_epsilon = preset->norm_epsilon;
    else assume("norm_epsilon", fmt::format("{}", c.norm_epsilon));
  }
  if (has(m.assumed, "pool")) assume("pool", c.pool);
  return c;
}

}  // namespace fovea
