// Parallel heads: several mechanisms side by side, each complete with projections of its own over its share of the heads; their
// outputs stand next to each other and pass one output projection.
#pragma once

#include <optional>

#include "attention/attention.h"

namespace fovea {

class ParallelAttention : public Attention {
 public:
  struct Part {
    std::string name;  // for messages
    int64_t heads = 1;
    std::unique_ptr<Attention> attention;  // built with part_config
  };

  // Parameters scope/proj (with project_out); the parts' were made before, by convention as scope/0, scope/1, ...
  ParallelAttention(const Scope& scope, const AttentionConfig& config, std::vector<Part> parts);
  // What a part with so many of the heads is built with: heads as wide as the whole's, no output projection.
  static AttentionConfig part_config(const AttentionConfig& config, int64_t heads);

  void forward(const AttentionInputs& in, Tensor y, Tape* tape, Context& ctx) const override;
  void backward(ConstTensor dy, const AttentionGradients& gradients, Tape& tape, Context& ctx) const override;
  std::vector<std::string> unsupported(const TokenGrid& grid) const override;
  double flops(const TokenGrid& grid) const override;
  void end_step(Context& ctx) override;

 private:
  struct Record;
  int64_t inner() const { return config_.heads * config_.head_dim; }

  AttentionConfig config_;
  std::vector<Part> parts_;
  std::optional<Linear> proj_;
};

}  // namespace fovea
