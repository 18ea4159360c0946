#include "attention/attention.h"

namespace fovea {

std::string TokenGrid::str() const { return fmt::format("{} x ({} + {}x{})", batch, prefix, height, width); }

AttentionConfig with_defaults(AttentionConfig c) {
  require(c.dim > 0 && c.heads > 0, "an attention needs channels and heads, got {} and {}", c.dim, c.heads);
  if (c.head_dim == 0) {
    require(c.dim % c.heads == 0, "{} channels do not divide into {} heads", c.dim, c.heads);
    c.head_dim = c.dim / c.heads;
  }
  if (c.key_dim == 0) c.key_dim = c.dim;
  if (c.value_dim == 0) c.value_dim = c.dim;
  return c;
}

const std::vector<TokenBand>& Attention::bands(const TokenGrid&, int64_t, Context&) const {
  static const std::vector<TokenBand> none;
  return none;
}

namespace {

constexpr const char* kNoSteps = "an attention is to work in steps and has none";

}  // namespace

void Attention::project_rows(ConstTensor, const LayerNorm&, Tensor, Context&) const { check(false, kNoSteps); }
void Attention::meet(const AttentionInputs&, Tensor, Tensor, Context&) const { check(false, kNoSteps); }
void Attention::finish_rows(ConstTensor, ConstTensor, Tensor, Context&) const { check(false, kNoSteps); }

std::vector<std::string> Attention::unsupported(const TokenGrid&) const { return {}; }

}  // namespace fovea
