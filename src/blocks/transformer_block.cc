#include "blocks/transformer_block.h"

namespace fovea {

namespace {

// Norms at the end of a residual branch begin as zeros: a fresh block is the identity, as published with Swin V2.
Init first_gamma(NormPlacement placement) { return placement == NormPlacement::kResPost ? Init::zeros() : Init::ones(); }

}  // namespace

TransformerBlock::TransformerBlock(const Scope& scope, const BlockConfig& c) : TransformerBlock(scope, c, nullptr) {}

TransformerBlock::TransformerBlock(const Scope& scope, const BlockConfig& c, std::unique_ptr<Attention> attention)
    : placement_(c.norm),
      norm1_(scope / "norm1", c.heads.dim, c.norm_epsilon, first_gamma(c.norm)),
      attention_(attention ? std::move(attention)
                           : make_attention(c.attention, c.attention_scope.empty() ? scope : scope / c.attention_scope, c.heads)),
      residual1_(scope / "ls1", {c.heads.dim, c.layer_scale, c.dropout, c.drop_path, 2 * c.tag}),
      norm2_(scope / "norm2", c.heads.dim, c.norm_epsilon, first_gamma(c.norm)),
      mlp_(scope / "mlp", c.heads.dim, c.mlp_hidden, c.activation, c.gated),
      residual2_(scope / "ls2", {c.heads.dim, c.layer_scale, c.dropout, c.drop_path, 2 * c.tag + 1}) {}

// One attention branch without its residual scaling: out = attn(norm(x)) or norm(attn(x)) or attn(x), plus the residual.
void TransformerBlock::attend(const AttentionInputs& in, ConstTensor residual, Tensor out, Tape* tape, Context& ctx) const {
  AttentionInputs a = in;
  if (placement_ == NormPlacement::kPre && !tape && attention_->takes_norm()) {
    a.norm = &norm1_;
  } else if (placement_ == NormPlacement::kPre) {
    const Tensor normed = ctx.activation(in.x.shape, tape);
    norm1_.forward(in.x, normed, tape, ctx);
    a.x = normed;
  }
  if (placement_ != NormPlacement::kResPost) {
    a.residual = residual;
    attention_->forward(a, out, tape, ctx);
    return;
  }
  const Tensor attended = ctx.activation(in.x.shape, tape);
  attention_->forward(a, attended, tape, ctx);
  if (residual.empty()) return norm1_.forward(attended, out, tape, ctx);
  const Tensor normed = ctx.scratch().take(in.x.shape, ctx.dtype());
  norm1_.forward(attended, normed, tape, ctx);
  ctx.kernels().add(out.elements(), residual.data, normed.data, out.data, ctx);
}

void TransformerBlock::attend_backward(ConstTensor dy, Tensor dx, Tape& tape, Context& ctx) const {
  ArenaScope scope(ctx.scratch());
  const Tensor d = ctx.scratch().take(dx.shape, dx.dtype);
  if (placement_ == NormPlacement::kResPost) {
    const Tensor dattended = ctx.scratch().take(dx.shape, dx.dtype);
    norm1_.backward(dy, dattended, Accumulate::kNo, tape, ctx);
    attention_->backward(dattended, {d, {}, {}}, tape, ctx);
  } else {
    attention_->backward(dy, {d, {}, {}}, tape, ctx);
    if (placement_ == NormPlacement::kPre) return norm1_.backward(d, dx, Accumulate::kYes, tape, ctx);
  }
  ctx.kernels().scale_add(dx.elements(), 1.0, d.data, dx.data, ctx);
}

void TransformerBlock::forward(const AttentionInputs& in, Tensor y, Tape* tape, Context& ctx) const {
  ArenaScope scope(ctx.scratch());
  const bool post = placement_ == NormPlacement::kPost;
  // Without a tape everything may happen in y; with one, each backward's input stays.
  const Tensor x1 = tape ? ctx.activation(in.x.shape, tape) : y;
  residual1_.forward(in.x, x1, tape, ctx, [&](ConstTensor residual, Tensor out) { attend(in, residual, out, tape, ctx); });
  Tensor x2 = x1;
  if (post) {
    if (tape) x2 = ctx.activation(in.x.shape, tape);
    norm1_.forward(x1, x2, tape, ctx);
  }
  const Tensor x3 = tape && post ? ctx.activation(in.x.shape, tape) : y;
  residual2_.forward(x2, x3, tape, ctx, [&](ConstTensor residual, Tensor out) {
    if (placement_ != NormPlacement::kResPost) {
      mlp_.forward(x2, post ? nullptr : &norm2_, residual, out, tape, ctx);
      return;
    }
    const Tensor hidden = ctx.activation(in.x.shape, tape);
    mlp_.forward(x2, nullptr, {}, hidden, tape, ctx);
    if (residual.empty()) return norm2_.forward(hidden, out, tape, ctx);
    const Tensor normed = ctx.scratch().take(in.x.shape, ctx.dtype());
    norm2_.forward(hidden, normed, tape, ctx);
    ctx.kernels().add(out.elements(), residual.data, normed.data, out.data, ctx);
  });
  if (post) norm2_.forward(x3, y, tape, ctx);
}

void TransformerBlock::backward(Tensor gradient, Tape& tape, Context& ctx) const {
  const bool post = placement_ == NormPlacement::kPost;
  if (post) norm2_.backward(gradient, gradient, Accumulate::kNo, tape, ctx);
  residual2_.backward(gradient, tape, ctx, [&](ConstTensor dy, Tensor dx) {
    if (placement_ != NormPlacement::kResPost) {
      mlp_.backward(dy, post ? nullptr : &norm2_, dx, tape, ctx);
      return;
    }
    ArenaScope scope(ctx.scratch());
    const Tensor dhidden = ctx.scratch().take(dx.shape, dx.dtype);
    norm2_.backward(dy, dhidden, Accumulate::kNo, tape, ctx);
    mlp_.backward(dhidden, nullptr, dx, tape, ctx);
  });
  if (post) norm1_.backward(gradient, gradient, Accumulate::kNo, tape, ctx);
  residual1_.backward(gradient, tape, ctx, [&](ConstTensor dy, Tensor dx) { attend_backward(dy, dx, tape, ctx); });
}

double TransformerBlock::flops(const TokenGrid& grid) const {
  return attention_->flops(grid) + mlp_.flops(grid.batch * grid.tokens());
}

}  // namespace fovea
