#include "attention/linformer.h"

#include <algorithm>
#include <cmath>

#include "attention/registry.h"

namespace fovea {

struct LinformerAttention::Record {
  AttentionInputs in;
  SequenceProjection::Record key, value;
  Tensor q, k, v;                            // q (B, N, H D), k and v (B, slots, kv_heads D); v is k with share_kv
  Tensor normed_q, normed_k;                 // with qk_norm
  Tensor q_mean, q_rstd, k_mean, k_rstd;
  const TokenGroups* groups;
  Tensor lse, out;                           // out (B, N, H D)
};

namespace {

constexpr int64_t kDefaultSlots = 256;

LinformerConfig checked(const LinformerConfig& c) {
  require(c.max_tokens > 0, "linformer needs to know the largest number of tokens when it is built; give max_tokens");
  require(c.slots > 0, "linformer needs at least one slot, got {}", c.slots);
  return c;
}

TokenGroups all_meet_slots(int64_t queries, int64_t slots) {
  TokenGroups g;
  g.begin_group();
  g.add_query_run({0, 1, static_cast<int32_t>(queries)});
  g.add_key_run({0, 1, static_cast<int32_t>(slots)});
  g.end_group();
  g.keys_disjoint = true;
  g.finish();
  return g;
}

}  // namespace

LinformerAttention::LinformerAttention(const Scope& scope, const AttentionConfig& config, const LinformerConfig& linformer)
    : config_(with_defaults(config)),
      linformer_(checked(linformer)),
      q_(scope / "q", config_.dim, inner(), config_.qkv_bias ? Bias::kYes : Bias::kNo),
      key_(scope, "k", "proj_k", config_.key_dim, kv_inner(), config_.qkv_bias ? Bias::kYes : Bias::kNo, linformer.max_tokens,
           linformer.slots) {
  if (!linformer_.share_kv)
    value_.emplace(scope, "v", "proj_v", config_.value_dim, kv_inner(), config_.qkv_bias ? Bias::kYes : Bias::kNo,
                   linformer.max_tokens, linformer.slots);
  if (config_.qk_norm) {
    q_norm_.emplace(scope / "q_norm", config_.head_dim, config_.norm_epsilon);
    k_norm_.emplace(scope / "k_norm", config_.head_dim, config_.norm_epsilon);
  }
  if (config_.project_out) proj_.emplace(scope / "proj", inner(), config_.dim, config_.out_bias ? Bias::kYes : Bias::kNo);
}

void LinformerAttention::normalise(Record& r, Tape* tape, Context& ctx) const {
  if (!config_.qk_norm) return;
  const auto norm = [&](const LayerNorm& layer, const Tensor& x, Tensor& y, Tensor& mean, Tensor& rstd) {
    const int64_t rows = x.elements() / config_.head_dim;
    y = ctx.activation(x.shape, tape);
    mean = ctx.activation(Shape{rows}, tape);
    rstd = ctx.activation(Shape{rows}, tape);
    const RowLayout layout = RowLayout::contiguous(rows, config_.head_dim);
    layer.forward_rows(x.data, layout, y.data, layout, mean, rstd, ctx);
  };
  norm(*q_norm_, r.q, r.normed_q, r.q_mean, r.q_rstd);
  norm(*k_norm_, r.k, r.normed_k, r.k_mean, r.k_rstd);
}

GroupedAttentionArgs LinformerAttention::kernel_args(const Record& r) const {
  const int64_t n = r.in.grid.tokens(), d = config_.head_dim, slots = linformer_.slots;
  const int64_t kv_head_stride = linformer_.one_kv_head ? 0 : d;
  GroupedAttentionArgs a;
  a.groups = r.groups;
  a.batch = r.in.grid.batch;
  a.heads = config_.heads;
  a.head_dim = d;
  a.queries = n;
  a.keys = slots;
  a.scale = 1 / std::sqrt(static_cast<double>(d));
  a.q = {config_.qk_norm ? r.normed_q.data : r.q.data, n * inner(), inner(), d};
  a.k = {config_.qk_norm ? r.normed_k.data : r.k.data, slots * kv_inner(), kv_inner(), kv_head_stride};
  a.v = {r.v.data, slots * kv_inner(), kv_inner(), kv_head_stride};
  a.out = {r.out.data, n * inner(), inner(), d};
  a.lse = r.lse.data;
  return a;
}

void LinformerAttention::forward(const AttentionInputs& in, Tensor y, Tape* tape, Context& ctx) const {
  const int64_t batch = in.grid.batch, n = in.grid.tokens(), slots = linformer_.slots;
  require_shape(in.x, Shape{batch, n, config_.dim}, "attention input");
  require(in.memory.empty(), "only transformer_xl takes a memory of earlier segments");
  require(!in.causal, "linformer has no causal form: each slot mixes the keys of all tokens");
  require(in.mask.empty(), "linformer takes no additive mask: its keys are slots, not tokens; use key padding");
  require(config_.cross || (in.key_input.empty() && in.value_input.empty()),
          "self attention got a second input; build it with cross = true");
  require(value_ || in.value_input.empty(), "linformer with share_kv takes no input of its own for the values");
  const auto reasons = unsupported(in.grid);
  require(reasons.empty(), "this attention cannot run on {} tokens: {}", in.grid.str(), fmt::join(reasons, "; "));
  const ConstTensor key = in.key_input.empty() ? in.x : in.key_input;
  const ConstTensor value = in.value_input.empty() ? key : in.value_input;
  require(key.dim(0) == batch && value.dim(0) == batch && key.dim(1) == value.dim(1),
          "cross attention: queries {}, keys {} and values {} do not belong together", in.x.shape, key.shape,
          value.shape);

  ArenaScope scope(ctx.scratch());
  Record r{};
  r.in = in;
  r.q = ctx.activation(Shape{batch, n, inner()}, tape);
  q_.apply(in.x, r.q, {}, ctx);
  r.k = ctx.activation(Shape{batch, slots, kv_inner()}, tape);
  r.key = key_.forward(key, in.key_padding, r.k, tape, ctx);
  r.v = r.k;
  if (value_) {
    r.v = ctx.activation(Shape{batch, slots, kv_inner()}, tape);
    r.value = value_->forward(value, in.key_padding, r.v, tape, ctx);
  }
  normalise(r, tape, ctx);
  r.groups = &ctx.cached<TokenGroups>(fmt::format("linformer {} {}", n, slots), [&] { return all_meet_slots(n, slots); });
  r.out = ctx.activation(Shape{batch, n, inner()}, tape);
  if (tape) r.lse = ctx.activation(Shape{batch, config_.heads, n}, tape);
  ctx.kernels().grouped_attention(kernel_args(r), ctx);
  if (proj_) {
    LinearFusion fusion;
    fusion.residual = in.residual;
    proj_->apply(r.out, y, fusion, ctx);
  } else {
    require(in.residual.empty(), "an attention without output projection takes no residual");
    if (y.bytes() != 0) std::memcpy(y.data, r.out.data, r.out.bytes());
  }
  if (tape) tape->push(r);
}

// Sum over the heads: (B, slots, H D) -> (B, slots, D).
Tensor LinformerAttention::sum_heads(Tensor gradient, Context& ctx) const {
  const int64_t rows = gradient.elements() / inner(), d = config_.head_dim;
  const Tensor sum = ctx.scratch().take(Shape{gradient.dim(0), gradient.dim(1), d}, ctx.dtype());
  ArenaScope scope(ctx.scratch());
  const Tensor mean = ctx.scratch().take(sum.shape, ctx.dtype());
  ctx.kernels().mean_tokens(rows, config_.heads, 0, d, gradient.data, mean.data, ctx);
  sum.zero();
  ctx.kernels().scale_add(sum.elements(), static_cast<double>(config_.heads), mean.data, sum.data, ctx);
  return sum;
}

// The softmax's backward over the slots, summed over the heads where they share keys and values; then the projections', those
// along the sequence included (SequenceProjection). With share_kv the slots collect dK + dV.
void LinformerAttention::backward(ConstTensor dy, const AttentionGradients& gradients, Tape& tape, Context& ctx) const {
  const auto r = tape.pop<Record>();
  const int64_t batch = r.in.grid.batch, n = r.in.grid.tokens(), d = config_.head_dim, slots = linformer_.slots;
  ArenaScope scope(ctx.scratch());
  Arena& scratch = ctx.scratch();
  ConstTensor dout = dy;
  if (proj_) {
    const Tensor own = scratch.take(r.out.shape, ctx.dtype());
    proj_->backward_parameters(r.out, dy, ctx);
    proj_->backward_input(dy, own, Accumulate::kNo, ctx);
    dout = own;
  }
  Tensor dq = scratch.take(r.q.shape, ctx.dtype());
  Tensor dk = scratch.take(Shape{batch, slots, inner()}, ctx.dtype()), dv = scratch.take(dk.shape, ctx.dtype());
  GroupedAttentionBackwardArgs a;
  a.forward = kernel_args(r);
  a.dout = {dout.data, n * inner(), inner(), d};
  a.dq = {dq.data, n * inner(), inner(), d};
  a.dk = {dk.data, slots * inner(), inner(), d};
  a.dv = {dv.data, slots * inner(), inner(), d};
  ctx.kernels().grouped_attention_backward(a, ctx);
  if (linformer_.one_kv_head && config_.heads > 1) {
    dk = sum_heads(dk, ctx);
    dv = sum_heads(dv, ctx);
  }
  if (config_.qk_norm) {
    const auto norm_backward = [&](const LayerNorm& layer, const Tensor& x, ConstTensor mean, ConstTensor rstd, const Tensor& g) {
      const RowLayout layout = RowLayout::contiguous(x.elements() / d, d);
      layer.backward_rows(x.data, layout, mean, rstd, g.data, layout, g.data, layout, ctx);
    };
    norm_backward(*q_norm_, r.q, r.q_mean, r.q_rstd, dq);
    norm_backward(*k_norm_, r.k, r.k_mean, r.k_rstd, dk);
  }
  q_.backward_parameters(r.in.x, dq, ctx);
  q_.backward_input(dq, gradients.dx, Accumulate::kNo, ctx);
  const bool own_keys = !r.in.key_input.empty(), own_values = !r.in.value_input.empty();
  const Tensor dkey = own_keys ? gradients.dkey_input : gradients.dx;
  const Tensor dvalue = own_values ? gradients.dvalue_input : dkey;
  check(!dkey.empty() && !dvalue.empty(), "cross attention: no place for the gradient of the keys' or values' input");
  if (!value_) ctx.kernels().add(dk.elements(), dk.data, dv.data, dk.data, ctx);
  key_.backward(r.key, dk, dkey, own_keys ? Accumulate::kNo : Accumulate::kYes, ctx);
  if (value_) value_->backward(r.value, dv, dvalue, own_values ? Accumulate::kNo : Accumulate::kYes, ctx);
}

std::vector<std::string> LinformerAttention::unsupported(const TokenGrid& grid) const {
  if (config_.cross || grid.tokens() <= linformer_.max_tokens) return {};
  return {fmt::format("linformer projects {} tokens at most, which its parameters are made for, and got {}; use smaller images, or train "
                      "a model for this size or with linformer:max_tokens={}",
                      linformer_.max_tokens, grid.tokens(), grid.tokens())};
}

double LinformerAttention::flops(const TokenGrid& grid) const {
  const auto tokens = static_cast<double>(grid.batch * grid.tokens());
  const double projections = (proj_ ? 4 : 2) * tokens * static_cast<double>(inner()) * static_cast<double>(config_.dim);
  const double slots = key_.flops(grid.batch, grid.tokens()) + (value_ ? value_->flops(grid.batch, grid.tokens()) : 0);
  return projections + slots + 4 * tokens * static_cast<double>(inner()) * static_cast<double>(linformer_.slots);
}

AttentionKind linformer_attention_kind() {
  AttentionKind k;
  k.name = "linformer";
  k.summary = "every token meets a fixed number of slots, into which keys and values are projected along the sequence";
  k.paper = "Wang et al. 2020, arXiv:2006.04768";
  k.cost = "O(N k C + N C^2), k slots";
  k.options = {{"slots", "auto", "k, the keys that are left; auto: 256, or the model's tokens where they are fewer"},
               {"share_kv", "no", "yes: the values are the projected keys"},
               {"one_kv_head", "no", "yes: one head of keys and values for all heads of queries"},
               {"max_tokens", "auto", "tokens that the parameters are made for, class token included; auto: those of the model's input "
                                      "size. Images with fewer tokens run too, with more they are refused"}};
  k.traits.cross = k.traits.prefix = true;
  k.no_union_reason = "its keys are slots, which mix all tokens";
  k.make = [](const Scope& scope, const AttentionConfig& config, const AttentionOptions& o) -> std::unique_ptr<Attention> {
    LinformerConfig c;
    c.max_tokens = o.text("max_tokens") == "auto" ? config.max_tokens : o.integer("max_tokens");
    require(o.text("max_tokens") == "auto" || c.max_tokens > 0, "attention option max_tokens={}: expected a positive number", c.max_tokens);
    c.slots = o.text("slots") == "auto" ? std::min(kDefaultSlots, std::max<int64_t>(1, c.max_tokens)) : o.integer("slots");
    require(c.slots > 0, "attention option slots={}: expected a positive number", c.slots);
    c.share_kv = o.choice("share_kv", {"no", "yes"}) == "yes";
    c.one_kv_head = o.choice("one_kv_head", {"no", "yes"}) == "yes";
    return std::make_unique<LinformerAttention>(scope, config, c);
  };
  return k;
}

}  // namespace fovea
