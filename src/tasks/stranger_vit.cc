// ViT, DeiT, DeiT III and DINOv2 in other code bases' files.
#include <algorithm>

#include "core/check.h"
#include "models/vit.h"
#include "tasks/facts.h"
#include "tasks/stated_architecture.h"
#include "tasks/stranger_families.h"

namespace fovea {

namespace {

std::string text_or(const RecognisedModel& m, std::string_view key, std::string otherwise) {
  const std::string text = fact_text(m, key);
  return text.empty() ? otherwise : text;
}

// The published architecture that is meant: config.json's, or that in the file's name; nullptr where neither names one.
const ModelConfig* named_preset(const ModelConfig& c, const Stranger& s, const StatedArchitecture& stated) {
  const ModelPreset* by_config = stated.preset.empty() ? nullptr : find_preset(stated.preset);
  if (by_config && by_config->config.dim == c.dim && by_config->config.depth == c.depth) return &by_config->config;
  return preset_in_name(s.file.path(), c);
}

// Of all published models of this shape, where they agree; else 0.
int64_t published_heads(const ModelConfig& c) {
  int64_t heads = 0;
  for (const ModelPreset& p : model_presets()) {
    const ModelConfig& o = p.config;
    if (o.family != "vit" || o.dim != c.dim || o.depth != c.depth || mlp_width(o) != mlp_width(c) || o.class_token != c.class_token ||
        gated(o.activation) != gated(c.activation))
      continue;
    if (heads != 0 && heads != o.heads) return 0;
    heads = o.heads;
  }
  return heads;
}

struct Heads {
  int64_t count = 0;
  bool assumed = false;
};

Heads heads_of(const ModelConfig& c, const Stranger& s, const StatedArchitecture& stated) {
  if (is_set(s.settings, "heads")) {
    ModelConfig asked;
    for (const auto& [key, value] : s.settings)
      if (key == "heads") set_option(asked, key, value);
    return {asked.heads, false};
  }
  const int64_t told = s.model.integer("num_heads");
  if (told > 0 && !is_assumed(s.model, "num_heads")) return {told, false};
  if (stated.heads > 0) return {stated.heads, false};
  if (const ModelConfig* preset = named_preset(c, s, stated)) return {preset->heads, false};
  if (const int64_t published = published_heads(c); published > 0) return {published, true};
  return {told, true};
}

// timm's other poolings of tokens.
bool stated_pool_is_foreign(const std::string& pool) { return pool == "max" || pool == "avgmax" || pool == "prr"; }

}  // namespace

void set_vit(ModelConfig& c, const Stranger& s) {
  const RecognisedModel& m = s.model;
  const StatedArchitecture stated = stated_architecture_beside(s.file.path());
  c.family = "vit";
  c.attention = "global";
  c.depth = m.integer("depth");
  c.class_token = m.integer("class_token") != 0;
  c.distillation_token = m.integer("distillation_token") != 0;
  c.distillation_head = m.kind != "deit";
  c.register_tokens = m.integer("register_tokens");
  c.pre_norm = m.integer("pre_norm") != 0;
  c.pool = text_or(m, "pool", "token");
  c.last_norm = text_or(m, "last_norm", "auto");
  const bool tells = stated.pool == "avg" || (stated.pool == "token" && c.class_token);
  if (tells && (c.pool == "token" || c.pool == "avg")) c.pool = stated.pool;
  require(c.classes == 0 || !stated_pool_is_foreign(stated.pool) || is_set(s.settings, "pool"),
          "config.json states the pooling '{}', which fovea's models do not have; --set pool=NAME chooses one that they have (token, avg)", stated.pool);
  // timm's names tell where its norm stands, whatever pooling is asked for.
  const bool told = m.dialect != nullptr && m.dialect->name == "timm" && is_set(s.settings, "pool");
  if (!told && ((c.last_norm == "pooled" && c.pool == "avg") || (c.last_norm == "tokens" && c.pool != "avg"))) c.last_norm = "auto";
  c.representation = m.integer("representation");
  c.head_bias = m.integer("head_bias", 1) != 0;
  c.qk_norm = m.integer("qk_norm") != 0;
  c.parallel = m.integer("parallel", 1);
  c.layer_scale = m.integer("layer_scale") != 0 ? 1e-5 : 0;
  c.positions = stated.positions;
  for (const auto& [key, value] : s.settings)
    if (key == "positions") set_option(c, key, value);
  c.prefix_positions = m.integer("prefix_positions", 1) != 0;
  c.register_positions = m.integer("register_positions", 1) != 0;
  c.position_resampling = text_or(m, "position_resampling", c.position_resampling);
  c.patch_rest = text_or(m, "patch_rest", c.patch_rest);

  const ModelConfig* preset = named_preset(c, s, stated);
  if (m.integer("gated") != 0) c.activation = "swiglu";
  else if (!stated.activation.empty()) c.activation = stated.activation;
  else if (preset) c.activation = preset->activation;
  else c.activation = text_or(m, "activation", c.activation);
  if (c.pool == "map" && preset) c.pool_prefix = preset->pool_prefix;
  // timm's architectures have epsilons of their own, whatever depth and width they are made with.
  if (const ModelPreset* named = stated.preset.empty() ? nullptr : find_preset(stated.preset)) c.norm_epsilon = named->config.norm_epsilon;
  if (c.parallel == 1 && preset) c.block_norm = preset->block_norm;  // both kinds of block have the same tensors
  if (stated.norm_epsilon > 0) c.norm_epsilon = stated.norm_epsilon;
  const int64_t width = m.integer("attention_width");
  c.heads = heads_of(c, s, stated).count;
  require(c.heads > 0, "the file does not tell its number of heads ({} channels in all); give it as --set heads=N", width);
  require(width > 0 && width % c.heads == 0, "{} attention channels do not divide into {} heads; --set heads=N changes the number", width, c.heads);
  c.head_dim = width / c.heads == c.dim / c.heads && c.dim % c.heads == 0 ? 0 : width / c.heads;
}

void finish_vit(ModelConfig& c, const Stranger& s, const ModelConfig* preset, const Assume& assume) {
  const RecognisedModel& m = s.model;
  // The table's own size, where the pictures have another one.
  const int64_t side = m.integer("image_size") / std::max<int64_t>(1, c.patch);
  const TokenEmbedConfig tokens = vit_tokens(c);
  if (side > 0 && c.position_grid.empty() && (tokens.grid_height != side || tokens.grid_width != side)) c.position_grid = {side, side};
  const StatedArchitecture stated = stated_architecture_beside(s.file.path());
  if (heads_of(c, s, stated).assumed) assume("heads", fmt::format("{}", c.heads));
  if (is_assumed(m, "pool")) assume("pool", c.pool);
  if (is_assumed(m, "norm_eps") && stated.norm_epsilon == 0 && !preset) assume("norm_epsilon", fmt::format("{}", c.norm_epsilon));
  if (m.integer("gated") == 0 && (c.pre_norm || c.pool == "map" || m.facts.contains("activation")) && stated.activation.empty() && !preset) assume("activation", c.activation);
}

void add_vit_facts(const ModelConfig& c, RecognisedModel& m) {
  require(c.attention == "global", "{} has the attention '{}', which only fovea's own files hold", c.name, c.attention);
  const TokenEmbedConfig t = vit_tokens(c);
  m.kind = !c.distillation_token ? (c.classes > 0 && !c.head_bias ? "vit_projection" : "vit") : c.distillation_head && c.classes > 0 ? "deit_distilled" : "deit";
  m.facts["depth"] = c.depth;
  m.facts["num_heads"] = c.heads;
  m.facts["attention_width"] = c.head_dim > 0 ? c.heads * c.head_dim : c.dim;
  m.facts["tokens"] = t.grid_height * t.grid_width + t.table_prefix();
  m.facts["prefix_tokens"] = t.prefix();
  m.facts["class_token"] = int64_t{c.class_token};
  m.facts["distillation_token"] = int64_t{c.distillation_token};
  m.facts["register_tokens"] = c.register_tokens;
  m.facts["positions"] = int64_t{c.positions};
  m.facts["prefix_positions"] = int64_t{c.prefix_positions};
  m.facts["register_positions"] = int64_t{c.register_positions};
  m.facts["position_resampling"] = c.position_resampling;
  m.facts["patch_rest"] = c.patch_rest;
  m.facts["gated"] = int64_t{gated(c.activation)};
  m.facts["pre_norm"] = int64_t{c.pre_norm};
  m.facts["qk_norm"] = int64_t{c.qk_norm};
  m.facts["layer_scale"] = int64_t{c.layer_scale > 0};
  m.facts["parallel"] = c.parallel;
  m.facts["block_norm"] = c.block_norm;
  m.facts["pool"] = c.pool;
  m.facts["last_norm"] = std::string(c.norms_pooled() ? "pooled" : c.norms_tokens() ? "tokens" : "none");
  m.facts["representation"] = c.representation;
  m.facts["head_bias"] = int64_t{c.head_bias};
  if (t.grid_height == t.grid_width) m.facts["image_size"] = t.grid_height * c.patch;
}

}  // namespace fovea
