// Image towers of Hugging Face's transformers: CLIP (models/clip) and SigLIP (models/siglip), whose names differ in little. A tower stands bare,
// or under "vision_model." in a model that has a head, a projection or a tower of text besides.
//   CLIP: class token, a norm before the blocks, a projection without bias; its classifier averages patches that no last norm has seen.
//   SigLIP: no class token, attention pooling; its classifier averages the patches, and leaves the pooling unused.
#include "weights/key_maps/key_maps.h"
#include "weights/key_maps/views.h"
#include "weights/key_maps/vit_facts.h"

namespace fovea {

namespace {

constexpr KeyRule kTower[] = {
    {"embeddings.class_embedding", "cls_token", as_tokens, 0, 1, as_vector},
    {"embeddings.position_embedding.weight", "pos_embed", as_tokens, 0, 1, as_rows},
    {"embeddings.patch_embedding.{*}", "patch_embed.proj.{*}"},
    {"pre_layrnorm.{*}", "norm_pre.{*}"},
    {"encoder.layers.{i}.layer_norm1.{*}", "blocks.{i}.norm1.{*}"},
    {"encoder.layers.{i}.self_attn.q_proj.{*}", "blocks.{i}.attn.qkv.{*}", nullptr, 0, 3},
    {"encoder.layers.{i}.self_attn.k_proj.{*}", "blocks.{i}.attn.qkv.{*}", nullptr, 1, 3},
    {"encoder.layers.{i}.self_attn.v_proj.{*}", "blocks.{i}.attn.qkv.{*}", nullptr, 2, 3},
    {"encoder.layers.{i}.self_attn.out_proj.{*}", "blocks.{i}.attn.proj.{*}"},
    {"encoder.layers.{i}.layer_norm2.{*}", "blocks.{i}.norm2.{*}"},
    {"encoder.layers.{i}.mlp.fc1.{*}", "blocks.{i}.mlp.fc1.{*}"},
    {"encoder.layers.{i}.mlp.fc2.{*}", "blocks.{i}.mlp.fc2.{*}"},
};
constexpr KeyRule kTowerNorm[] = {{"post_layernorm.{*}", "norm.{*}"}};
constexpr KeyRule kPoolingHead[] = {
    {"head.probe", "attn_pool.latent"},
    {"head.attention.in_proj_weight", "attn_pool.q.weight", nullptr, 0, 1, nullptr, 0, 3},
    {"head.attention.in_proj_weight", "attn_pool.kv.weight", nullptr, 0, 2, nullptr, 1, 3},
    {"head.attention.in_proj_weight", "attn_pool.kv.weight", nullptr, 1, 2, nullptr, 2, 3},
    {"head.attention.in_proj_bias", "attn_pool.q.bias", nullptr, 0, 1, nullptr, 0, 3},
    {"head.attention.in_proj_bias", "attn_pool.kv.bias", nullptr, 0, 2, nullptr, 1, 3},
    {"head.attention.in_proj_bias", "attn_pool.kv.bias", nullptr, 1, 2, nullptr, 2, 3},
    {"head.attention.out_proj.{*}", "attn_pool.proj.{*}"},
    {"head.layernorm.{*}", "attn_pool.norm.{*}"},
    {"head.mlp.{*}", "attn_pool.mlp.{*}"},
};
constexpr KeyRule kTowerProjection[] = {{"visual_projection.weight", "head.weight"}};
constexpr KeyRule kTowerClassifier[] = {{"classifier.{*}", "head.{*}"}};

constexpr std::string_view kTowerBuffers[] = {"embeddings.position_ids", "vision_model.embeddings.position_ids"};
const std::vector<std::string_view> kOtherTower = {"text_model.{*}", "text_projection.weight", "logit_scale", "logit_bias"};

enum class Tower : uint8_t { kClip, kClipClassifier, kSiglip, kSiglipClassifier };
constexpr bool is_clip(Tower t) { return t == Tower::kClip || t == Tower::kClipClassifier; }
constexpr bool classifies(Tower t) { return t == Tower::kClipClassifier || t == Tower::kSiglipClassifier; }

// Names in the order of preference for writing: those of models of one tower are bare.
std::vector<KeyRule> tower_rules(Tower tower) {
  std::vector<KeyRule> inner(std::begin(kTower), std::end(kTower));
  if (tower != Tower::kClipClassifier) inner.insert(inner.end(), std::begin(kTowerNorm), std::end(kTowerNorm));
  if (tower == Tower::kSiglip) inner.insert(inner.end(), std::begin(kPoolingHead), std::end(kPoolingHead));
  constexpr std::string_view kPrefixes[] = {"vision_model.", ""};
  std::vector<KeyRule> rules = under_prefixes(kPrefixes, inner);
  if (tower == Tower::kClip) rules.insert(rules.end(), std::begin(kTowerProjection), std::end(kTowerProjection));
  if (classifies(tower)) rules.insert(rules.end(), std::begin(kTowerClassifier), std::end(kTowerClassifier));
  return rules;
}

template <Tower kKind>
const std::vector<KeyRule>& rules_of_tower() {
  static const std::vector<KeyRule> rules = tower_rules(kKind);
  return rules;
}

// What a classifier does not read.
std::vector<std::string_view> beside_tower(Tower tower) {
  std::vector<std::string_view> out = kOtherTower;
  if (tower == Tower::kClipClassifier) out.push_back("vision_model.post_layernorm.{*}");
  if (tower == Tower::kSiglipClassifier) out.push_back("vision_model.head.{*}");
  return out;
}

// transformers' defaults where there is no config.json.
VitHome home_of_tower(Tower tower) {
  VitHome home{.position_resampling = "bicubic", .patch_rest = "drop"};
  home.norm_epsilon = is_clip(tower) ? 1e-5 : 1e-6;
  home.activation = is_clip(tower) ? "quick_gelu" : "gelu_tanh";
  return home;
}

template <Tower kKind>
std::optional<RecognisedModel> recognise_tower(const WeightFile& file) {
  const auto has = [&](std::string_view name) { return file.find(name) != nullptr || file.find(fmt::format("vision_model.{}", name)) != nullptr; };
  if (!has("encoder.layers.0.self_attn.q_proj.weight") || !has("embeddings.position_embedding.weight") || has("embeddings.class_embedding") != is_clip(kKind) ||
      (file.find("classifier.weight") != nullptr) != classifies(kKind))
    return std::nullopt;
  // Names of another tower would be unknown to recognise_vit, too, but harmless.
  auto m = recognise_vit(file, rules_of_tower<kKind>(), kTowerBuffers, home_of_tower(kKind));
  if (m && kKind == Tower::kClipClassifier) m->facts["pool"] = std::string("avg");
  return m;
}

template <Tower kKind>
std::string tower_refuses(const RecognisedModel& m) {
  const auto text = [&m](std::string_view key) { return std::get<std::string>(m.facts.at(std::string(key))); };
  const std::string pool = text("pool"), last_norm = text("last_norm");
  const bool head = m.integer("num_classes") > 0;
  if (kKind == Tower::kClip && head && m.integer("head_bias", 1) != 0) return "its head is a projection without bias";
  if (kKind == Tower::kClip && (pool != "token" || last_norm != "tokens")) return "it reads the class token behind a last norm of all tokens";
  if (kKind == Tower::kClipClassifier && (!head || pool != "avg" || last_norm != "none")) return "it is a classifier that reads the mean of the patches, without a last norm";
  if (kKind == Tower::kSiglipClassifier && (!head || pool != "avg" || last_norm != "tokens")) return "it is a classifier that reads the mean of the patches behind a last norm";
  if (kKind == Tower::kSiglip && head) return "it has no head behind its pooling";
  return is_clip(kKind) ? needs_class_position(m) : "";
}

template <Tower kKind>
Dialect tower(std::string_view name, std::vector<std::string_view> signs) {
  std::vector<DialectKind> kinds = {{"vit", signs}};
  if (kKind == Tower::kClip) {
    signs.push_back("visual_projection.weight");
    kinds.push_back({"vit_projection", std::move(signs)});
  }
  return {name, rules_of_tower<kKind>(), {std::begin(kTowerBuffers), std::end(kTowerBuffers)}, recognise_tower<kKind>, std::move(kinds),
          beside_tower(kKind), nullptr, tower_refuses<kKind>};
}

}  // namespace

Dialect huggingface_clip_dialect() {
  return tower<Tower::kClip>("huggingface-clip", {"vision_model.embeddings.class_embedding", "vision_model.embeddings.position_embedding.weight", "vision_model.pre_layrnorm.weight",
                                                  "vision_model.encoder.layers.{i}.self_attn.q_proj.weight"});
}
Dialect huggingface_clip_classifier_dialect() {
  return tower<Tower::kClipClassifier>("huggingface-clip-classifier", {"vision_model.embeddings.class_embedding", "vision_model.pre_layrnorm.weight",
                                                                       "vision_model.encoder.layers.{i}.self_attn.q_proj.weight", "classifier.weight"});
}
Dialect huggingface_siglip_dialect() {
  return tower<Tower::kSiglip>("huggingface-siglip", {"vision_model.embeddings.position_embedding.weight", "vision_model.encoder.layers.{i}.self_attn.q_proj.weight",
                                                      "vision_model.post_layernorm.weight", "vision_model.head.probe"});
}
Dialect huggingface_siglip_classifier_dialect() {
  return tower<Tower::kSiglipClassifier>("huggingface-siglip-classifier", {"vision_model.embeddings.position_embedding.weight", "vision_model.encoder.layers.{i}.self_attn.q_proj.weight",
                                                                           "vision_model.post_layernorm.weight", "classifier.weight"});
}

}  // namespace fovea
