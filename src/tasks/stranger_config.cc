#include "tasks/stranger_config.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <tuple>

#include "core/check.h"
#include "tasks/customary_input.h"
#include "tasks/facts.h"
#include "tasks/home_windows.h"
#include "tasks/preprocess.h"
#include "tasks/stated_input.h"
#include "tasks/stranger_families.h"

namespace fovea {

namespace {

// "swin_t" is in "swin_t-704ceda3", not in "swin_tiny".
bool has_word(const std::string& text, const std::string& word) {
  for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1))
    if (const size_t end = at + word.size(); end == text.size() || std::isalnum(static_cast<unsigned char>(text[end])) == 0) return true;
  return false;
}

}  // namespace

const ModelConfig* preset_in_name(const std::string& path, const ModelConfig& like) {
  const std::string name = std::filesystem::path(path).filename().string(), stated = windows_beside(path).architecture;
  const ModelConfig* best = nullptr;
  size_t longest = 0;
  for (const ModelPreset& p : model_presets()) {
    const ModelConfig& c = p.config;
    const bool fits = c.family == like.family && c.swin_version == like.swin_version && c.dim == like.dim && c.patch == like.patch &&
                      c.input.channels == like.input.channels &&
                      (c.hierarchical() ? c.depths == like.depths : c.depth == like.depth && c.distillation_token == like.distillation_token);
    if (!fits) continue;
    const auto consider = [&](const std::string& published) {
      if (published.size() <= longest || (!has_word(name, published) && stated != published)) return;
      best = &c;
      longest = published.size();
    };
    consider(c.name);
    for (const std::string& alias : p.aliases) consider(alias);
  }
  return best;
}

namespace {

// Of the images that the weights are for: what the file tells, what is stated beside it, what the preset in its name has, what is
// usual, what the user asks for.
void choose_size(ModelConfig& c, const Stranger& s, const ModelConfig* preset, const StatedInput& stated, std::pair<int64_t, int64_t> asked,
                 const Assume& assume) {
  if (const int64_t side = s.model.integer("image_size"); side > 0) {
    c.input.height = c.input.width = side;
  } else if (const auto home = windows_beside(s.file.path()).image; c.hierarchical() && home) {
    std::tie(c.input.height, c.input.width) = *home;
  } else if (stated.size) {
    std::tie(c.input.height, c.input.width) = *stated.size;
  } else if (preset) {
    c.input.height = preset->input.height;
    c.input.width = preset->input.width;
  } else if (c.hierarchical()) {
    c.input.height = c.input.width = customary_side(c, s.model);
    if (asked.first == 0) assume("height", fmt::format("{} and width={}", c.input.height, c.input.width));
  } else {
    require(asked.first > 0, "'{}' does not tell the size of its images, which are not square; give it as --size HxW", s.file.path());
    c.input.height = asked.first;
    c.input.width = asked.second;
  }
  constexpr int64_t kLargest = 16384;
  require(c.input.height <= kLargest && c.input.width <= kLargest, "'{}' is for images of {}x{} pixels; {} is the most a side can have", s.file.path(),
          c.input.height, c.input.width, kLargest);
}

// What is stated beside the file goes before the preset in its name, and that before the customs of its home.
void choose_preprocessing(ModelConfig& c, const Stranger& s, const ModelConfig* preset, const StatedInput& stated, const Assume& assume) {
  if (preset) {
    const int64_t height = c.input.height, width = c.input.width;
    c.input = preset->input;
    c.input.height = height;
    c.input.width = width;
  } else {
    apply_customs(s.model.dialect ? s.model.dialect->name : std::string_view(), c);
  }
  apply_stated(stated, c.input);
  if (!stated.file.empty()) return;
  // A crop and a size before it stand for each other.
  const bool scale_is_set = is_set(s.settings, "crop") || is_set(s.settings, "resize_size");
  for (const auto& [key, value] : preprocessing_facts(c.input)) {
    const bool scale = key == "crop" || key == "resize_size";
    if ((key != "resize" || value != InputConfig().resize) && !(scale && scale_is_set)) assume(key, value);
  }
}

}  // namespace

ModelConfig stranger_config(const WeightFile& file, const RecognisedModel& m, const Settings& settings,
                            std::pair<int64_t, int64_t>& size, std::vector<std::string>& assumed) {
  require(m.integer("patch_norm") == 0, "'{}' normalises its patches, which this version's ViT does not do", file.path());
  ModelConfig c;
  c.name = std::filesystem::path(file.path()).stem().string();
  c.input.channels = m.integer("in_channels", 3);
  c.patch = m.integer("patch_size", 16);
  c.dim = m.integer("dim");
  c.qkv_bias = m.integer("qkv_bias", 1) != 0;
  c.norm_epsilon = fact_number(m, "norm_eps", 1e-6);
  c.classes = m.integer("num_classes");
  require(c.dim > 0 && c.patch > 0 && c.input.channels > 0, "'{}' has no patch embedding", file.path());
  c.mlp_ratio = static_cast<double>(m.integer("mlp_width")) / static_cast<double>(c.dim);
  const Stranger stranger{file, m, settings};
  if (m.kind.starts_with("swin")) set_swin(c, stranger);
  else if (m.kind == "cswin") set_cswin(c, stranger);
  else set_vit(c, stranger);

  const ModelConfig* preset = preset_in_name(file.path(), c);
  const StatedInput stated = stated_beside(file.path());
  const std::string from = preset ? fmt::format(" (as {} has it)", preset->name) : "";
  const Assume assume = [&](std::string_view key, const std::string& value) {
    if (!is_set(settings, key)) assumed.push_back(fmt::format("{}={}{}", key, value, from));
  };
  choose_size(c, stranger, preset, stated, size, assume);
  if (size.first == 0 && stated.size) size = *stated.size;
  choose_preprocessing(c, stranger, preset, stated, assume);
  if (std::ssize(stated.class_names) == c.classes) c.class_names = stated.class_names;
  if (m.kind.starts_with("swin")) finish_swin(c, stranger, preset, assume);
  else if (m.kind == "cswin") finish_cswin(c, stranger, preset, assume);
  else finish_vit(c, stranger, preset, assume);
  if (is_assumed(m, "norm_eps") && c.family != "vit") {
    if (preset) c.norm_epsilon = preset->norm_epsilon;
    else assume("norm_epsilon", fmt::format("{}", c.norm_epsilon));
  }
  return c;
}

RecognisedModel facts_of(const ModelConfig& c) {
  require(!c.convolutional_stem, "{} has a stem of convolutions, which only fovea's own files hold", c.name);
  RecognisedModel m;
  m.facts["in_channels"] = c.input.channels;
  m.facts["patch_size"] = c.patch;
  m.facts["dim"] = c.dim;
  m.facts["mlp_width"] = mlp_width(c);
  m.facts["num_classes"] = c.classes;
  m.facts["qkv_bias"] = int64_t{c.qkv_bias};
  m.facts["norm_eps"] = c.norm_epsilon;
  if (c.family == "swin") add_swin_facts(c, m);
  else if (c.family == "cswin") add_cswin_facts(c, m);
  else add_vit_facts(c, m);
  return m;
}

}  // namespace fovea
