#include "attention/multi_head.h"

#include <cmath>
#include <cstring>

namespace fovea {

// Everything that the backward needs. q, k and v point into one fused buffer (B, N, 3, H, D), or into three.
struct MultiHeadAttention::Record {
  AttentionInputs in;
  Tensor q, k, v;                    // first element of each; strides below
  int64_t q_token_stride, kv_token_stride;
  Tensor normed_q, normed_k;         // with qk_norm: (B, N, H, D)
  Tensor q_mean, q_rstd, k_mean, k_rstd;
  Tensor norms, temperature;         // of cosine: (B N, 2 H) lengths of q and k, which stand in the buffer as unit rows; (H)
  const TokenGroups* groups;
  ConstTensor bias;                  // of scores, where there is one
  Tensor lse, out;                   // out (B, N, H D)
  int64_t keys;                      // Nk

  void set_fused(const Tensor& qkv, int64_t inner) {
    q = qkv;
    k = elements_from(qkv, inner);
    v = elements_from(qkv, 2 * inner);
    q_token_stride = kv_token_stride = 3 * inner;
    keys = in.tokens();
  }
};

namespace {

// Of cosine attention, as published: temperatures begin at 10 and end at 100.
const double kFirstLogitScale = std::log(10.0), kLargestLogitScale = std::log(100.0);
constexpr double kSmallestLength = 1e-12;

// A score bias that is kept from one inference to the next, while weights stay what they are: up to so many elements, as large maps and
// windows may be many.
constexpr int64_t kKeptBias = 256 << 10;
struct KeptBias {
  uint64_t packing = 0;
  const TokenGroups* groups = nullptr;  // that it is for
  std::vector<char> memory;
};

}  // namespace

MultiHeadAttention::MultiHeadAttention(const Scope& scope, const AttentionConfig& config,
                                       std::unique_ptr<const AttentionGeometry> geometry)
    : config_(with_defaults(config)), geometry_(std::move(geometry)) {
  require(!config_.cosine || (!config_.cross && !config_.qk_norm),
          "cosine attention normalises q and k by itself and has no second input: build it without qk_norm and cross");
  require(!config_.fused_kv || (config_.cross && config_.key_dim == config_.value_dim), "one projection of keys and values is for cross attention to one input");
  if (config_.cosine) {
    logit_scale_ = scope.param("logit_scale", Shape{config_.heads, 1, 1}, Init::constant(kFirstLogitScale), Decay::kNo);
    if (config_.qkv_bias) {
      q_bias_ = scope.param("q_bias", Shape{inner()}, Init::zeros(), Decay::kNo);
      v_bias_ = scope.param("v_bias", Shape{inner()}, Init::zeros(), Decay::kNo);
    }
  }
  const Bias bias = config_.qkv_bias && !config_.cosine ? Bias::kYes : Bias::kNo;
  if (config_.cross) {
    q_.emplace(scope / "q", config_.dim, inner(), bias);
    if (config_.fused_kv) {
      kv_.emplace(scope / "kv", config_.key_dim, 2 * inner(), bias);
    } else {
      k_.emplace(scope / "k", config_.key_dim, inner(), bias);
      v_.emplace(scope / "v", config_.value_dim, inner(), bias);
    }
  } else {
    qkv_.emplace(scope / "qkv", config_.dim, 3 * inner(), bias);
    if (geometry_->has_position()) qkv_->read_plain();  // two products, one of tokens with their places
  }
  if (config_.qk_norm) {
    q_norm_.emplace(scope / "q_norm", config_.head_dim, config_.norm_epsilon);
    k_norm_.emplace(scope / "k_norm", config_.head_dim, config_.norm_epsilon);
  }
  if (config_.project_out) proj_.emplace(scope / "proj", inner(), config_.dim, config_.out_bias ? Bias::kYes : Bias::kNo);
}

const std::vector<TokenBand>& MultiHeadAttention::bands(const TokenGrid& grid, int64_t least, Context& ctx) const {
  // Terms by place are for whole maps.
  if (grid.prefix > 0 || grid.cells || config_.cross || geometry_->has_position() || has_value_term()) return Attention::bands(grid, least, ctx);
  AttentionInputs in;
  in.grid = grid;
  const TokenGroups& groups = geometry_->groups(in, ctx);  // as long-lived as the context, so its address is a name
  return ctx.cached<std::vector<TokenBand>>(fmt::format("bands {} {}", static_cast<const void*>(&groups), least),
                                            [&] { return token_bands(groups, grid.tokens(), grid.width, least); });
}

ConstTensor MultiHeadAttention::prepare(const TokenGrid& grid, Context& ctx) const {
  if (!geometry_->has_score_bias() || grid.cells) return {};
  AttentionInputs in;
  in.grid = grid;
  const TokenGroups& groups = geometry_->groups(in, ctx);
  const Shape shape{config_.heads * groups.bias_elements()};
  const uint64_t packing = (qkv_ ? *qkv_ : *q_).weight().packing;
  if (packing == 0 || shape.elements() > kKeptBias) {
    const Tensor bias = ctx.scratch().take(shape, ctx.dtype());
    geometry_->score_bias(in, groups, bias, ctx);
    return bias;
  }
  KeptBias& kept = ctx.state<KeptBias>(this);
  const Tensor bias{kept.memory.data(), shape, ctx.dtype()};
  if (kept.packing == packing && kept.groups == &groups) return bias;
  kept.memory.resize(bias.bytes());
  const Tensor fresh{kept.memory.data(), shape, ctx.dtype()};
  geometry_->score_bias(in, groups, fresh, ctx);
  kept.packing = packing;
  kept.groups = &groups;
  return fresh;
}

std::vector<std::string> MultiHeadAttention::unsupported(const TokenGrid& grid) const { return geometry_->unsupported(grid); }

void MultiHeadAttention::add_value_term(const AttentionInputs&, const ConstHeadsView&, DType, ConstTensor, Tensor, Context&) const {
  check(false, "a mechanism with a term of the values does not say what it is");
}

void MultiHeadAttention::value_term_backward(const AttentionInputs&, const ConstHeadsView&, ConstTensor, const HeadsView&, Context&) const {
  check(false, "a mechanism with a term of the values does not say how its gradient goes back");
}

// Whether products between q, k and v are those of bfloat16, as the ones around them may be: in inference, and where the kernel's tiles gain from it.
bool MultiHeadAttention::rounds(const AttentionInputs& in, const TokenGroups& groups, const Tape* tape, const Context& ctx) const {
  if (tape || !qkv_ || !qkv_->rounds(ctx) || config_.qk_norm || geometry_->has_position() || !in.mask.empty()) return false;
  return groups.reduction == Reduction::kAssign && !groups.selects_pairs();
}

// So is the output of such products, where nothing is added before the projection would round it anyway.
bool MultiHeadAttention::rounds_output(DType projected, const Context& ctx) const {
  return projected == DType::kBF16 && proj_ && proj_->rounds(ctx) && !has_value_term();
}

// The tokens with their places added, in scratch.
Tensor MultiHeadAttention::placed(const AttentionInputs& in, Context& ctx) const {
  const int64_t n = in.grid.tokens();
  const Tensor x = ctx.scratch().take(in.x.shape, ctx.dtype()), p = ctx.scratch().take(Shape{n, config_.dim}, ctx.dtype());
  geometry_->position(in, p, ctx);
  for (int64_t b = 0; b < in.grid.batch; ++b)
    ctx.kernels().add(n * config_.dim, in.x.slice(b, 1).data, p.data, x.slice(b, 1).data, ctx);
  return x;
}

// The fused projection; `bias` (3 H D) stands for its own where it is not empty.
void MultiHeadAttention::project_self(const AttentionInputs& in, ConstTensor bias, Tensor qkv, Context& ctx) const {
  if (!geometry_->has_position()) {
    LinearFusion fusion;
    fusion.bias = bias;
    fusion.norm = in.norm;
    return qkv_->apply(in.x, qkv, fusion, ctx);
  }
  ArenaScope scope(ctx.scratch());
  qkv_->apply_part(placed(in, ctx), 0, 2 * inner(), bias, qkv, ctx);
  qkv_->apply_part(in.x, 2 * inner(), inner(), bias, qkv, ctx);
}

// Places are constants, so the input's gradient is that of one product; the parameters' are those of two.
void MultiHeadAttention::self_parameters_backward(const AttentionInputs& in, ConstTensor dqkv, Linear::Outputs without_bias,
                                                  Context& ctx) const {
  if (!geometry_->has_position()) return qkv_->backward_parameters(in.x, dqkv, without_bias, ctx);
  ArenaScope scope(ctx.scratch());
  qkv_->backward_parameters_part(placed(in, ctx), 0, 2 * inner(), dqkv, ctx);
  qkv_->backward_parameters_part(in.x, 2 * inner(), inner(), dqkv, ctx);
}

// q and k become unit rows where they stand. k has no bias, as published.
void MultiHeadAttention::project_cosine(const AttentionInputs& in, Record& r, Tape* tape, Context& ctx) const {
  const int64_t rows = in.grid.batch * in.tokens(), h = config_.heads, d = config_.head_dim;
  Tensor bias;
  if (q_bias_) {
    bias = ctx.scratch().take(Shape{3, inner()}, ctx.dtype());
    std::memcpy(bias.slice(0, 1).data, q_bias_->value.data, q_bias_->value.bytes());
    Tensor(bias.slice(1, 1)).zero();
    std::memcpy(bias.slice(2, 1).data, v_bias_->value.data, v_bias_->value.bytes());
  }
  project_self(in, bias, r.q, ctx);
  r.norms = ctx.activation(Shape{rows, 2 * h}, tape);
  r.temperature = ctx.activation(Shape{h}, tape);
  UnitRowsArgs a;
  a.channels = d;
  a.epsilon = kSmallestLength;
  a.x_rows = a.y_rows = {rows, 2 * h, 3 * inner(), d};
  a.x = a.y = r.q.data;
  a.bf16 = r.q.dtype == DType::kBF16;
  a.norm = r.norms.data;
  ctx.kernels().unit_rows(a, ctx);
  ctx.kernels().clamped_exp(h, kLargestLogitScale, logit_scale_->value.data, r.temperature.data, ctx);
}

// dq = (dq̂ - q̂ <q̂, dq̂>) / |q|, likewise dk, in place of dq̂ and dk̂; dlogit_scale = dτ τ below the clamp.
void MultiHeadAttention::cosine_backward(const Record& r, Tensor dqkv, ConstTensor dtemperature, Context& ctx) const {
  const int64_t rows = r.in.grid.batch * r.in.grid.tokens(), h = config_.heads, d = config_.head_dim;
  const KernelTable& k = ctx.kernels();
  UnitRowsBackwardArgs a;
  a.channels = d;
  a.epsilon = kSmallestLength;
  a.y_rows = a.dy_rows = a.dx_rows = {rows, 2 * h, 3 * inner(), d};
  a.y = r.q.data;
  a.norm = r.norms.data;
  a.dy = a.dx = dqkv.data;
  k.unit_rows_backward(a, ctx);
  k.clamped_exp_backward(h, kLargestLogitScale, logit_scale_->value.data, r.temperature.data, dtemperature.data,
                         logit_scale_->grad.data, ctx);
  if (!q_bias_) return;
  k.column_sum(rows, inner(), 3 * inner(), dqkv.data, q_bias_->grad.data, ctx);
  k.column_sum(rows, inner(), 3 * inner(), elements_from(dqkv, 2 * inner()).data, v_bias_->grad.data, ctx);
}

void MultiHeadAttention::project(const AttentionInputs& in, Record& r, Tape* tape, Context& ctx) const {
  const int64_t batch = in.grid.batch, n = in.tokens(), h = config_.heads, d = config_.head_dim;
  if (!config_.cross) {
    require(in.key_input.empty() && in.value_input.empty(), "self attention got a second input; build it with cross = true");
    const Shape shape{batch, n, 3 * inner()};
    const Tensor qkv = rounds(in, *r.groups, tape, ctx) ? ctx.scratch().take(shape, DType::kBF16) : ctx.activation(shape, tape);
    r.set_fused(qkv, inner());
    if (config_.cosine) return project_cosine(in, r, tape, ctx);
    project_self(in, {}, qkv, ctx);
  } else {
    const ConstTensor key = in.key_input.empty() ? in.x : in.key_input;
    const ConstTensor value = in.value_input.empty() ? key : in.value_input;
    require(key.dim(0) == batch && value.dim(0) == batch && key.dim(1) == value.dim(1),
            "cross attention: queries {}, keys {} and values {} do not belong together", in.x.shape, key.shape,
            value.shape);
    r.keys = key.dim(1);
    r.q = ctx.activation(Shape{batch, n, inner()}, tape);
    q_->apply(in.x, r.q, {}, ctx);
    r.q_token_stride = inner();
    if (kv_) {
      require(in.value_input.empty(), "keys and values of one projection come from one input");
      r.k = ctx.activation(Shape{batch, r.keys, 2 * inner()}, tape);
      r.v = elements_from(r.k, inner());
      r.kv_token_stride = 2 * inner();
      kv_->apply(key, r.k, {}, ctx);
    } else {
      r.k = ctx.activation(Shape{batch, r.keys, inner()}, tape);
      r.v = ctx.activation(Shape{batch, r.keys, inner()}, tape);
      r.kv_token_stride = inner();
      k_->apply(key, r.k, {}, ctx);
      v_->apply(value, r.v, {}, ctx);
    }
  }
  if (!config_.qk_norm) return;
  const auto norm = [&](const LayerNorm& layer, const Tensor& x, int64_t tokens, int64_t stride, Tensor& y, Tensor& mean,
                        Tensor& rstd) {
    y = ctx.activation(Shape{batch, tokens, h, d}, tape);
    mean = ctx.activation(Shape{batch * tokens * h}, tape);
    rstd = ctx.activation(Shape{batch * tokens * h}, tape);
    layer.forward_rows(x.data, {batch * tokens, h, stride, d}, y.data, {batch * tokens, h, h * d, d}, mean, rstd, ctx);
  };
  norm(*q_norm_, r.q, n, r.q_token_stride, r.normed_q, r.q_mean, r.q_rstd);
  norm(*k_norm_, r.k, r.keys, r.kv_token_stride, r.normed_k, r.k_mean, r.k_rstd);
}

GroupedAttentionArgs MultiHeadAttention::kernel_args(const Record& r, Context& ctx) const {
  const AttentionInputs& in = r.in;
  const int64_t batch = in.grid.batch, n = in.tokens(), h = config_.heads, d = config_.head_dim;
  GroupedAttentionArgs a;
  a.groups = r.groups;
  a.batch = batch;
  a.heads = h;
  a.head_dim = d;
  a.queries = n;
  a.keys = r.keys;
  a.scale = 1 / std::sqrt(static_cast<double>(d));
  a.q = {r.q.data, n * r.q_token_stride, r.q_token_stride, d};
  a.k = {r.k.data, r.keys * r.kv_token_stride, r.kv_token_stride, d};
  a.v = {r.v.data, r.keys * r.kv_token_stride, r.kv_token_stride, d};
  if (config_.qk_norm) {
    a.q = {r.normed_q.data, n * inner(), inner(), d};
    a.k = {r.normed_k.data, r.keys * inner(), inner(), d};
  }
  // A token of zeros (padding) projects to the bias.
  if (const Param* bias = pad_bias()) {
    a.pad_k = elements_from(bias->value, inner()).data;
    a.pad_v = elements_from(bias->value, 2 * inner()).data;
  }
  if (config_.cosine) {
    a.head_scale = r.temperature.data;
    if (v_bias_ && pads_are_projected()) a.pad_v = v_bias_->value.data;  // and a key of zeros
  }
  a.bias = r.bias.data;
  if (!in.mask.empty()) {
    const Shape& m = in.mask.shape;
    require(m.rank() == 4 && (m[0] == batch || m[0] == 1) && (m[1] == h || m[1] == 1) && m[2] == n && m[3] == r.keys,
            "attention mask: got shape {}, expected [{} or 1, {} or 1, {}, {}]", m, batch, h, n, r.keys);
    a.mask = in.mask.data;
    a.mask_row_stride = r.keys;
    a.mask_head_stride = m[1] == 1 ? 0 : n * r.keys;
    a.mask_batch_stride = m[0] == 1 ? 0 : m[1] * n * r.keys;
  }
  a.key_padding = in.key_padding;
  a.out = {r.out.data, n * inner(), inner(), d};
  a.bf16 = r.q.dtype == DType::kBF16;
  a.out_bf16 = r.out.dtype == DType::kBF16;
  a.int8_scores = a.bf16 && qkv_->multiplies_integers(ctx) && d % 16 == 0;
  a.lse = r.lse.data;
  return a;
}

void MultiHeadAttention::forward(const AttentionInputs& in, Tensor y, Tape* tape, Context& ctx) const {
  require_shape(in.x, Shape{in.grid.batch, in.tokens(), config_.dim}, "attention input");
  require(in.memory.empty(), "only transformer_xl takes a memory of earlier segments");
  check(!in.norm || (takes_norm() && !tape), "an attention is to normalise its input where it cannot");
  const auto reasons = unsupported(in.grid);
  require(reasons.empty(), "this attention cannot run on {} tokens: {}", in.grid.str(), fmt::join(reasons, "; "));
  ArenaScope scope(ctx.scratch());
  Record r{};
  r.in = in;
  r.groups = in.band ? &in.band->groups : &geometry_->groups(in, ctx);
  project(in, r, tape, ctx);
  const Shape out_shape{in.grid.batch, in.tokens(), inner()};
  r.out = rounds_output(r.q.dtype, ctx) ? ctx.scratch().take(out_shape, DType::kBF16) : ctx.activation(out_shape, tape);
  const Tensor sum = meet(r, tape, ctx);
  if (proj_) {
    finish_rows(sum, in.residual, y, ctx);
  } else {
    require(in.residual.empty(), "an attention without output projection takes no residual");
    if (y.bytes() != 0) std::memcpy(y.data, sum.data, sum.bytes());
  }
  if (tape) tape->push(r);
}

// q, k and v of the record into its output; the sum of that and what the values alone give.
Tensor MultiHeadAttention::meet(Record& r, Tape* tape, Context& ctx) const {
  r.bias = r.in.score_bias;
  if (r.bias.empty() && geometry_->has_score_bias()) {
    const Tensor bias = ctx.activation(Shape{config_.heads * r.groups->bias_elements()}, tape);
    geometry_->score_bias(r.in, *r.groups, bias, ctx);
    r.bias = bias;
  }
  if (tape) r.lse = ctx.activation(Shape{r.in.grid.batch, config_.heads, r.groups->query_slots}, tape);
  const GroupedAttentionArgs a = kernel_args(r, ctx);
  ctx.kernels().grouped_attention(a, ctx);
  if (!has_value_term()) return r.out;
  // The softmax's own output stays for the backward; the term is cheaper to compute once more than to keep.
  const Tensor sum = tape ? ctx.scratch().take(r.out.shape, r.out.dtype) : r.out;
  add_value_term(r.in, a.v, r.v.dtype, r.out, sum, ctx);
  return sum;
}

std::optional<AttentionSteps> MultiHeadAttention::steps(const TokenGrid& grid, Context& ctx) const {
  if (!takes_norm() || config_.cosine || config_.qk_norm || !proj_ || grid.cells || !unsupported(grid).empty()) return {};
  AttentionInputs in;
  in.grid = grid;
  const DType projected = rounds(in, geometry_->groups(in, ctx), nullptr, ctx) ? DType::kBF16 : ctx.dtype();
  return AttentionSteps{inner(), projected, rounds_output(projected, ctx) ? DType::kBF16 : ctx.dtype()};
}

void MultiHeadAttention::project_rows(ConstTensor x, const LayerNorm& norm, Tensor projected, Context& ctx) const {
  LinearFusion fusion;
  fusion.norm = &norm;
  qkv_->apply(x, projected, fusion, ctx);
}

void MultiHeadAttention::meet(const AttentionInputs& in, Tensor projected, Tensor met, Context& ctx) const {
  ArenaScope scope(ctx.scratch());
  Record r{};
  r.in = in;
  r.groups = in.band ? &in.band->groups : &geometry_->groups(in, ctx);
  r.set_fused(projected, inner());
  r.out = met;
  meet(r, nullptr, ctx);
}

void MultiHeadAttention::finish_rows(ConstTensor met, ConstTensor residual, Tensor y, Context& ctx) const {
  LinearFusion fusion;
  fusion.residual = residual;
  proj_->apply(met, y, fusion, ctx);
}

// With P = softmax(S), O = P V, G = dO: dV = Pᵀ G, dS = P ∘ (G Vᵀ - rowsum(G ∘ O)), dQ = s dS K, dK = s dSᵀ Q; a term of the
// values alone has the same G and adds to dV; the projections around it are affine. A residual input's gradient is the caller's
// (it equals dy).
void MultiHeadAttention::backward(ConstTensor dy, const AttentionGradients& gradients, Tape& tape, Context& ctx) const {
  auto r = tape.pop<Record>();
  if (r.in.grid.cells) r.groups = &geometry_->groups(r.in, ctx);  // another layer has built its own since
  const int64_t batch = r.in.grid.batch, n = r.in.grid.tokens(), h = config_.heads, d = config_.head_dim;
  ArenaScope scope(ctx.scratch());
  Arena& scratch = ctx.scratch();
  GroupedAttentionBackwardArgs a;
  a.forward = kernel_args(r, ctx);
  ConstTensor dout = dy;
  if (proj_) {
    const Tensor own = scratch.take(r.out.shape, r.out.dtype);
    if (has_value_term()) {
      const Tensor sum = own;  // until the parameters have seen it
      add_value_term(r.in, a.forward.v, r.v.dtype, r.out, sum, ctx);
      proj_->backward_parameters(sum, dy, ctx);
    } else {
      proj_->backward_parameters(r.out, dy, ctx);
    }
    proj_->backward_input(dy, own, Accumulate::kNo, ctx);
    dout = own;
  }

  a.dout = {dout.data, n * inner(), inner(), d};
  Tensor dqkv, dq, dk, dv, dkv;
  int64_t q_stride = inner(), kv_stride = inner();
  if (qkv_) {
    dqkv = scratch.take(Shape{batch, n, 3 * inner()}, ctx.dtype());
    dq = dqkv;
    dk = elements_from(dqkv, inner());
    dv = elements_from(dqkv, 2 * inner());
    q_stride = kv_stride = 3 * inner();
  } else if (kv_) {
    dq = scratch.take(Shape{batch, n, inner()}, ctx.dtype());
    dkv = scratch.take(Shape{batch, r.keys, 2 * inner()}, ctx.dtype());
    dk = dkv;
    dv = elements_from(dkv, inner());
    kv_stride = 2 * inner();
  } else {
    dq = scratch.take(Shape{batch, n, inner()}, ctx.dtype());
    dk = scratch.take(Shape{batch, r.keys, inner()}, ctx.dtype());
    dv = scratch.take(Shape{batch, r.keys, inner()}, ctx.dtype());
  }
  a.dq = {dq.data, n * q_stride, q_stride, d};
  a.dk = {dk.data, r.keys * kv_stride, kv_stride, d};
  a.dv = {dv.data, r.keys * kv_stride, kv_stride, d};
  Tensor dnq, dnk;
  if (config_.qk_norm) {
    dnq = scratch.take(r.normed_q.shape, ctx.dtype());
    dnk = scratch.take(r.normed_k.shape, ctx.dtype());
    a.dq = {dnq.data, n * inner(), inner(), d};
    a.dk = {dnk.data, r.keys * inner(), inner(), d};
  }
  if (const Param* bias = pad_bias(); bias && !bias->frozen) {
    a.dpad_k = elements_from(bias->grad, inner()).data;
    a.dpad_v = elements_from(bias->grad, 2 * inner()).data;
  }
  if (v_bias_ && pads_are_projected() && !v_bias_->frozen) a.dpad_v = v_bias_->grad.data;
  Tensor dbias, dtemperature;
  if (config_.cosine) {
    dtemperature = scratch.take(r.temperature.shape, ctx.dtype());
    dtemperature.zero();
    a.dhead_scale = dtemperature.data;
  }
  if (!r.bias.empty()) {
    dbias = scratch.take(r.bias.shape, ctx.dtype());
    dbias.zero();
    a.dbias = dbias.data;
  }
  ctx.kernels().grouped_attention_backward(a, ctx);
  if (!r.bias.empty()) geometry_->score_bias_backward(r.in, *r.groups, dbias, ctx);
  if (has_value_term()) value_term_backward(r.in, a.forward.v, dout, a.dv, ctx);
  if (config_.cosine) cosine_backward(r, dqkv, dtemperature, ctx);

  if (config_.qk_norm) {
    q_norm_->backward_rows(r.q.data, {batch * n, h, r.q_token_stride, d}, r.q_mean, r.q_rstd, dnq.data, {batch * n, h, h * d, d},
                           dq.data, {batch * n, h, q_stride, d}, ctx);
    k_norm_->backward_rows(r.k.data, {batch * r.keys, h, r.kv_token_stride, d}, r.k_mean, r.k_rstd, dnk.data,
                           {batch * r.keys, h, h * d, d}, dk.data, {batch * r.keys, h, kv_stride, d}, ctx);
  }
  if (qkv_) {
    const bool still = geometry_->keys_share_projection() && !config_.qk_norm;
    self_parameters_backward(r.in, dqkv, still ? Linear::Outputs{inner(), inner()} : Linear::Outputs{}, ctx);
    qkv_->backward_input(dqkv, gradients.dx, Accumulate::kNo, ctx);
    return;
  }
  const ConstTensor key = r.in.key_input.empty() ? r.in.x : r.in.key_input;
  const ConstTensor value = r.in.value_input.empty() ? key : r.in.value_input;
  q_->backward_parameters(r.in.x, dq, ctx);
  q_->backward_input(dq, gradients.dx, Accumulate::kNo, ctx);
  const bool own_keys = !r.in.key_input.empty(), own_values = !r.in.value_input.empty();
  const Tensor dkey = own_keys ? gradients.dkey_input : gradients.dx;
  const Tensor dvalue = own_values ? gradients.dvalue_input : dkey;
  check(!dkey.empty() && !dvalue.empty(), "cross attention: no place for the gradient of the keys' or values' input");
  if (kv_) {
    kv_->backward_parameters(key, dkv, ctx);
    return kv_->backward_input(dkv, dkey, own_keys ? Accumulate::kNo : Accumulate::kYes, ctx);
  }
  k_->backward_parameters(key, dk, ctx);
  v_->backward_parameters(value, dv, ctx);
  k_->backward_input(dk, dkey, own_keys ? Accumulate::kNo : Accumulate::kYes, ctx);
  v_->backward_input(dv, dvalue, own_values ? Accumulate::kNo : Accumulate::kYes, ctx);
}

double MultiHeadAttention::flops(const TokenGrid& grid) const {
  const double tokens = static_cast<double>(grid.batch * grid.tokens());
  const double projections = 2 * tokens * static_cast<double>(inner()) *
                             static_cast<double>((proj_ ? 2 : 1) * config_.dim + config_.key_dim + config_.value_dim);
  const double meeting = 4 * static_cast<double>(grid.batch * inner()) * geometry_->pairs(grid);
  return projections + meeting + geometry_->score_bias_flops(grid) + value_term_flops(grid);
}

}  // namespace fovea
