// FAVOR+, attention on positive random features: softmax attention estimated in time and memory linear in the tokens.
#pragma once

#include "attention/head_projections.h"
#include "attention/orthogonal_features.h"

namespace fovea {

struct PerformerConfig {
  AttentionConfig heads;
  FeatureKernel map = FeatureKernel::kSoftmax;
  int64_t features = 0;       // M; 0: int(D ln D), at least 1. kNone has always D.
  double epsilon = -1;        // < 0: 1e-4 of the softmax kernel, 1e-3 of the others
  FeatureNorms norms = FeatureNorms::kGaussian;
  int64_t redraw = 0;         // training steps between fresh features; 0: never

  // What official implementations do differently; for comparison with them.
  bool constant_stabilisers = false;   // no gradient through the stabilisers
  bool whole_stabiliser = false;       // causal: the keys' stabiliser looks at later keys too
  bool padding_zeroes_values = false;  // a padded key keeps its share of the denominator
  double causal_epsilon = 0;           // causal: added to each feature of the denominator's sum over keys
};

class PerformerAttention : public Attention {
 public:
  // Parameters as HeadProjections, and scope/proj; buffers scope/projection_matrix (M, D), and with `redraw`
  // scope/steps_since_redraw (1).
  PerformerAttention(const Scope& scope, const PerformerConfig& config);

  void forward(const AttentionInputs& in, Tensor y, Tape* tape, Context& ctx) const override;
  void backward(ConstTensor dy, const AttentionGradients& gradients, Tape& tape, Context& ctx) const override;
  double flops(const TokenGrid& grid) const override;
  // Counts a training step and draws new features after every `redraw` of them.
  void end_step(Context& ctx) override;

 private:
  struct Record;
  FeatureAttentionArgs kernel_args(const AttentionInputs& in, const ProjectedHeads& heads, const Tensor& out, const Tensor& state) const;

  PerformerConfig config_;
  HeadProjections projections_;
  Param* features_ = nullptr;  // nullptr for kNone
  Param* steps_ = nullptr;     // with redraw
  std::optional<Linear> proj_;
};

// x~ = input_scale · x of a map, so that x~ · x~' is the softmax's score.
double feature_input_scale(FeatureKernel map, int64_t head_dim);
double default_feature_epsilon(FeatureKernel map);

}  // namespace fovea
