#include "attention/transformer_xl.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "attention/registry.h"
#include "attention/transformer_xl_record.h"

namespace fovea {

namespace {

AttentionConfig checked(const AttentionConfig& c) {
  require(!c.cross, "transformer_xl has no second input");
  require(!c.cosine, "transformer_xl's scores have no cosine form");
  return with_defaults(c);
}

HeadsView view(const Tensor& t, int64_t tokens, int64_t token_stride, int64_t dim) {
  return {t.data, tokens * token_stride, token_stride, dim};
}

// The rows as the kernel reads them: normed where there is a norm.
ConstHeadsView view(const TransformerXlRows& r, int64_t inner, int64_t dim) {
  return r.normed.empty() ? view(r.rows, r.count, r.token_stride, dim) : view(r.normed, r.count, inner, dim);
}

}  // namespace

TransformerXlAttention::TransformerXlAttention(const Scope& scope, const AttentionConfig& config, const TransformerXlConfig& xl)
    : config_(checked(config)), xl_(xl), r_w_bias_(xl.r_w_bias), r_r_bias_(xl.r_r_bias) {
  require(xl.learnable >= 0, "transformer_xl: learnable={} is no number of distances", xl.learnable);
  require(!xl.same_length || xl.mem_len > 0, "transformer_xl: same_length needs mem_len, the number of keys that a query sees");
  const int64_t heads = config_.heads, dim = config_.head_dim;
  const Init init = Init::truncated_normal(0.02);
  qkv_.emplace(scope / "qkv", config_.dim, 3 * inner(), Bias::kNo);
  qkv_->read_plain();  // its part for memory rows
  if (config_.qk_norm) {
    q_norm_.emplace(scope / "q_norm", dim, config_.norm_epsilon);
    k_norm_.emplace(scope / "k_norm", dim, config_.norm_epsilon);
  }
  if (!r_w_bias_) r_w_bias_ = scope.param("r_w_bias", Shape{heads, dim}, init, Decay::kNo);
  if (xl.learnable > 0) {
    r_emb_ = scope.param("r_emb", Shape{xl.learnable, heads, dim}, init, Decay::kNo);
    r_bias_ = scope.param("r_bias", Shape{xl.learnable, heads}, Init::zeros(), Decay::kNo);
  } else {
    if (!r_r_bias_) r_r_bias_ = scope.param("r_r_bias", Shape{heads, dim}, init, Decay::kNo);
    r_net_.emplace(scope / "r_net", config_.dim, inner(), Bias::kNo);
    r_net_->read_plain();  // a half for each axis of a map
  }
  if (config_.project_out) proj_.emplace(scope / "proj", inner(), config_.dim, config_.out_bias ? Bias::kYes : Bias::kNo);
}

std::vector<std::string> TransformerXlAttention::unsupported(const TokenGrid& grid) const {
  std::vector<std::string> reasons;
  const bool flat = grid.prefix == 0 && grid.height <= 1;
  if (xl_.learnable > 0 && !flat) reasons.push_back("learnable rows are for the distances of a causal sequence; leave learnable=0 for images");
  if (xl_.same_length && !flat) reasons.push_back("same_length speaks of a causal sequence; leave it out for images");
  return reasons;
}

const TokenGroups& TransformerXlAttention::groups(const AttentionInputs& in, int64_t memory, Context& ctx) const {
  const int64_t tokens = in.grid.tokens(), reach = in.causal ? distances(memory, tokens) : 0;
  return ctx.cached<TokenGroups>(fmt::format("transformer_xl {} {} {}", tokens, memory, reach), [&] {
    TokenGroups g;
    g.begin_group();
    g.add_query_run({0, 1, static_cast<int32_t>(tokens)});
    g.add_key_run({0, 1, static_cast<int32_t>(memory), RowSource::kMemory});
    g.add_key_run({0, 1, static_cast<int32_t>(tokens)});
    g.end_group();
    g.only_rule().causal = in.causal;
    // The relative term forbids distances without a row; the band says so to whole blocks of keys.
    if (in.causal && reach < tokens) g.only_rule().band = static_cast<int32_t>(reach - 1);
    g.keys_disjoint = true;
    g.finish();
    return g;
  });
}

// qkv of the tokens; keys and values of the memory, which has no queries.
void TransformerXlAttention::project(const AttentionInputs& in, Record& r, Tape* tape, Context& ctx) const {
  const int64_t batch = in.grid.batch, n = in.grid.tokens(), h = config_.heads, d = config_.head_dim;
  r.qkv = ctx.activation(Shape{batch, n, 3 * inner()}, tape);
  qkv_->apply(in.x, r.qkv, {}, ctx);
  r.q = {r.qkv, n, 3 * inner(), {}, {}, {}};
  r.k = {elements_from(r.qkv, inner()), n, 3 * inner(), {}, {}, {}};
  if (r.memory > 0) {
    r.memory_kv = ctx.activation(Shape{batch, r.memory, 2 * inner()}, tape);
    r.memory_k = {r.memory_kv, r.memory, 2 * inner(), {}, {}, {}};
    GemmArgs g;
    g.m = batch * r.memory;
    g.n = 2 * inner();
    g.k = config_.dim;
    g.a = in.memory.data;
    g.a_stride = g.k;
    g.b = elements_from(qkv_->weight().value, inner() * g.k).data;
    g.b_stride = g.k;
    g.b_transposed = true;
    g.c = r.memory_kv.data;
    g.c_stride = g.n;
    ctx.kernels().gemm(g, ctx);
  }
  if (!config_.qk_norm) return;
  const auto norm = [&](const LayerNorm& layer, TransformerXlRows& rows) {
    if (rows.count == 0) return;
    rows.normed = ctx.activation(Shape{batch, rows.count, h, d}, tape);
    rows.mean = ctx.activation(Shape{batch * rows.count * h}, tape);
    rows.rstd = ctx.activation(Shape{batch * rows.count * h}, tape);
    layer.forward_rows(rows.rows.data, {batch * rows.count, h, rows.token_stride, d}, rows.normed.data, {batch * rows.count, h, h * d, d},
                       rows.mean, rows.rstd, ctx);
  };
  norm(*q_norm_, r.q);
  norm(*k_norm_, r.k);
  norm(*k_norm_, r.memory_k);
}

RelativeTerm TransformerXlAttention::relative_term(const Record& r) const {
  RelativeTerm t;
  t.u = r_w_bias_->value.data;
  if (r_r_bias_ && xl_.learnable == 0) t.v = r_r_bias_->value.data;
  t.x = {r.x_rows.data, r.x_bias.data, r.x_first, r.x_rows.dim(0)};
  if (!is_sequence(r.in)) {
    t.y = {r.y_rows.data, nullptr, r.y_first, r.y_rows.dim(0)};
    t.map_width = std::max<int64_t>(1, r.in.grid.width);
    t.first_row = r.in.grid.prefix;
  }
  t.memory_rows = r.memory;
  t.wrapped = xl_.wrapped_shift;
  return t;
}

GroupedAttentionArgs TransformerXlAttention::kernel_args(const Record& r, const RelativeTerm& term) const {
  const int64_t batch = r.in.grid.batch, n = r.in.grid.tokens(), h = config_.heads, d = config_.head_dim;
  GroupedAttentionArgs a;
  a.groups = r.groups;
  a.batch = batch;
  a.heads = h;
  a.head_dim = d;
  a.queries = a.keys = n;
  a.scale = 1 / std::sqrt(static_cast<double>(d));
  a.q = view(r.q, inner(), d);
  a.k = view(r.k, inner(), d);
  a.v = view(elements_from(r.qkv, 2 * inner()), n, 3 * inner(), d);
  if (r.memory > 0) {
    a.memory_k = view(r.memory_k, inner(), d);
    a.memory_v = view(elements_from(r.memory_kv, inner()), r.memory, 2 * inner(), d);
  }
  if (const ConstTensor& mask = r.in.mask; !mask.empty()) {
    const Shape& m = mask.shape;
    require(m.rank() == 4 && (m[0] == batch || m[0] == 1) && (m[1] == h || m[1] == 1) && m[2] == n && m[3] == n,
            "attention mask: got shape {}, expected [{} or 1, {} or 1, {}, {}]", m, batch, h, n, n);
    a.mask = mask.data;
    a.mask_row_stride = n;
    a.mask_head_stride = m[1] == 1 ? 0 : n * n;
    a.mask_batch_stride = m[0] == 1 ? 0 : m[1] * n * n;
  }
  a.key_padding = r.in.key_padding;
  a.relative = &term;
  a.out = view(r.out, n, inner(), d);
  a.lse = r.lse.data;
  return a;
}

void TransformerXlAttention::forward(const AttentionInputs& in, Tensor y, Tape* tape, Context& ctx) const {
  require_shape(in.x, Shape{in.grid.batch, in.grid.tokens(), config_.dim}, "attention input");
  require(in.key_input.empty() && in.value_input.empty(), "transformer_xl has no second input");
  const auto reasons = unsupported(in.grid);
  require(reasons.empty(), "this attention cannot run on {} tokens: {}", in.grid.str(), fmt::join(reasons, "; "));
  require(is_sequence(in) || (xl_.learnable == 0 && !xl_.same_length), "transformer_xl: learnable and same_length speak of a causal sequence");
  Record r{};
  r.in = in;
  r.memory = in.memory.empty() ? 0 : in.memory.dim(1);
  if (r.memory > 0) {
    require(is_sequence(in), "a memory of earlier segments belongs to a causal sequence, not to a map");
    require_shape(in.memory, Shape{in.grid.batch, r.memory, config_.dim}, "segment memory");
  }
  ArenaScope scope(ctx.scratch());
  project(in, r, tape, ctx);
  make_rows(r, tape, ctx);
  r.groups = &groups(in, r.memory, ctx);
  r.out = ctx.activation(Shape{in.grid.batch, in.grid.tokens(), inner()}, tape);
  if (tape) r.lse = ctx.activation(Shape{in.grid.batch, config_.heads, r.groups->query_slots}, tape);
  const RelativeTerm term = relative_term(r);
  ctx.kernels().grouped_attention(kernel_args(r, term), ctx);
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

// With dS as in softmax attention, scale s: dq_i = s sum_j dS_ij (k_j + R_ij), dk_j = s sum_i dS_ij (q_i + u),
// du = s sum_ij dS_ij k_j, dv = s sum_ij dS_ij R_ij, dR_t = s sum over the pairs at distance t of dS_ij (q_i + v). R, q, k and
// v go back through their projections.
void TransformerXlAttention::backward(ConstTensor dy, const AttentionGradients& gradients, Tape& tape, Context& ctx) const {
  const auto r = tape.pop<Record>();
  const int64_t batch = r.in.grid.batch, n = r.in.grid.tokens(), h = config_.heads, d = config_.head_dim;
  ArenaScope scope(ctx.scratch());
  Arena& scratch = ctx.scratch();
  ConstTensor dout = dy;
  if (proj_) {
    const Tensor to = scratch.take(r.out.shape, r.out.dtype);
    proj_->backward_parameters(r.out, dy, ctx);
    proj_->backward_input(dy, to, Accumulate::kNo, ctx);
    dout = to;
  }
  const auto zeros_like = [&](const Tensor& t) {
    if (t.empty()) return Tensor();
    const Tensor z = scratch.take(t.shape, t.dtype);
    z.zero();
    return z;
  };
  const Tensor dx_rows = zeros_like(r.x_rows), dy_rows = zeros_like(r.y_rows), dx_bias = zeros_like(r.x_bias);
  const Tensor dqkv = scratch.take(r.qkv.shape, ctx.dtype());
  const Tensor dmemory_kv = r.memory > 0 ? scratch.take(r.memory_kv.shape, ctx.dtype()) : Tensor();

  const RelativeTerm term = relative_term(r);
  GroupedAttentionBackwardArgs a;
  a.forward = kernel_args(r, term);
  a.dout = {dout.data, n * inner(), inner(), d};
  const auto gradient_view = [&](const TransformerXlRows& rows, const Tensor& fused, Tensor& dnormed) {
    if (rows.normed.empty()) return view(fused, rows.count, rows.token_stride, d);
    dnormed = scratch.take(rows.normed.shape, ctx.dtype());
    return view(dnormed, rows.count, inner(), d);
  };
  Tensor dnq, dnk, dnmk;
  a.dq = gradient_view(r.q, dqkv, dnq);
  a.dk = gradient_view(r.k, elements_from(dqkv, inner()), dnk);
  a.dv = view(elements_from(dqkv, 2 * inner()), n, 3 * inner(), d);
  if (r.memory > 0) {
    a.dmemory_k = gradient_view(r.memory_k, dmemory_kv, dnmk);
    a.dmemory_v = view(elements_from(dmemory_kv, inner()), r.memory, 2 * inner(), d);
  }
  if (!r_w_bias_->frozen) a.relative.du = r_w_bias_->grad.data;
  if (term.v && !r_r_bias_->frozen) a.relative.dv = r_r_bias_->grad.data;
  a.relative.dx_rows = dx_rows.data;
  a.relative.dx_bias = dx_bias.data;
  a.relative.dy_rows = dy_rows.data;
  ctx.kernels().grouped_attention_backward(a, ctx);
  make_rows_backward(r, dx_rows, dy_rows, dx_bias, ctx);

  const auto norm_backward = [&](const LayerNorm& layer, const TransformerXlRows& rows, const Tensor& dnormed, const Tensor& to) {
    if (rows.normed.empty()) return;
    const int64_t count = batch * rows.count;
    layer.backward_rows(rows.rows.data, {count, h, rows.token_stride, d}, rows.mean, rows.rstd, dnormed.data, {count, h, h * d, d},
                        to.data, {count, h, rows.token_stride, d}, ctx);
  };
  if (config_.qk_norm) {
    norm_backward(*q_norm_, r.q, dnq, dqkv);
    norm_backward(*k_norm_, r.k, dnk, elements_from(dqkv, inner()));
    if (r.memory > 0) norm_backward(*k_norm_, r.memory_k, dnmk, dmemory_kv);
  }
  project_backward(r, dqkv, dmemory_kv, gradients, ctx);
}

// dx = dqkv W, dW += dqkvᵀ x; the memory's keys and values likewise through the lower rows of W.
void TransformerXlAttention::project_backward(const Record& r, ConstTensor dqkv, ConstTensor dmemory_kv,
                                              const AttentionGradients& gradients, Context& ctx) const {
  qkv_->backward_parameters(r.in.x, dqkv, ctx);
  qkv_->backward_input(dqkv, gradients.dx, Accumulate::kNo, ctx);
  if (r.memory == 0) return;
  const Param& weight = qkv_->weight();
  const int64_t rows = r.in.grid.batch * r.memory, first = inner() * config_.dim;
  GemmArgs g;
  if (!weight.frozen) {
    g.m = 2 * inner();
    g.n = config_.dim;
    g.k = rows;
    g.a = dmemory_kv.data;
    g.a_stride = g.m;
    g.a_transposed = true;
    g.b = r.in.memory.data;
    g.b_stride = g.n;
    g.c = elements_from(weight.grad, first).data;
    g.c_stride = g.n;
    g.accumulate = true;
    ctx.kernels().gemm(g, ctx);
  }
  if (gradients.dmemory.empty()) return;
  g = GemmArgs();
  g.m = rows;
  g.n = config_.dim;
  g.k = 2 * inner();
  g.a = dmemory_kv.data;
  g.a_stride = g.k;
  g.b = elements_from(weight.value, first).data;
  g.b_stride = g.n;
  g.c = gradients.dmemory.data;
  g.c_stride = g.n;
  ctx.kernels().gemm(g, ctx);
}

// Of an image. The relative term needs a product with every row of the two tables for each query, not one for each pair.
double TransformerXlAttention::flops(const TokenGrid& grid) const {
  const auto n = static_cast<double>(grid.tokens()), width = static_cast<double>(inner()), dim = static_cast<double>(config_.dim);
  const auto batch = static_cast<double>(grid.batch), sides = static_cast<double>(grid.height + grid.width);
  const double projections = 2 * batch * n * width * dim * (proj_ ? 4 : 3);
  const double relative = xl_.learnable > 0 ? 0 : 2 * width * dim * sides;
  return projections + relative + 4 * batch * width * n * n + 2 * batch * width * n * sides;
}

AttentionKind transformer_xl_attention_kind() {
  AttentionKind k;
  k.name = "transformer_xl";
  k.summary = "every token meets every token, scores depend on content and relative position; causal with a memory of segments";
  k.paper = "Dai et al. 2019, arXiv:1901.02860";
  k.cost = "O(N^2 C + N C^2)";
  k.options = {{"clamp_len", "0", "distances beyond it count as it; 0: none does"},
               {"same_length", "no", "causal sequences: every query sees mem_len keys, itself included: yes or no"},
               {"mem_len", "0", "the keys that same_length lets a query see"},
               {"learnable", "0", "causal sequences: learned rows for so many distances instead of sinusoids; 0: sinusoids"}};
  k.traits.causal = k.traits.mask = k.traits.prefix = true;
  k.no_union_reason = "its scores have a term of their own";
  k.make = [](const Scope& scope, const AttentionConfig& config, const AttentionOptions& o) -> std::unique_ptr<Attention> {
    TransformerXlConfig xl;
    xl.clamp_len = o.integer("clamp_len");
    xl.same_length = o.choice("same_length", {"no", "yes"}) == "yes";
    xl.mem_len = o.integer("mem_len");
    xl.learnable = o.integer("learnable");
    return std::make_unique<TransformerXlAttention>(scope, config, xl);
  };
  return k;
}

}  // namespace fovea
