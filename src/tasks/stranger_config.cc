#include "tasks/stranger_config.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <tuple>

#include "core/check.h"
#include "models/vit.h"
#include "tasks/customary_input.h"
#include "tasks/facts.h"
#include "tasks/home_windows.h"
#include "tasks/preprocess.h"
#include "tasks/stated_architecture.h"
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

using Size = std::pair<int64_t, int64_t>;

// Whether a ViT's table of positions can be that of images of this size; then it is, with rows for prefix tokens or without.
bool take_rectangle(ModelConfig& c, const Stranger& s, const Size& size) {
  constexpr std::pair<bool, bool> kTables[] = {{true, true}, {true, false}, {false, true}};  // rows for prefix tokens, for registers
  if (c.hierarchical() || !c.positions || size.first < 1 || size.second < 1) return false;
  for (const auto& [prefix, registers] : kTables) {
    ModelConfig sized = c;
    std::tie(sized.input.height, sized.input.width) = size;
    sized.prefix_positions = prefix;
    sized.register_positions = registers;
    const TokenEmbedConfig t = vit_tokens(sized);
    if (t.grid_height * t.grid_width + t.table_prefix() != s.model.integer("tokens")) continue;
    c = sized;
    c.position_grid = {t.grid_height, t.grid_width};
    return true;
  }
  return false;
}

// Of a ViT whose table is no square, so that one of the sizes that are stated or asked for must tell its sides. Throws Error when none does.
void choose_rectangle(ModelConfig& c, const Stranger& s, std::initializer_list<Size> sizes) {
  for (const auto& [key, value] : s.settings) {
    if (key != "position_grid") continue;
    ModelConfig asked;
    set_option(asked, key, value);
    constexpr int64_t kMost = 4096;  // as validate() has it
    const std::vector<int64_t>& grid = asked.position_grid;
    if (grid.size() == 2 && std::max(grid[0], grid[1]) <= kMost && take_rectangle(c, s, {grid[0] * c.patch, grid[1] * c.patch})) return;
  }
  for (const Size& size : sizes)
    if (take_rectangle(c, s, size)) return;
  fail("'{}' has {} positions, whose patches make up no square; tell their rows and columns as --set position_grid=H,W, or by the size that they are for as --size HxW",
       s.file.path(), s.model.integer("tokens"));
}

// Of the images that the weights are for: what the file tells, what is stated beside it, what the preset in its name has, what is
// usual, what the user asks for.
void choose_size(ModelConfig& c, const Stranger& s, const ModelConfig* preset, const StatedInput& stated, Size asked,
                 const Assume& assume) {
  const std::optional<Size> built = windows_beside(s.file.path()).image;
  const bool rectangle = built && built->first != built->second;  // of which the number of patches may be a square's
  if (rectangle && take_rectangle(c, s, *built)) {
    // as it says
  } else if (const int64_t side = s.model.integer("image_size"); side > 0) {
    c.input.height = c.input.width = side;
  } else if (c.positions && s.model.integer("tokens") > 0) {
    constexpr Size kNone(0, 0);
    choose_rectangle(c, s, {built.value_or(kNone), asked, stated.size.value_or(kNone), preset ? Size(preset->input.height, preset->input.width) : kNone});
  } else if (c.hierarchical() && built) {
    std::tie(c.input.height, c.input.width) = *built;
  } else if (stated.size) {
    std::tie(c.input.height, c.input.width) = *stated.size;
  } else if (preset) {
    c.input.height = preset->input.height;
    c.input.width = preset->input.width;
  } else {
    c.input.height = c.input.width = c.hierarchical() ? customary_side(c, s.model) : InputConfig().height;
    if (asked.first == 0) assume("height", fmt::format("{} and width={}", c.input.height, c.input.width));
  }
  constexpr int64_t kLargest = 16384;
  require(c.input.height <= kLargest && c.input.width <= kLargest, "'{}' is for images of {}x{} pixels; {} is the most a side can have", s.file.path(),
          c.input.height, c.input.width, kLargest);
}

// What is stated beside the file goes before the preset in its name, and that before the customs of its home.
void choose_preprocessing(ModelConfig& c, const Stranger& s, const ModelConfig* preset, const StatedInput& stated, const Assume& assume) {
  if (preset) {
    const InputConfig own = c.input;
    c.input = preset->input;
    c.input.height = own.height;
    c.input.width = own.width;
    change_channels(c.input, own.channels);
  } else {
    apply_customs(s.model.dialect ? s.model.dialect->name : std::string_view(), c);
  }
  apply_stated(stated, c.input);
  if (!stated.file.empty() || !takes_pictures(c.input)) return;
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
  if (is_assumed(m, "norm_eps") && c.family != "vit" && stated_architecture_beside(file.path()).norm_epsilon == 0) {
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
