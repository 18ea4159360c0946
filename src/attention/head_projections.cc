#include "attention/head_projections.h"

namespace fovea {

namespace {

HeadsView heads_view(const Tensor& t, int64_t tokens, int64_t token_stride, int64_t head_dim) {
  return {t.data, tokens * token_stride, token_stride, head_dim};
}

}  // namespace

ConstHeadsView ProjectedHeads::q_view() const {
  return normed_q.empty() ? heads_view(q, queries, q_token_stride, head_dim) : heads_view(normed_q, queries, heads * head_dim, head_dim);
}
ConstHeadsView ProjectedHeads::k_view() const {
  return normed_k.empty() ? heads_view(k, keys, kv_token_stride, head_dim) : heads_view(normed_k, keys, heads * head_dim, head_dim);
}
HeadsView ProjectedHeads::v_view() const { return heads_view(v, keys, kv_token_stride, head_dim); }

HeadProjections::HeadProjections(const Scope& scope, const AttentionConfig& config) : config_(config) {
  const Bias bias = config_.qkv_bias ? Bias::kYes : Bias::kNo;
  if (config_.cross) {
    q_.emplace(scope / "q", config_.dim, inner(), bias);
    k_.emplace(scope / "k", config_.key_dim, inner(), bias);
    v_.emplace(scope / "v", config_.value_dim, inner(), bias);
  } else {
    qkv_.emplace(scope / "qkv", config_.dim, 3 * inner(), bias);
  }
  if (config_.qk_norm) {
    q_norm_.emplace(scope / "q_norm", config_.head_dim, config_.norm_epsilon);
    k_norm_.emplace(scope / "k_norm", config_.head_dim, config_.norm_epsilon);
  }
}

ProjectedHeads HeadProjections::forward(const AttentionInputs& in, Tape* tape, Context& ctx) const {
  ProjectedHeads r{};
  const int64_t batch = r.batch = in.grid.batch, n = r.queries = in.grid.tokens();
  const int64_t h = r.heads = config_.heads, d = r.head_dim = config_.head_dim;
  if (!config_.cross) {
    require(in.key_input.empty() && in.value_input.empty(), "self attention got a second input; build it with cross = true");
    const Tensor qkv = ctx.activation(Shape{batch, n, 3 * inner()}, tape);
    qkv_->apply(in.x, qkv, {}, ctx);
    r.q = qkv;
    r.k = elements_from(qkv, inner());
    r.v = elements_from(qkv, 2 * inner());
    r.q_token_stride = r.kv_token_stride = 3 * inner();
    r.keys = n;
  } else {
    const ConstTensor key = in.key_input.empty() ? in.x : in.key_input;
    const ConstTensor value = in.value_input.empty() ? key : in.value_input;
    require(key.dim(0) == batch && value.dim(0) == batch && key.dim(1) == value.dim(1),
            "cross attention: queries {}, keys {} and values {} do not belong together", in.x.shape, key.shape,
            value.shape);
    r.keys = key.dim(1);
    r.q = ctx.activation(Shape{batch, n, inner()}, tape);
    r.k = ctx.activation(Shape{batch, r.keys, inner()}, tape);
    r.v = ctx.activation(Shape{batch, r.keys, inner()}, tape);
    q_->apply(in.x, r.q, {}, ctx);
    k_->apply(key, r.k, {}, ctx);
    v_->apply(value, r.v, {}, ctx);
    r.q_token_stride = r.kv_token_stride = inner();
  }
  if (!config_.qk_norm) return r;
  const auto norm = [&](const LayerNorm& layer, const Tensor& x, int64_t tokens, int64_t stride, Tensor& y, Tensor& mean,
                        Tensor& rstd) {
    y = ctx.activation(Shape{batch, tokens, h, d}, tape);
    mean = ctx.activation(Shape{batch * tokens * h}, tape);
    rstd = ctx.activation(Shape{batch * tokens * h}, tape);
    layer.forward_rows(x.data, {batch * tokens, h, stride, d}, y.data, {batch * tokens, h, h * d, d}, mean, rstd, ctx);
  };
  norm(*q_norm_, r.q, n, r.q_token_stride, r.normed_q, r.q_mean, r.q_rstd);
  norm(*k_norm_, r.k, r.keys, r.kv_token_stride, r.normed_k, r.k_mean, r.k_rstd);
  return r;
}

ProjectedGradients HeadProjections::gradients(const ProjectedHeads& r, Arena& arena, DType dtype) const {
  ProjectedGradients g;
  if (qkv_) {
    g.dqkv = arena.take(Shape{r.batch, r.queries, 3 * inner()}, dtype);
    g.dq = g.dqkv;
    g.dk = elements_from(g.dqkv, inner());
    g.dv = elements_from(g.dqkv, 2 * inner());
  } else {
    g.dq = arena.take(Shape{r.batch, r.queries, inner()}, dtype);
    g.dk = arena.take(Shape{r.batch, r.keys, inner()}, dtype);
    g.dv = arena.take(Shape{r.batch, r.keys, inner()}, dtype);
  }
  g.q_view = heads_view(g.dq, r.queries, r.q_token_stride, r.head_dim);
  g.k_view = heads_view(g.dk, r.keys, r.kv_token_stride, r.head_dim);
  g.v_view = heads_view(g.dv, r.keys, r.kv_token_stride, r.head_dim);
  if (!config_.qk_norm) return g;
  g.dnormed_q = arena.take(r.normed_q.shape, dtype);
  g.dnormed_k = arena.take(r.normed_k.shape, dtype);
  g.q_view = heads_view(g.dnormed_q, r.queries, inner(), r.head_dim);
  g.k_view = heads_view(g.dnormed_k, r.keys, inner(), r.head_dim);
  return g;
}

// The affine maps' dx = dy W, dW += dyᵀ x, with the norms' backward before them; an input that feeds several of q, k and v
// collects from each.
void HeadProjections::backward(const AttentionInputs& in, const ProjectedHeads& r, const ProjectedGradients& g,
                               const AttentionGradients& to, Context& ctx) const {
  const int64_t h = r.heads, d = r.head_dim;
  if (config_.qk_norm) {
    q_norm_->backward_rows(r.q.data, {r.batch * r.queries, h, r.q_token_stride, d}, r.q_mean, r.q_rstd, g.dnormed_q.data,
                           {r.batch * r.queries, h, h * d, d}, g.dq.data, {r.batch * r.queries, h, r.q_token_stride, d}, ctx);
    k_norm_->backward_rows(r.k.data, {r.batch * r.keys, h, r.kv_token_stride, d}, r.k_mean, r.k_rstd, g.dnormed_k.data,
                           {r.batch * r.keys, h, h * d, d}, g.dk.data, {r.batch * r.keys, h, r.kv_token_stride, d}, ctx);
  }
  if (qkv_) {
    qkv_->backward_parameters(in.x, g.dqkv, ctx);
    qkv_->backward_input(g.dqkv, to.dx, Accumulate::kNo, ctx);
    return;
  }
  const ConstTensor key = in.key_input.empty() ? in.x : in.key_input;
  const ConstTensor value = in.value_input.empty() ? key : in.value_input;
  q_->backward_parameters(in.x, g.dq, ctx);
  k_->backward_parameters(key, g.dk, ctx);
  v_->backward_parameters(value, g.dv, ctx);
  q_->backward_input(g.dq, to.dx, Accumulate::kNo, ctx);
  const bool own_keys = !in.key_input.empty(), own_values = !in.value_input.empty();
  const Tensor dkey = own_keys ? to.dkey_input : to.dx;
  const Tensor dvalue = own_values ? to.dvalue_input : dkey;
  check(!dkey.empty() && !dvalue.empty(), "cross attention: no place for the gradient of the keys' or values' input");
  k_->backward_input(g.dk, dkey, own_keys ? Accumulate::kNo : Accumulate::kYes, ctx);
  v_->backward_input(g.dv, dvalue, own_values ? Accumulate::kNo : Accumulate::kYes, ctx);
}

double HeadProjections::flops(double tokens) const {
  return 2 * tokens * static_cast<double>(inner()) * static_cast<double>(config_.dim + config_.key_dim + config_.value_dim);
}

}  // namespace fovea
