// What the runners of all kinds of fixtures share, and the list of them: a family of kinds is one file fovea_check_FAMILY.cc.
#pragma once

#include "heads/classifier.h"
#include "parity/check_case.h"

namespace fovea::parity {

using Json = nlohmann::json;
using Runners = std::map<std::string, std::function<void(CheckCase&)>>;  // by config.mechanism

// One line for each family.
void add_global_runners(Runners& runners);
void add_swin_runners(Runners& runners);
void add_cswin_runners(Runners& runners);
void add_performer_runners(Runners& runners);
void add_transformer_xl_runners(Runners& runners);
void add_backbone_runners(Runners& runners);
void add_linformer_runners(Runners& runners);
void add_sampled_runners(Runners& runners);
void add_patterns_runners(Runners& runners);
void add_parallel_runners(Runners& runners);
void add_routing_runners(Runners& runners);
void add_sst_runners(Runners& runners);

// Thrown for a case that pins a quirk of an official implementation which the reference tables alone compute.
class ReferenceOnly : public Error {
 public:
  using Error::Error;
};

std::pair<int64_t, int64_t> pair_of(const Json& j);                        // 7 or [7, 5]
bool flag(const Json& config, const char* key, bool otherwise);            // absent or null: otherwise
Activation activation_of(const std::string& name);
AttentionConfig heads_of(const Json& config);                              // dim, num_heads, qkv_bias
BlockConfig block_of(const Json& config);                                  // and mlp_ratio, act, ln_eps, layer_scale
TokenGrid sequence(int64_t batch, int64_t tokens);                         // (B, N) as a grid without a map's shape
// A linear layer's weight and, where the fixture has one, bias: `rows` rows from key_first on are the parameter's from `first` on.
void bind_both(CheckCase& c, const std::string& key, int64_t key_first, const std::string& parameter, int64_t first, int64_t rows);
// A 0/1 mask (N, Nk), 1 = masked out: as the causal rule when it is one, else as additive -infinity.
void apply_mask(CheckCase& c, const std::string& name, int64_t queries, int64_t keys, AttentionInputs& in);
// Forward, output y, backward from its upstream gradient.
void run_attention(CheckCase& c, const Attention& attention, AttentionInputs& in, const AttentionGradients& gradients, const Shape& y_shape);
// The same for a block, and the gradient of x.
void run_block(CheckCase& c, const TransformerBlock& block, AttentionInputs in);

// Blocked local attention of lucidrains with the fixture's options, forward and backward: q, k, v and the results are (B, H, N, D).
struct KernelRun {
  Tensor y, dq, dk, dv;
};
KernelRun run_local_blocks(CheckCase& c, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& upstream);

ModelConfig model_config(const Json& config);
// A model is built by its configuration alone, so the case binds to the classifier's own store by moving values across.
struct ModelCase {
  CheckCase& c;
  Classifier model;
  ModelCase(CheckCase& check, const ModelConfig& config) : c(check), model(config) {}
  void load(const std::function<std::string(const std::string&)>& rename = {});
  void collect_gradients();
};

}  // namespace fovea::parity
