// Routing Transformer (Roy et al. 2020, 2003.05997): tokens meet the tokens of their cluster, found by online k-means.
#pragma once

#include <optional>

#include "attention/attention.h"
#include "attention/routed_softmax.h"

namespace fovea {

class RoutingAttention : public Attention {
 public:
  // Parameters scope/qkv, or scope/{q, v} with shared q and k, or scope/{q, k, v} in cross attention; scope/proj; and those of
  // RoutedSoftmax. routed.heads and head_dim follow from `config`; clusters = 0: about the root of the tokens the model is built for.
  RoutingAttention(const Scope& scope, const AttentionConfig& config, RoutedConfig routed);

  void forward(const AttentionInputs& in, Tensor y, Tape* tape, Context& ctx) const override;
  void backward(ConstTensor dy, const AttentionGradients& gradients, Tape& tape, Context& ctx) const override;
  std::vector<std::string> unsupported(const TokenGrid& grid) const override;
  double flops(const TokenGrid& grid) const override;
  void end_step(Context& ctx) override { routed_->end_step(ctx); }

  const RoutedSoftmax& routed() const { return *routed_; }

 private:
  struct Record;
  struct Heads;
  Heads heads_of(const Tensor& q, const Tensor& k, const Tensor& v, int64_t queries, int64_t keys, Context& ctx) const;
  int64_t inner() const { return config_.heads * config_.head_dim; }
  bool shared() const { return routed_->config().keys == RoutedConfig::Keys::kUnitQueries; }

  AttentionConfig config_;
  std::optional<Linear> qkv_, q_, k_, v_;
  std::optional<RoutedSoftmax> routed_;
  std::optional<Linear> proj_;
};

}  // namespace fovea
