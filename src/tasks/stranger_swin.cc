// Swin, Swin V2 and CSWin in other code bases' files.
#include <algorithm>
#include <charconv>
#include <optional>
#include <span>

#include "attention/spec.h"
#include "core/check.h"
#include "core/text.h"
#include "tasks/facts.h"
#include "tasks/home_windows.h"
#include "tasks/stated_architecture.h"
#include "tasks/stranger_config.h"
#include "tasks/stranger_families.h"

namespace fovea {

namespace {

// The windows of each stage and what version 2 measures their offsets against; "0": the window itself.
struct StageWindows {
  std::vector<std::string> sizes, pretrained;
};

// One for each stage: the last one repeats.
std::vector<std::string> of_stages(std::vector<std::string> values, size_t stages, const std::string& otherwise) {
  if (values.empty()) values.push_back(otherwise);
  while (values.size() < stages) values.push_back(values.back());
  values.resize(stages);
  return values;
}

std::string joined_specs(const std::vector<std::string>& specs) {
  const bool equal = std::all_of(specs.begin(), specs.end(), [&](const std::string& s) { return s == specs.front(); });
  return fmt::format("{}", fmt::join(std::span(specs).first(equal ? 1 : specs.size()), "/"));
}

// What the dialect's home does with maps of any size.
std::string home_manners(const RecognisedModel& m) {
  const std::string rule = fact_text(m, "window_rule"), resample = fact_text(m, "resample");
  std::string out = rule.empty() || rule == "timm" ? "" : ":rule=" + rule;  // timm's is the default
  if (m.integer("swin_version", 1) == 1 && !resample.empty()) out += ":resample=" + resample;
  return out;
}

std::string window_specs(const RecognisedModel& m, const StageWindows& w) {
  std::vector<std::string> specs;
  for (size_t i = 0; i < w.sizes.size(); ++i) {
    specs.push_back(fmt::format("{}:size={}{}", m.integer("swin_version", 1) == 2 ? "window_v2" : "window", w.sizes[i], home_manners(m)));
    if (w.pretrained[i] != "0" && w.pretrained[i] != w.sizes[i]) specs.back() += ":pretrained_window=" + w.pretrained[i];
  }
  return joined_specs(specs);
}

std::string cswin_attention(const RecognisedModel& m, int64_t image_side) {
  const std::vector<int64_t> branches = fact_integers(m, "branches");
  const int64_t wide = std::max<int64_t>(1, image_side / 32);
  std::vector<std::string> stages;
  for (size_t i = 0; i < branches.size(); ++i)
    stages.push_back(branches[i] == 1 ? "cross_shaped:branches=1" : fmt::format("cross_shaped:stripe={}", i == 0 ? 1 : i == 1 ? 2 : wide));
  return fmt::format("{}", fmt::join(stages, "/"));
}

// The options of each stage's attention, which must be the mechanism `name`: no other one has a place in other code bases' files.
std::vector<AttentionSpec> stage_specs(const ModelConfig& c, std::string_view name) {
  std::vector<AttentionSpec> stages = parse_attention_stages(c.attention);
  for (const AttentionSpec& s : stages)
    require(s.form == AttentionSpec::Form::kSingle && s.name == name, "{} has the attention '{}', which only fovea's own files hold", c.name, c.attention);
  while (stages.size() < c.depths.size()) stages.push_back(stages.back());
  return stages;
}

std::string spec_option(const AttentionSpec& spec, const std::string& key, const std::string& otherwise) {
  const auto it = spec.options.find(key);
  return it == spec.options.end() ? otherwise : it->second;
}

StageWindows windows_of_preset(const ModelConfig& preset) {
  StageWindows w;
  for (const AttentionSpec& spec : stage_specs(preset, "window_v2")) {
    w.sizes.push_back(spec_option(spec, "size", "8"));
    w.pretrained.push_back(spec_option(spec, "pretrained_window", "0"));
  }
  return w;
}

// Version 1: from its tables. Version 2: from a configuration beside the file, the preset in its name, or the buffers in it, which are
// those of windows that shrank to the maps of the size that the model was built for.
std::optional<StageWindows> known_windows(const ModelConfig& c, const Stranger& s) {
  const size_t stages = c.depths.size();
  const std::vector<std::string> stored = split(fact_text(s.model, "window_sizes"), ',');
  const bool told = s.model.facts.contains("window_sizes");
  if (c.swin_version == 1) return told ? std::optional(StageWindows{stored, of_stages({}, stages, "0")}) : std::nullopt;
  if (const HomeWindows home = windows_beside(s.file.path()); !home.sizes.empty())
    return StageWindows{of_stages(home.sizes, stages, "0"), of_stages(home.pretrained, stages, "0")};
  if (const ModelConfig* preset = preset_in_name(s.file.path(), c)) {
    StageWindows w = windows_of_preset(*preset);
    if (!told || w.sizes.front() == stored.front()) return w;
  }
  if (!told) return std::nullopt;
  const std::vector<std::string> pretrained = split(fact_text(s.model, "pretrained_windows"), ',');
  return StageWindows{stored, pretrained.size() == stages ? pretrained : of_stages({}, stages, "0")};
}

std::string comma_joined(const std::vector<int64_t>& values) { return fmt::format("{}", fmt::join(values, ",")); }

}  // namespace

void set_swin(ModelConfig& c, const Stranger& s) {
  const RecognisedModel& m = s.model;
  c.family = "swin";
  c.swin_version = m.integer("swin_version", 1);
  c.depths = fact_integers(m, "depths");
  c.stage_heads = fact_integers(m, "num_heads");
  c.patch_rest = fact_text(m, "patch_rest").empty() ? "pad" : fact_text(m, "patch_rest");
  c.absolute_positions = m.integer("absolute_positions") != 0;
  if (c.absolute_positions) {
    c.position_grid = fact_integers(m, "position_grid");
    c.position_resampling = fact_text(m, "position_resampling");
  }
  c.pyramid_norms = m.integer("pyramid_norms") != 0;
  c.first_pyramid_norm = m.integer("first_pyramid_norm");
  const StatedArchitecture stated = stated_architecture_beside(s.file.path());
  if (!stated.activation.empty()) c.activation = stated.activation;
  if (stated.norm_epsilon > 0) c.norm_epsilon = stated.norm_epsilon;
  require(c.classes == 0 || stated.pool.empty() || stated.pool == "avg", "config.json states the pooling '{}', which fovea's Swin does not have; its head reads the mean (avg)", stated.pool);
  c.merge_norm_epsilon = fact_number(m, "merge_norm_eps", 0);
  const auto windows = known_windows(c, s);
  require(windows || is_set(s.settings, "attention"), "'{}' does not tell its windows; give them as --set attention={}, or one for each stage with / between", s.file.path(),
          c.swin_version == 2 ? "window_v2:size=N" : "window:size=HxW");
  // Without windows the user's lack the home's manners alone (complete_windows).
  c.attention = windows ? window_specs(m, *windows) : (c.swin_version == 2 ? "window_v2" : "window") + home_manners(m);
}

// Neither heads nor stripes show in the shapes: heads go with the width as published; stripes are a 32nd of the image in the
// later stages (7 tokens at 224 pixels, 12 at 384), once the image's size is known.
void set_cswin(ModelConfig& c, const Stranger& s) {
  const RecognisedModel& m = s.model;
  c.family = "cswin";
  c.depths = fact_integers(m, "depths");
  c.stage_heads = fact_integers(m, "num_heads");
  c.qk_norm = m.integer("qk_norm") != 0;
  c.layer_scale = m.integer("layer_scale") != 0 ? 1e-5 : 0;
  c.pyramid_norms = m.integer("pyramid_norms") != 0;
  for (const auto& [key, value] : s.settings)
    if (key == "stage_heads") set_option(c, key, value);
  require(c.stage_heads.size() == c.depths.size(), "the file does not tell its numbers of heads; give them as --set stage_heads=N,N,...");
}

int64_t customary_side(const ModelConfig& c, const RecognisedModel& m) {
  if (m.kind == "cswin") return 224;
  const std::vector<AttentionSpec> stages = stage_specs(c, c.swin_v2() ? "window_v2" : "window");
  const std::string first = spec_option(stages.front(), "size", ""), last = spec_option(stages.back(), "size", "");
  if (c.swin_v2()) return first == "24" ? 384 : first == "12" ? 192 : 256;
  // Published models are made so that a window covers the last map, and their tables are for windows that shrank to it.
  constexpr int64_t kLeast = 7, kMost = 64;
  int64_t window = 0;
  const auto [end, error] = std::from_chars(last.data(), last.data() + last.size(), window);
  const bool square = error == std::errc() && end == last.data() + last.size() && window >= kLeast && window <= kMost && c.depths.size() == 4;
  return square ? (window * c.patch) << (c.depths.size() - 1) : 224;
}

// Where a home fixes windows by the size that the model was built for, a map of then no more than a window is one window for good,
// and is not shifted.
void fix_windows(ModelConfig& c, const RecognisedModel& m) {
  std::vector<std::string> specs;
  int64_t height = c.input.height / c.patch, width = c.input.width / c.patch;
  for (AttentionSpec spec : stage_specs(c, m.integer("swin_version", 1) == 2 ? "window_v2" : "window")) {
    const int64_t window = std::strtoll(spec_option(spec, "size", "0").c_str(), nullptr, 10);
    if (std::min(height, width) > 0 && height <= window) {
      spec.options["size"] = fmt::format("{}", height);
      spec.options["shift"] = "none";
    }
    specs.push_back(spec.str());
    height /= 2;
    width /= 2;
  }
  c.attention = joined_specs(specs);
}

void finish_swin(ModelConfig& c, const Stranger& s, const ModelConfig* preset, const Assume& assume) {
  if (s.model.integer("fixed_windows") != 0 && !is_set(s.settings, "attention")) fix_windows(c, s.model);
  if (is_unknown(s.model, "window_sizes") && windows_beside(s.file.path()).sizes.empty() && preset && c.swin_v2()) assume("attention", c.attention);
}

std::string complete_windows(const ModelConfig& known, const std::string& asked) {
  if (known.family != "swin") return asked;
  const std::string name = known.swin_v2() ? "window_v2" : "window";
  std::vector<AttentionSpec> stages = parse_attention_stages(asked), before = parse_attention_stages(known.attention);
  const auto fits = [&](const AttentionSpec& s) { return s.form == AttentionSpec::Form::kSingle && s.name == name; };
  if (!std::all_of(stages.begin(), stages.end(), fits) || !std::all_of(before.begin(), before.end(), fits)) return asked;
  const size_t count = std::max(stages.size(), before.size());
  std::vector<std::string> specs;
  for (size_t i = 0; i < count; ++i) {
    AttentionSpec spec = stages[std::min(i, stages.size() - 1)];
    const AttentionSpec& old = before[std::min(i, before.size() - 1)];
    // Version 1's table stays the one of the windows that it was made for.
    const bool has_table = name == "window" && old.options.contains("size");
    const std::string table = spec_option(old, "pretrained_window", has_table ? old.options.at("size") : "0");
    for (const auto& [key, value] : old.options)
      if (key != "size" && key != "pretrained_window") spec.options.emplace(key, value);
    if (name == "window_v2" && old.options.contains("pretrained_window")) spec.options.emplace("pretrained_window", table);
    if (has_table && spec_option(spec, "size", "7") != table) {
      spec.options.emplace("pretrained_window", table);
      spec.options.emplace("resample", "bicubic");
    }
    specs.push_back(spec.str());
  }
  return joined_specs(specs);
}

void finish_cswin(ModelConfig& c, const Stranger& s, const ModelConfig* preset, const Assume& assume) {
  c.attention = cswin_attention(s.model, c.input.height);
  if (!preset) assume("attention", c.attention);
  if (is_assumed(s.model, "num_heads") && !(preset && preset->stage_heads == c.stage_heads)) assume("stage_heads", comma_joined(c.stage_heads));
}

void add_swin_facts(const ModelConfig& c, RecognisedModel& m) {
  m.kind = c.swin_version == 2 ? "swin_v2" : "swin";
  m.facts["swin_version"] = c.swin_version;
  m.facts["pyramid_norms"] = int64_t{c.pyramid_norms};
  m.facts["depths"] = comma_joined(c.depths);
  m.facts["num_heads"] = comma_joined(c.stage_heads);
  m.facts["merge_norm_eps"] = c.between_norm_epsilon();
  if (c.absolute_positions) {
    m.facts["absolute_positions"] = int64_t{1};
    m.facts["position_grid"] = comma_joined(c.position_grid.empty() ? std::vector<int64_t>{(c.input.height + c.patch - 1) / c.patch, (c.input.width + c.patch - 1) / c.patch} : c.position_grid);
    m.facts["position_map"] = int64_t{c.pyramid_norms};  // as detectors keep them
  }
  if (c.input.height == c.input.width) m.facts["image_size"] = c.input.height;
  std::vector<std::string> windows, pretrained;
  for (const AttentionSpec& s : stage_specs(c, c.swin_version == 2 ? "window_v2" : "window")) {
    const std::string size = spec_option(s, "size", c.swin_version == 2 ? "8" : "7"), before = spec_option(s, "pretrained_window", "0");
    // Version 1 stores a table for the windows before, version 2 buffers for those in use.
    windows.push_back(c.swin_version == 1 && before != "0" ? before : size);
    pretrained.push_back(before == "0" ? size : before);
  }
  if (std::any_of(windows.begin(), windows.end(), [](const std::string& w) { return w.find('x') != std::string::npos; })) return;
  m.facts["window_sizes"] = fmt::format("{}", fmt::join(windows, ","));
  if (c.swin_version == 2) m.facts["pretrained_windows"] = fmt::format("{}", fmt::join(pretrained, ","));
}

void add_cswin_facts(const ModelConfig& c, RecognisedModel& m) {
  m.kind = "cswin";
  m.facts["depths"] = comma_joined(c.depths);
  m.facts["num_heads"] = comma_joined(c.stage_heads);
  m.facts["qk_norm"] = int64_t{c.qk_norm};
  m.facts["layer_scale"] = int64_t{c.layer_scale > 0};
  m.facts["pyramid_norms"] = int64_t{c.pyramid_norms};
  if (c.input.height == c.input.width) m.facts["image_size"] = c.input.height;
  std::vector<std::string> branches, stripes;
  for (const AttentionSpec& s : stage_specs(c, "cross_shaped")) {
    branches.push_back(spec_option(s, "branches", "2"));
    stripes.push_back(spec_option(s, "stripe", "7"));
  }
  m.facts["branches"] = fmt::format("{}", fmt::join(branches, ","));
  m.facts["stripes"] = fmt::format("{}", fmt::join(stripes, ","));
}

}  // namespace fovea
