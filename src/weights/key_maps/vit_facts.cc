#include "weights/key_maps/vit_facts.h"

#include <algorithm>
#include <deque>

namespace fovea {

namespace {

constexpr int64_t kUsualHeadWidth = 64;

// The rows of a position table by the tokens that they are for.
struct TableShape {
  int64_t side = 0;  // 0: no square
  bool prefix = true, registers = true;
};

TableShape table_shape(int64_t rows, int64_t classes, int64_t registers, TableRows preferred) {
  const auto square = [&](int64_t prefix) { return rows > prefix ? exact_root(rows - prefix).value_or(0) : 0; };
  const TableShape all{square(classes + registers), true, true}, without{square(classes), true, false}, patches{square(0), false, true};
  if (preferred == TableRows::kWithoutRegisters && registers > 0 && without.side > 0) return without;
  if (all.side > 0) return all;
  if (patches.side > 0) return patches;
  if (registers > 0 && without.side > 0) return without;
  return {0, true, preferred == TableRows::kAll || registers == 0};
}

class Shapes {
 public:
  explicit Shapes(const MappedWeights& weights) : weights_(weights) {}
  bool has(std::string_view name) const { return weights_.find(name) != nullptr; }
  int64_t dim(std::string_view name, int d) const {
    const MappedTensor* t = weights_.find(name);
    return t != nullptr && d < t->shape.rank() ? t->shape[d] : 0;
  }
  int64_t count(std::string_view before, std::string_view after) const {
    int64_t n = 0;
    while (has(fmt::format("{}{}{}", before, n, after))) ++n;
    return n;
  }

 private:
  const MappedWeights& weights_;
};

void read_tokens(const Shapes& s, const VitHome& home, RecognisedModel& m) {
  const bool class_token = s.has("cls_token"), distilled = s.has("dist_token");
  const int64_t classes = int64_t{class_token} + int64_t{distilled}, registers = s.dim("reg_token", 1);
  const TableShape table = table_shape(s.dim("pos_embed", 1), classes, registers, home.table);
  m.facts["tokens"] = s.dim("pos_embed", 1);
  m.facts["prefix_tokens"] = classes + registers;
  m.facts["class_token"] = int64_t{class_token};
  m.facts["distillation_token"] = int64_t{distilled};
  m.facts["register_tokens"] = registers;
  m.facts["prefix_positions"] = int64_t{table.prefix};
  m.facts["register_positions"] = int64_t{table.registers};
  if (table.side > 0) m.facts["image_size"] = table.side * s.dim("patch_embed.proj.weight", 2);
  else m.unknown.push_back("image_size");
}

// Where a block's first attention and perceptron stand, and the norm and the scale of the former.
struct BlockNames {
  std::string_view attention, perceptron, norm, scale;
};
constexpr BlockNames kInSequence{".attn", ".mlp", ".norm1", ".ls1"}, kSideBySide{".attns.0.attn", ".ffns.0.mlp", ".attns.0.norm", ".attns.0.ls"};

const BlockNames& block_names(const Shapes& s) { return s.has("blocks.0.attns.0.norm.weight") ? kSideBySide : kInSequence; }

void read_blocks(const Shapes& s, RecognisedModel& m) {
  const BlockNames& names = block_names(s);
  const auto attention = [&](std::string_view name) { return fmt::format("blocks.0{}.{}", names.attention, name); };
  const auto perceptron = [&](std::string_view name) { return fmt::format("blocks.0{}.{}", names.perceptron, name); };
  const int64_t width = s.dim(attention("qkv.weight"), 0) / 3, mlp = s.dim(perceptron("fc1.weight"), 0);
  m.facts["attention_width"] = width;
  m.facts["mlp_width"] = mlp;
  m.facts["gated"] = int64_t{mlp > 0 && s.dim(perceptron("fc2.weight"), 1) * 2 == mlp};
  m.facts["qkv_bias"] = int64_t{s.has(attention("qkv.bias"))};
  m.facts["qk_norm"] = int64_t{s.has(attention("q_norm.weight"))};
  m.facts["layer_scale"] = int64_t{s.has(fmt::format("blocks.0{}.gamma", names.scale))};
  m.facts["parallel"] = std::max<int64_t>(1, s.count("blocks.0.attns.", ".norm.weight"));
  m.facts["pre_norm"] = int64_t{s.has("norm_pre.weight")};
  if (const int64_t head_width = s.dim(attention("q_norm.weight"), 0); head_width > 0) {
    m.facts["num_heads"] = width / head_width;
  } else if (width % kUsualHeadWidth == 0) {
    m.facts["num_heads"] = width / kUsualHeadWidth;
    m.assumed.push_back("num_heads");
  } else {
    m.unknown.push_back("num_heads");
  }
}

void read_head(const Shapes& s, RecognisedModel& m) {
  const int64_t dim = s.dim("patch_embed.proj.weight", 0);
  const bool pooled = s.has("fc_norm.weight"), tokens = s.has("norm.weight"), class_token = s.has("cls_token");
  m.facts["num_classes"] = s.dim("head.weight", 0);
  m.facts["representation"] = s.dim("pre_logits.fc.weight", 0);
  m.facts["head_bias"] = int64_t{s.has("head.bias") || !s.has("head.weight")};
  const bool both = s.dim("head.weight", 1) == 2 * dim && !s.has("pre_logits.fc.weight");
  m.facts["pool"] = std::string(s.has("attn_pool.latent") ? "map" : both ? "token_avg" : pooled || !class_token ? "avg" : "token");
  m.facts["last_norm"] = std::string(pooled ? "pooled" : tokens ? "tokens" : "none");
}

}  // namespace

std::optional<RecognisedModel> recognise_vit(const WeightFile& file, std::span<const KeyRule> rules, std::span<const std::string_view> ignored,
                                             const VitHome& home) {
  Dialect names;
  names.name = "vit";
  names.rules.assign(rules.begin(), rules.end());
  names.ignored.assign(ignored.begin(), ignored.end());
  RecognisedModel m;
  m.dialect = &names;
  const MappedWeights weights = map_keys(file, m);
  m.dialect = nullptr;
  const Shapes s(weights);
  const MappedTensor* patches = weights.find("patch_embed.proj.weight");
  const BlockNames& block = block_names(s);
  const int64_t depth = s.count("blocks.", fmt::format("{}.qkv.weight", block.attention));
  if (patches == nullptr || patches->shape.rank() != 4 || patches->shape[2] != patches->shape[3] || depth == 0 || s.count("blocks.", fmt::format("{}.weight", block.norm)) != depth) return std::nullopt;
  m.kind = !s.has("dist_token") ? (s.has("head.weight") && !s.has("head.bias") ? "vit_projection" : "vit") : s.has("head_dist.weight") ? "deit_distilled" : "deit";
  m.facts["dim"] = patches->shape[0];
  m.facts["in_channels"] = patches->shape[1];
  m.facts["patch_size"] = patches->shape[2];
  m.facts["depth"] = depth;
  read_tokens(s, home, m);
  read_blocks(s, m);
  read_head(s, m);
  m.facts["norm_eps"] = s.has("norm_pre.weight") ? 1e-5 : home.norm_epsilon;
  m.assumed.push_back("norm_eps");
  m.facts["position_resampling"] = std::string(home.position_resampling);
  m.facts["patch_rest"] = std::string(home.patch_rest);
  if (!home.activation.empty()) m.facts["activation"] = std::string(home.activation);
  m.unknown.insert(m.unknown.end(), {"mean", "std"});
  return m;
}

std::vector<KeyRule> under_prefixes(std::span<const std::string_view> prefixes, std::span<const KeyRule> rules) {
  static std::deque<std::string> kept;  // dialects are made once
  std::vector<KeyRule> out;
  for (const std::string_view prefix : prefixes)
    for (KeyRule rule : rules) {
      rule.from = kept.emplace_back(fmt::format("{}{}", prefix, rule.from));
      out.push_back(rule);
    }
  return out;
}

std::string needs_class_position(const RecognisedModel& m) {
  const bool lacks = m.integer("class_token") != 0 && m.integer("prefix_positions", 1) == 0;
  return lacks ? "its position table has a row for the class token, and the model has none" : "";
}

}  // namespace fovea
