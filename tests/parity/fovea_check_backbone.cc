// Fixtures of whole models and of the position table.
#include "parity/runners.h"

#include <cmath>

#include "core/convert.h"
#include "embed/resample.h"
#include "models/swin.h"

namespace fovea::parity {

namespace {

void pos_embed_resample(CheckCase& c) {
  const Json& j = c.config;
  const auto [from_h, from_w] = pair_of(j.at("old_size"));
  const auto [to_h, to_w] = pair_of(j.at("new_size"));
  const int64_t prefix = j.at("num_prefix_tokens"), dim = j.at("dim");
  c.load();
  const Tensor x = c.input("pos").reshaped(Shape{prefix + from_h * from_w, dim});
  const Tensor y = c.memory(Shape{prefix + to_h * to_w, dim}), dx = c.memory(x.shape);
  const GridResampling r{from_h, from_w, to_h, to_w};
  convert(x.slice(0, prefix), y.slice(0, prefix));
  resample_grid(r, x.slice(prefix, from_h * from_w), y.slice(prefix, to_h * to_w), c.ctx);
  c.output("pos", y);
  const Tensor dy = c.upstream("pos").reshaped(y.shape);
  convert(dy.slice(0, prefix), dx.slice(0, prefix));
  resample_grid_backward(r, dy.slice(prefix, to_h * to_w), dx.slice(prefix, from_h * from_w), c.ctx);
  c.input_gradient("pos", dx);
}

void backbone_vit(CheckCase& c, bool distilled) {
  const Json& j = c.config;
  ModelConfig m = model_config(j);
  m.family = "vit";
  m.depth = j.at("depth");
  m.heads = j.at("num_heads");
  m.class_token = flag(j, "class_token", true);
  m.distillation_token = distilled;
  m.register_tokens = j.value("reg_tokens", 0);
  m.pool = j.value("global_pool", "token");
  const std::string act = j.value("act", "gelu_erf");
  m.activation = act == "gelu_erf" ? "gelu" : act;
  const int64_t patches = ((m.input.height + m.patch - 1) / m.patch) * ((m.input.width + m.patch - 1) / m.patch);
  m.prefix_positions = c.fixture.tensor("w.pos_embed").dim(1) != patches;
  ModelCase model(c, m);
  model.load();
  const Tensor x = c.input("x"), dx = c.memory(x.shape);
  const auto out = model.model.forward(x, &c.tape, c.ctx);
  const char* names[] = {distilled ? "logits_cls" : "logits", "logits_dist"};
  std::array<Tensor, 2> dlogits;
  for (int h = 0; h < model.model.heads(); ++h) {
    c.output(names[h], out.logits[static_cast<size_t>(h)]);
    dlogits[static_cast<size_t>(h)] = c.upstream(names[h]);
  }
  Tensor dfeatures;
  if (c.fixture.has("out.features")) c.output("features", out.backbone.features);
  if (c.fixture.has("gout.features")) dfeatures = c.upstream("features");
  model.model.backward(dlogits, dfeatures, {}, dx, c.tape, c.ctx);
  c.input_gradient("x", dx);
  model.collect_gradients();
}

// The windows of each stage: what the fixture says was used, or what the tables' sizes say (square windows), or, in version 2,
// what was asked for.
std::string window_specs(const CheckCase& c, const std::string& rule, int64_t version) {
  const Json& j = c.config;
  std::string spec;
  int64_t block = 0;
  const std::vector<int64_t> depths = j.at("depths");
  for (size_t s = 0; s < depths.size(); ++s) {
    int64_t h = 0, w = 0;
    if (j.contains("windows_used") && j["windows_used"].is_array()) {
      std::tie(h, w) = pair_of(j["windows_used"].at(static_cast<size_t>(block)).at(0));
    } else if (version == 2) {
      std::tie(h, w) = pair_of(j.at("window_size"));
    } else {
      const int64_t rows = c.fixture.tensor(fmt::format("w.layers.{}.blocks.0.attn.relative_position_bias_table", s)).dim(0);
      h = w = (std::lround(std::sqrt(static_cast<double>(rows))) + 1) / 2;
    }
    block += depths[s];
    spec += fmt::format("{}window{}:size={}x{}:rule={}", s == 0 ? "" : "/", version == 2 ? "_v2" : "", h, w, rule);
    if (version != 2 || !j.contains("pretrained_window_sizes")) continue;
    if (const auto [ph, pw] = pair_of(j["pretrained_window_sizes"].at(s)); ph > 0) spec += fmt::format(":pretrained_window={}x{}", ph, pw);
  }
  return spec;
}

// layers.S.downsample at the end of stage S (Microsoft) is ours at the start of stage S + 1 (timm).
std::string microsoft_name(const std::string& key) {
  if (key.rfind("head.", 0) == 0) return "head.fc." + key.substr(5);
  const size_t at = key.find(".downsample.");
  if (at == std::string::npos) return key;
  return fmt::format("layers.{}{}", std::stoi(key.substr(7, at - 7)) + 1, key.substr(at));
}

void backbone_swin(CheckCase& c, bool microsoft, int64_t version) {
  const Json& j = c.config;
  ModelConfig m = model_config(j);
  m.family = "swin";
  m.depths = j.at("depths").get<std::vector<int64_t>>();
  m.stage_heads = j.at("num_heads").get<std::vector<int64_t>>();
  m.attention = window_specs(c, microsoft ? "microsoft" : "timm", version);
  m.swin_version = version;
  ModelCase model(c, m);
  model.load(microsoft ? std::function<std::string(const std::string&)>(microsoft_name) : nullptr);
  const auto& swin = dynamic_cast<const SwinTransformer&>(model.model.backbone());
  const size_t stages = swin.stages().size();
  const Tensor x = c.input("x"), dx = c.memory(x.shape);
  const auto out = model.model.forward(x, &c.tape, c.ctx);
  c.output("logits", out.logits[0]);
  std::vector<Tensor> dpyramid(stages);
  for (size_t s = 0; s < stages; ++s) {
    const std::string name = fmt::format("stage{}", s);
    if (!c.fixture.has("out." + name)) continue;
    const FeatureMap& map = out.backbone.pyramid[s];
    const Tensor upstream = c.fixture.has("gout." + name) ? c.upstream(name) : Tensor();
    if (!microsoft || s + 1 == stages) {
      c.output(name, map.tokens);
      if (!upstream.empty()) dpyramid[s] = upstream.reshaped(map.tokens.shape);
      continue;
    }
    // Microsoft's stage ends after merging. The loss is linear in its outputs, so merging runs once more beside the model
    // and its gradient joins the map's.
    Tape beside;
    const Tensor merged = swin.stages()[s + 1].merge(map.tokens, map.grid, &beside, c.ctx);
    const Tensor kept = c.memory(merged.shape);
    convert(merged, kept);
    c.output(name, kept);
    if (upstream.empty()) continue;
    ArenaScope scope(c.ctx.scratch());
    dpyramid[s] = c.memory(map.tokens.shape);
    convert(swin.stages()[s + 1].merge_backward(upstream.reshaped(merged.shape), map.grid, beside, c.ctx), dpyramid[s]);
  }
  model.model.backward({c.upstream("logits"), Tensor()}, {}, dpyramid, dx, c.tape, c.ctx);
  c.input_gradient("x", dx);
  model.collect_gradients();
}

}  // namespace

void add_backbone_runners(Runners& runners) {
  runners["pos_embed_resample"] = pos_embed_resample;
  runners["backbone_vit"] = [](CheckCase& c) { backbone_vit(c, false); };
  runners["backbone_deit_distilled"] = [](CheckCase& c) { backbone_vit(c, true); };
  runners["backbone_swin"] = [](CheckCase& c) { backbone_swin(c, true, 1); };
  runners["backbone_swin_timm"] = [](CheckCase& c) { backbone_swin(c, false, 1); };
  runners["backbone_swin_v2"] = [](CheckCase& c) { backbone_swin(c, true, 2); };
  runners["backbone_swin_v2_timm"] = [](CheckCase& c) { backbone_swin(c, false, 2); };
}

}  // namespace fovea::parity
