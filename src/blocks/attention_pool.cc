#include "blocks/attention_pool.h"

#include <cmath>
#include <cstring>

namespace fovea {

namespace {

AttentionConfig latent_attention(const AttentionPoolConfig& c) {
  AttentionConfig a;
  a.dim = c.dim;
  a.heads = c.heads;
  a.cross = a.fused_kv = true;
  return a;
}

// The same latent for each image.
const std::vector<int32_t>& first_row(int64_t batch, Context& ctx) {
  return ctx.cached<std::vector<int32_t>>(fmt::format("first row {} times", batch), [&] { return std::vector<int32_t>(static_cast<size_t>(batch), 0); });
}

}  // namespace

AttentionPool::AttentionPool(const Scope& scope, const AttentionPoolConfig& c)
    : config_(c),
      latent_(scope.param("latent", Shape{1, 1, c.dim}, Init::truncated_normal(1 / std::sqrt(static_cast<double>(c.dim))), Decay::kYes)),
      attention_(scope, latent_attention(c), std::make_unique<GlobalGeometry>(c.first_token)),
      norm_(scope / "norm", c.dim, c.norm_epsilon),
      mlp_(scope / "mlp", c.dim, c.mlp_hidden, c.activation) {}

void AttentionPool::forward(ConstTensor tokens, Tensor y, Tape* tape, Context& ctx) const {
  ArenaScope scope(ctx.scratch());
  const int64_t batch = tokens.dim(0);
  const Shape shape{batch, 1, config_.dim};
  AttentionInputs in;
  const Tensor query = ctx.activation(shape, tape), attended = ctx.activation(shape, tape);
  ctx.kernels().gather_rows(batch, config_.dim, latent_->value.data, first_row(batch, ctx).data(), query.data, ctx);
  in.x = query;
  in.grid = {batch, 0, 1, 1};
  in.key_input = tokens;
  attention_.forward(in, attended, tape, ctx);
  mlp_.forward(attended, &norm_, attended, y.reshaped(shape), tape, ctx);
}

void AttentionPool::backward(ConstTensor dy, Tensor dtokens, Tape& tape, Context& ctx) const {
  ArenaScope scope(ctx.scratch());
  const int64_t batch = dtokens.dim(0);
  const Shape shape{batch, 1, config_.dim};
  const Tensor dattended = ctx.scratch().take(shape, ctx.dtype()), dquery = ctx.scratch().take(shape, ctx.dtype());
  std::memcpy(dattended.data, dy.data, dattended.bytes());
  mlp_.backward(dattended, &norm_, dattended, tape, ctx);
  attention_.backward(dattended, {dquery, dtokens, {}}, tape, ctx);
  ctx.kernels().column_sum(batch, config_.dim, config_.dim, dquery.data, latent_->grad.data, ctx);
}

double AttentionPool::flops(int64_t batch, int64_t tokens) const {
  const auto images = static_cast<double>(batch), c = static_cast<double>(config_.dim), met = static_cast<double>(tokens - config_.first_token);
  return images * (2 * c * c * (2 + 2 * met) + 4 * c * met) + mlp_.flops(batch);
}

}  // namespace fovea
