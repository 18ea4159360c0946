// Swin, Swin V2 and CSWin in other code bases' files.
#include <algorithm>

#include "attention/spec.h"
#include "core/check.h"
#include "core/text.h"
#include "tasks/facts.h"
#include "tasks/stranger_families.h"

namespace fovea {

namespace {

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

std::string comma_joined(const std::vector<int64_t>& values) { return fmt::format("{}", fmt::join(values, ",")); }

}  // namespace

void set_swin(ModelConfig& c, const Stranger& s) {
  const RecognisedModel& m = s.model;
  c.family = "swin";
  c.swin_version = m.integer("swin_version", 1);
  c.depths = fact_integers(m, "depths");
  c.stage_heads = fact_integers(m, "num_heads");
  if (m.facts.contains("window_sizes")) {
    c.attention = window_specs(m);
  } else if (const ModelConfig* preset = preset_in_name(s.file.path(), c); preset && c.swin_version == 2) {  // whose parameters tell none
    c.attention = preset->attention;
  } else {
    require(is_set(s.settings, "attention"), "'{}' does not tell its windows; give them as --set attention={}", s.file.path(),
            c.swin_version == 2 ? "window_v2:size=N" : "window:size=HxW");
  }
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
  const std::string window = split(fact_text(m, "window_sizes"), ',').front();
  if (c.swin_v2()) return window == "24" ? 384 : window == "12" ? 192 : 256;
  return window == "12" ? 384 : 224;
}

void finish_swin(ModelConfig& c, const Stranger& s, const ModelConfig* preset, const Assume& assume) {
  if (is_unknown(s.model, "window_sizes") && preset && c.swin_v2()) assume("attention", c.attention);
}

void finish_cswin(ModelConfig& c, const Stranger& s, const ModelConfig* preset, const Assume& assume) {
  c.attention = cswin_attention(s.model, c.input.height);
  if (!preset) assume("attention", c.attention);
  if (is_assumed(s.model, "num_heads") && !(preset && preset->stage_heads == c.stage_heads)) assume("stage_heads", comma_joined(c.stage_heads));
}

void add_swin_facts(const ModelConfig& c, RecognisedModel& m) {
  m.kind = "swin";
  m.facts["swin_version"] = c.swin_version;
  m.facts["depths"] = comma_joined(c.depths);
  m.facts["num_heads"] = comma_joined(c.stage_heads);
  if (c.input.height == c.input.width) m.facts["image_size"] = c.input.height;
  std::vector<std::string> windows, pretrained;
  for (const AttentionSpec& s : stage_specs(c, c.swin_version == 2 ? "window_v2" : "window")) {
    windows.push_back(spec_option(s, "size", c.swin_version == 2 ? "8" : "7"));
    pretrained.push_back(spec_option(s, "pretrained_window", windows.back()));
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
