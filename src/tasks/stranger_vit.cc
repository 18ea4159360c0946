// ViT, DeiT and DINOv2 in other code bases' files.
#include "core/check.h"
#include "tasks/facts.h"
#include "tasks/stranger_families.h"

namespace fovea {

void set_vit(ModelConfig& c, const Stranger& s) {
  const RecognisedModel& m = s.model;
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
  for (const auto& [key, value] : s.settings)
    if (key == "heads") set_option(c, key, value);
  require(c.heads > 0, "the file does not tell its number of heads ({} channels in all); give it as --set heads=N", width);
  require(width > 0 && width % c.heads == 0, "{} attention channels do not divide into {} heads; --set heads=N changes the number", width, c.heads);
  c.head_dim = width / c.heads == c.dim / c.heads && c.dim % c.heads == 0 ? 0 : width / c.heads;
  // A table without rows for the prefix tokens has a square of rows by itself.
  const int64_t tokens = m.integer("tokens"), prefix = m.integer("prefix_tokens");
  c.prefix_positions = prefix == 0 || exact_root(tokens - prefix).has_value() || !exact_root(tokens).has_value();
}

void finish_vit(ModelConfig& c, const Stranger& s, const ModelConfig* preset, const Assume& assume) {
  if (is_assumed(s.model, "num_heads") && !(preset && preset->heads == c.heads)) assume("heads", fmt::format("{}", c.heads));
  if (is_assumed(s.model, "pool")) assume("pool", c.pool);
}

void add_vit_facts(const ModelConfig& c, RecognisedModel& m) {
  require(c.attention == "global", "{} has the attention '{}', which only fovea's own files hold", c.name, c.attention);
  m.kind = c.distillation_token ? "deit_distilled" : "vit";
  const int64_t prefix = (c.class_token ? 1 : 0) + (c.distillation_token ? 1 : 0) + c.register_tokens;
  const int64_t patches = ((c.input.height + c.patch - 1) / c.patch) * ((c.input.width + c.patch - 1) / c.patch);
  m.facts["depth"] = c.depth;
  m.facts["num_heads"] = c.heads;
  m.facts["attention_width"] = c.head_dim > 0 ? c.heads * c.head_dim : c.dim;
  m.facts["tokens"] = patches + (c.prefix_positions ? prefix : 0);
  m.facts["prefix_tokens"] = prefix;
  m.facts["class_token"] = int64_t{c.class_token};
  m.facts["register_tokens"] = c.register_tokens;
  m.facts["qk_norm"] = int64_t{c.qk_norm};
  m.facts["layer_scale"] = int64_t{c.layer_scale > 0};
  m.facts["pool"] = c.pool;
  if (c.input.height == c.input.width) m.facts["image_size"] = c.input.height;
}

}  // namespace fovea
