#include "blocks/transformer_block.h"

#include <cstring>

namespace fovea {

namespace {

// Norms at the end of a residual branch begin as zeros: a fresh block is the identity, as published with Swin V2.
Init first_gamma(NormPlacement placement) { return placement == NormPlacement::kResPost ? Init::zeros() : Init::ones(); }

}  // namespace

TransformerBlock::TransformerBlock(const Scope& scope, const BlockConfig& c) : TransformerBlock(scope, c, nullptr) {}

TransformerBlock::TransformerBlock(const Scope& scope, const BlockConfig& c, std::unique_ptr<Attention> attention) : placement_(c.norm) {
  const bool alone = c.parallel == 1;
  require(alone || (c.parallel > 1 && c.norm == NormPlacement::kPre && !attention), "parallel branches have norms at their beginning");
  const Init gamma = first_gamma(c.norm);
  for (int64_t i = 0; i < c.parallel; ++i) {
    const Scope own = alone ? scope : scope / "attns" / i;
    const std::string& name = c.attention_scope;
    const uint64_t tag = 2 * (c.tag * static_cast<uint64_t>(c.parallel) + static_cast<uint64_t>(i));
    attentions_.push_back({LayerNorm(own / (alone ? "norm1" : "norm"), c.heads.dim, c.norm_epsilon, gamma),
                           attention ? std::move(attention) : make_attention(c.attention, name.empty() ? own : own / name, c.heads),
                           Residual(own / (alone ? "ls1" : "ls"), {c.heads.dim, c.layer_scale, c.dropout, c.drop_path, tag})});
  }
  for (int64_t i = 0; i < c.parallel; ++i) {
    const Scope own = alone ? scope : scope / "ffns" / i;
    const uint64_t tag = 2 * (c.tag * static_cast<uint64_t>(c.parallel) + static_cast<uint64_t>(i)) + 1;
    perceptrons_.push_back({LayerNorm(own / (alone ? "norm2" : "norm"), c.heads.dim, c.norm_epsilon, gamma),
                            Mlp(own / "mlp", c.heads.dim, c.mlp_hidden, c.activation, c.gated),
                            Residual(own / (alone ? "ls2" : "ls"), {c.heads.dim, c.layer_scale, c.dropout, c.drop_path, tag})});
  }
}

// One attention branch without its residual scaling: out = attn(norm(x)) or norm(attn(x)) or attn(x), plus the residual.
void TransformerBlock::attend(const AttentionBranch& branch, const AttentionInputs& in, ConstTensor residual, Tensor out, Tape* tape, Context& ctx) const {
  AttentionInputs a = in;
  if (&branch != &attentions_.front()) a.score_bias = {};  // which is the first one's
  if (placement_ == NormPlacement::kPre && !tape && branch.attention->takes_norm()) {
    a.norm = &branch.norm;
  } else if (placement_ == NormPlacement::kPre) {
    const Tensor normed = ctx.activation(in.x.shape, tape);
    branch.norm.forward(in.x, normed, tape, ctx);
    a.x = normed;
  }
  if (placement_ != NormPlacement::kResPost) {
    a.residual = residual;
    branch.attention->forward(a, out, tape, ctx);
    return;
  }
  const Tensor attended = ctx.activation(in.x.shape, tape);
  branch.attention->forward(a, attended, tape, ctx);
  if (residual.empty()) return branch.norm.forward(attended, out, tape, ctx);
  const Tensor normed = ctx.scratch().take(in.x.shape, ctx.dtype());
  branch.norm.forward(attended, normed, tape, ctx);
  ctx.kernels().add(out.elements(), residual.data, normed.data, out.data, ctx);
}

void TransformerBlock::attend_backward(const AttentionBranch& branch, ConstTensor dy, Tensor dx, Tape& tape, Context& ctx) const {
  ArenaScope scope(ctx.scratch());
  const Tensor d = ctx.scratch().take(dx.shape, dx.dtype);
  if (placement_ == NormPlacement::kResPost) {
    const Tensor dattended = ctx.scratch().take(dx.shape, dx.dtype);
    branch.norm.backward(dy, dattended, Accumulate::kNo, tape, ctx);
    branch.attention->backward(dattended, {d, {}, {}}, tape, ctx);
  } else {
    branch.attention->backward(dy, {d, {}, {}}, tape, ctx);
    if (placement_ == NormPlacement::kPre) return branch.norm.backward(d, dx, Accumulate::kYes, tape, ctx);
  }
  ctx.kernels().scale_add(dx.elements(), 1.0, d.data, dx.data, ctx);
}

// Likewise of a perceptron.
void TransformerBlock::perceive(const MlpBranch& branch, ConstTensor x, ConstTensor residual, Tensor out, Tape* tape, Context& ctx) const {
  if (placement_ != NormPlacement::kResPost) return branch.mlp.forward(x, placement_ == NormPlacement::kPost ? nullptr : &branch.norm, residual, out, tape, ctx);
  const Tensor hidden = ctx.activation(x.shape, tape);
  branch.mlp.forward(x, nullptr, {}, hidden, tape, ctx);
  if (residual.empty()) return branch.norm.forward(hidden, out, tape, ctx);
  const Tensor normed = ctx.scratch().take(x.shape, ctx.dtype());
  branch.norm.forward(hidden, normed, tape, ctx);
  ctx.kernels().add(out.elements(), residual.data, normed.data, out.data, ctx);
}

void TransformerBlock::perceive_backward(const MlpBranch& branch, ConstTensor dy, Tensor dx, Tape& tape, Context& ctx) const {
  if (placement_ != NormPlacement::kResPost) return branch.mlp.backward(dy, placement_ == NormPlacement::kPost ? nullptr : &branch.norm, dx, tape, ctx);
  ArenaScope scope(ctx.scratch());
  const Tensor dhidden = ctx.scratch().take(dx.shape, dx.dtype);
  branch.norm.backward(dy, dhidden, Accumulate::kNo, tape, ctx);
  branch.mlp.backward(dhidden, nullptr, dx, tape, ctx);
}

void TransformerBlock::forward(const AttentionInputs& in, Tensor y, Tape* tape, Context& ctx) const {
  ArenaScope scope(ctx.scratch());
  const bool post = placement_ == NormPlacement::kPost;
  // Sums of a residual and parallel branches: all read x, which `last` may be, so sums before the last one have memory of their own.
  const auto sum_up = [&](const auto& branches, ConstTensor x, Tensor last, auto&& f) {
    ConstTensor sum = x;
    for (const auto& branch : branches) {
      const Tensor next = &branch == &branches.back() ? last : ctx.scratch().take(x.shape, ctx.dtype());
      branch.residual.forward(sum, next, tape, ctx, [&](ConstTensor residual, Tensor out) { f(branch, residual, out); });
      sum = next;
    }
  };
  // Without a tape everything may happen in y; with one, each backward's input stays.
  const Tensor x1 = tape ? ctx.activation(in.x.shape, tape) : y;
  sum_up(attentions_, in.x, x1, [&](const AttentionBranch& b, ConstTensor residual, Tensor out) { attend(b, in, residual, out, tape, ctx); });
  Tensor x2 = x1;
  if (post) {
    if (tape) x2 = ctx.activation(in.x.shape, tape);
    attentions_.front().norm.forward(x1, x2, tape, ctx);
  }
  const Tensor x3 = tape && post ? ctx.activation(in.x.shape, tape) : y;
  sum_up(perceptrons_, x2, x3, [&](const MlpBranch& b, ConstTensor residual, Tensor out) { perceive(b, x2, residual, out, tape, ctx); });
  if (post) perceptrons_.front().norm.forward(x3, y, tape, ctx);
}

std::optional<AttentionSteps> TransformerBlock::steps(const TokenGrid& grid, Context& ctx) const {
  if (placement_ != NormPlacement::kPre || attentions_.size() > 1) return {};
  return attention().steps(grid, ctx);
}

void TransformerBlock::enter_rows(ConstTensor x, Tensor projected, Context& ctx) const {
  attention().project_rows(x, attentions_.front().norm, projected, ctx);
}

void TransformerBlock::leave_rows(ConstTensor met, Tensor x, Context& ctx) const {
  ArenaScope scope(ctx.scratch());
  attentions_.front().residual.forward(x, x, nullptr, ctx, [&](ConstTensor residual, Tensor out) { attention().finish_rows(met, residual, out, ctx); });
  const MlpBranch& branch = perceptrons_.front();
  branch.residual.forward(x, x, nullptr, ctx, [&](ConstTensor residual, Tensor out) { perceive(branch, x, residual, out, nullptr, ctx); });
}

void TransformerBlock::backward(Tensor gradient, Tape& tape, Context& ctx) const {
  const bool post = placement_ == NormPlacement::kPost;
  // Of a sum every branch gets the same dy, so where there are several it must not change on the way.
  const auto through_sum = [&](const auto& branches, auto&& f) {
    ArenaScope scope(ctx.scratch());
    ConstTensor dy = gradient;
    if (branches.size() > 1) {
      const Tensor kept = ctx.scratch().take(gradient.shape, gradient.dtype);
      std::memcpy(kept.data, gradient.data, kept.bytes());
      dy = kept;
    }
    for (size_t i = branches.size(); i-- > 0;)
      branches[i].residual.backward(dy, gradient, tape, ctx, [&](ConstTensor d, Tensor dx) { f(branches[i], d, dx); });
  };
  if (post) perceptrons_.front().norm.backward(gradient, gradient, Accumulate::kNo, tape, ctx);
  through_sum(perceptrons_, [&](const MlpBranch& b, ConstTensor dy, Tensor dx) { perceive_backward(b, dy, dx, tape, ctx); });
  if (post) attentions_.front().norm.backward(gradient, gradient, Accumulate::kNo, tape, ctx);
  through_sum(attentions_, [&](const AttentionBranch& b, ConstTensor dy, Tensor dx) { attend_backward(b, dy, dx, tape, ctx); });
}

double TransformerBlock::flops(const TokenGrid& grid) const {
  double total = 0;
  for (const AttentionBranch& b : attentions_) total += b.attention->flops(grid);
  for (const MlpBranch& b : perceptrons_) total += b.mlp.flops(grid.batch * grid.tokens());
  return total;
}

void TransformerBlock::end_step(Context& ctx) {
  for (AttentionBranch& b : attentions_) b.attention->end_step(ctx);
}

}  // namespace fovea
