// The sequence of a ViT: prefix tokens (class, distillation, registers) before the patches, plus the learned position table.
#pragma once

#include "attention/attention.h"
#include "embed/resample.h"

namespace fovea {

struct TokenEmbedConfig {
  int64_t dim = 0;
  bool class_token = true, distillation_token = false;
  int64_t register_tokens = 0;
  bool positions = true;                      // without them there is no table
  int64_t grid_height = 14, grid_width = 14;  // of the position table
  bool prefix_positions = true;               // the table has rows for the prefix tokens as well
  bool register_positions = true;             // then: for registers, too
  CubicRule resampling = {};                  // of the table, for other maps
  std::string table = "pos_embed";            // its name
  int64_t prefix() const { return class_token + distillation_token + register_tokens; }
  int64_t table_prefix() const { return positions && prefix_positions ? prefix() - (register_positions ? 0 : register_tokens) : 0; }
};

class TokenEmbed {
 public:
  // Parameters scope/{cls_token, dist_token, reg_token} (1, n, C), scope/TABLE (1, rows, C) with positions.
  TokenEmbed(const Scope& scope, const TokenEmbedConfig& config);

  const TokenEmbedConfig& config() const { return config_; }

  // `grid` describes y. A map of another size than the table's gets the table resampled.
  void forward(ConstTensor patches /* (B, h w, C) */, const TokenGrid& grid, Tensor y /* (B, N, C) */, Tape* tape, Context& ctx) const;
  void backward(ConstTensor dy, Tensor dpatches /* written */, Tape& tape, Context& ctx) const;

 private:
  std::vector<Param*> prefix_params() const;
  // The patches' positions (h w, C) for a map.
  void fill_positions(const TokenGrid& grid, Tensor positions, Context& ctx) const;

  TokenEmbedConfig config_;
  Param* cls_token_ = nullptr;
  Param* dist_token_ = nullptr;
  Param* reg_token_ = nullptr;
  Param* pos_embed_ = nullptr;
};

}  // namespace fovea
