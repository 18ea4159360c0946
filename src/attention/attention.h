// The part of a vision transformer that fovea lets you swap.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "attention/token_bands.h"
#include "ops/layer_norm.h"

namespace fovea {

// Occupied cells of sparse grids, those of all samples together: tokens of a batch whose samples differ in length.
struct CellGrid {
  int64_t samples = 0, depth = 1, height = 0, width = 0;  // of the grids
  const int32_t* cells = nullptr;                         // (count, 4) sample, z, y, x of each token
  int64_t count = 0;
};

// The tokens of a batch: `prefix` tokens (class, distillation, registers) before height x width map tokens, row-major.
struct TokenGrid {
  int64_t batch = 0, prefix = 0, height = 0, width = 0;
  const CellGrid* cells = nullptr;  // tokens are occupied cells: batch 1, no prefix, height 1, as wide as there are cells
  int64_t tokens() const { return prefix + height * width; }
  std::string str() const;  // "2 x (1 + 14x14)"
};

struct AttentionInputs {
  ConstTensor x;                          // (B, N, C) the queries' tokens, already normalised where the block does so first
  TokenGrid grid;                         // of x
  ConstTensor key_input, value_input;     // (B, Nk, Ck), (B, Nk, Cv): cross attention; empty: x. Only a value: not allowed.
  bool causal = false;                    // a query sees keys at its own position and before
  const uint8_t* key_padding = nullptr;   // (B, Nk) 1 = no key
  const int8_t* token_state = nullptr;    // (B, N) -1 padding (no key, output 0), 0 local, 1 global; where the mechanism knows it
  ConstTensor mask;                       // (B or 1, H or 1, N, Nk) added to the scores, or empty
  ConstTensor residual;                   // (B, N, C) added to the output, or empty
  ConstTensor memory;                     // (B, M, C) what stood before x in the sequence (Transformer-XL), or empty
  const LayerNorm* norm = nullptr;        // in inference, where Attention::takes_norm: x is not normalised yet, and this is to do it
  // In inference, where Attention::bands gave one: x (1, N, C) holds the tokens of this band alone, grid is still that of the map.
  const TokenBand* band = nullptr;
  ConstTensor score_bias;                 // what Attention::prepare gave, or empty: computed in the call

  int64_t tokens() const { return band ? band->count : grid.tokens(); }  // N
};

struct AttentionGradients {
  Tensor dx;                              // (B, N, C) written
  Tensor dkey_input, dvalue_input;        // written in cross attention (dvalue_input empty where values come from key_input)
  Tensor dmemory = {};                    // (B, M, C) written; empty: the memory is detached
};

// What a self attention in steps hands from one to the next: rows (B N, 3 H D) of projections, which project_rows writes, and rows
// (B N, H D) that `meet` makes of them.
struct AttentionSteps {
  int64_t inner = 0;  // H D
  DType projected = DType::kF32, met = DType::kF32;
  bool operator==(const AttentionSteps&) const = default;
};

// One mechanism with its parameters. forward is a function of its inputs: state (centroids, random features) changes in
// end_step alone.
class Attention {
 public:
  virtual ~Attention() = default;
  // y (B, N, C)
  virtual void forward(const AttentionInputs& in, Tensor y, Tape* tape, Context& ctx) const = 0;
  virtual void backward(ConstTensor dy, const AttentionGradients& gradients, Tape& tape, Context& ctx) const = 0;

  // The mechanism reads x in one product alone, which can normalise it on the way.
  virtual bool takes_norm() const { return false; }
  // Parts of the tokens that meet nobody outside, each of at least `least` tokens: forward may be called on each alone. Empty: there
  // are none. Valid as long as the context.
  virtual const std::vector<TokenBand>& bands(const TokenGrid& grid, int64_t least, Context& ctx) const;
  // What forwards on parts of a batch or a map would each compute again, in scratch; empty: nothing.
  virtual ConstTensor prepare(const TokenGrid&, Context&) const { return {}; }

  // An inference in three steps, of which only the second lets tokens meet: the others go over any rows, so that what a block does
  // to each token alone can go on with them. None: the mechanism works as a whole.
  virtual std::optional<AttentionSteps> steps(const TokenGrid&, Context&) const { return {}; }
  virtual void project_rows(ConstTensor x, const LayerNorm& norm, Tensor projected, Context&) const;
  virtual void meet(const AttentionInputs&, Tensor projected, Tensor met, Context&) const;  // all rows of the grid or band; x is not read
  virtual void finish_rows(ConstTensor met, ConstTensor residual, Tensor y, Context&) const;

  // Every reason why this mechanism cannot run on such tokens; empty when it can.
  virtual std::vector<std::string> unsupported(const TokenGrid& grid) const;
  // Multiply-adds times two that the mechanism's definition needs, projections included, padding not counted.
  virtual double flops(const TokenGrid& grid) const = 0;
  virtual void end_step(Context&) {}
};

// What every mechanism is built from.
struct AttentionConfig {
  int64_t dim = 0;         // C, of x and of the output
  int64_t heads = 1;
  int64_t head_dim = 0;    // D; 0: dim / heads
  bool qkv_bias = true;
  bool out_bias = true;
  bool qk_norm = false;    // LayerNorm over D on q and k (parameters q_norm, k_norm)
  double norm_epsilon = 1e-6;  // of qk_norm
  bool cosine = false;     // Swin V2: q and k of length one, exp(min(logit_scale, ln 100)) per head for 1 / sqrt(D), no bias on k
  bool cross = false;      // separate projections q, k, v instead of one fused qkv
  bool fused_kv = false;   // of cross attention: keys and values of one input, by one projection kv
  int64_t key_dim = 0;     // Ck, Cv of cross attention; 0: dim
  int64_t value_dim = 0;
  int64_t block = 0;       // index of the block in its stage, of which even and odd ones may differ: window attention shifts its windows in odd ones
  int64_t max_tokens = 0;  // N at the input size that the model is built for, prefix included: sizes parameters that go with N
  bool project_out = true; // false: y is the heads side by side (B, N, H D), without scope/proj
};

// The same with head_dim, key_dim and value_dim filled in; throws Error for impossible sizes.
AttentionConfig with_defaults(AttentionConfig config);

}  // namespace fovea
