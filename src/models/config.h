// What a model is, as data: enough to build it, stored with its weights as JSON.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "blocks/transformer_block.h"

namespace fovea {

// How images become the network's input.
struct InputConfig {
  int64_t channels = 3, height = 224, width = 224;
  double crop_pct = 0.9;                 // centre crop of this share of the resized image's sides
  std::vector<int64_t> resize_size;      // N or height,width before the crop, for an input of height x width; empty: by crop_pct
  std::string interpolation = "bicubic"; // nearest, box, bilinear, hamming, bicubic, lanczos
  std::string resize = "shorter";        // shorter: aspect kept, the size covered; squash: both sides; border: aspect kept, inside
                                         // the size, the rest in the mean's colour; none: crop or pad only
  std::string crop_rounding = "even";    // of the crop's offsets: even (torchvision, timm), down (Hugging Face)
  std::vector<double> mean = {0.485, 0.456, 0.406}, std = {0.229, 0.224, 0.225};
};

inline constexpr size_t kMaxStages = 8;   // of a hierarchical model

bool takes_pictures(const InputConfig& input);                // 1 or 3 channels; others are given as arrays
void change_channels(InputConfig& input, int64_t channels);   // then each has the mean of the means and of the deviations

struct ModelConfig {
  std::string name;                      // preset or free name
  std::string family = "vit";            // vit, swin, cswin
  InputConfig input;
  int64_t classes = 1000;                // 0: no head, features only
  std::vector<std::string> class_names;  // empty: numbers

  std::string attention = "global";      // SPEC, per stage
  bool convolutional_stem = false;
  int64_t patch = 16, dim = 768;
  double mlp_ratio = 4;
  bool qkv_bias = true, qk_norm = false;
  std::string activation = "gelu";       // gelu (erf), gelu_tanh, relu, quick_gelu, silu; vit: swiglu, gated, mlp_ratio counts both halves
  double norm_epsilon = 1e-6;
  double merge_norm_epsilon = 0;         // swin: of the norms between blocks (patches, merges, pyramid_norms); 0: norm_epsilon
  double layer_scale = 0;
  std::string block_norm = "pre";        // vit: pre, x + f(norm(x)); res_post, x + norm(f(x))
  int64_t parallel = 1;                  // vit: attentions side by side in a block, and perceptrons likewise
  double dropout = 0, drop_path = 0;     // drop_path grows linearly from 0 to this over the blocks

  // vit
  int64_t depth = 12, heads = 12, head_dim = 0;  // head_dim 0: dim / heads
  bool class_token = true, distillation_token = false;
  bool distillation_head = true;         // of a distillation token: a second head; evaluation averages the two
  int64_t register_tokens = 0;
  bool pre_norm = false;                 // a layer norm before the first block, and no bias of the patches (CLIP)
  std::string pool = "token";            // token, avg (mean of the patches), token_avg (both, side by side), map (attention_pool.h)
  bool pool_prefix = false;              // pool=map: of prefix tokens, too
  std::string last_norm = "auto";        // tokens (norm, of all of them), pooled (fc_norm), none; auto: pooled with pool=avg, else tokens
  int64_t representation = 0;            // width of a layer with tanh between pooling and head; 0: none
  bool head_bias = true;                 // false: the head is a projection without bias (CLIP)
  bool positions = true;                 // vit: a learned position of each token
  bool prefix_positions = true;          // the position table has rows for the prefix tokens
  bool register_positions = true;        // then: for registers, too
  std::vector<int64_t> position_grid;    // height and width of the position table in patches; empty: those of the input
  std::string position_resampling = "antialiased";  // for other maps: see cubic_rule_named
  std::string patch_rest = "pad";        // vit, swin: pixels beyond the last whole patch: pad (filled up with zeros), drop

  // swin, cswin
  std::vector<int64_t> depths = {2, 2, 6, 2}, stage_heads = {3, 6, 12, 24};

  // swin
  bool absolute_positions = false;       // a learned position of each patch besides (position_grid, position_resampling, also none)
  int64_t swin_version = 1;              // 2: norms at the end of residual branches and after merging

  // swin, cswin
  bool pyramid_norms = false;            // a layer norm for each map of the pyramid, for dense heads, instead of one at the end
  int64_t first_pyramid_norm = 0;        // swin: maps before this one have none

  bool swin_v2() const { return family == "swin" && swin_version == 2; }
  bool norms_tokens() const { return last_norm == "tokens" || (last_norm == "auto" && pool != "avg"); }  // vit
  bool norms_pooled() const { return last_norm == "pooled" || (last_norm == "auto" && pool == "avg"); }
  double between_norm_epsilon() const { return merge_norm_epsilon > 0 ? merge_norm_epsilon : norm_epsilon; }
  bool hierarchical() const { return family == "swin" || family == "cswin"; }
};

std::string to_json(const ModelConfig& config);              // pretty, stable order
ModelConfig config_from_json(const std::string& text, const std::string& where);  // throws Error naming `where` and the key
// --set key=value on a configuration (heads, mean, std, crop, interpolation, ...); throws Error listing the known keys.
void set_option(ModelConfig& config, const std::string& key, const std::string& value);
// The values of these keys as set_option takes them.
std::vector<std::pair<std::string, std::string>> settings_of(const ModelConfig& config, const std::vector<std::string>& keys);
void validate(const ModelConfig& config);                    // throws Error for impossible combinations

Activation activation_named(const std::string& name);        // of swiglu: its SiLU
bool gated(const std::string& activation);
int64_t mlp_width(const ModelConfig& config);                // outputs of a ViT's fc1

struct ModelPreset {
  ModelConfig config;
  std::string summary;
  std::vector<std::string> aliases = {};  // other names that it answers to
};
const std::vector<ModelPreset>& model_presets();
const ModelPreset* find_preset(const std::string& name);     // by its name or an alias; nullptr when there is none
ModelConfig preset_config(const std::string& name);          // throws Error with the nearest names

}  // namespace fovea
