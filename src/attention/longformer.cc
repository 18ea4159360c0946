#include "attention/longformer.h"

#include <cmath>

#include "attention/band_groups.h"
#include "attention/registry.h"

namespace fovea {

namespace {

std::string config_key(const LongformerConfig& c) { return fmt::format("{} {} {}", c.window, fmt::join(c.dilation, "_"), c.globals); }

const LongformerGroups& longformer_groups_of(const LongformerConfig& c, const AttentionInputs& in, Context& ctx) {
  const TokenGrid& grid = in.grid;
  const std::string key = fmt::format("longformer {} {} {}", config_key(c), grid.str(), in.causal);
  if (!in.token_state) return ctx.cached<LongformerGroups>(key, [&] { return longformer_groups(c, grid, in.causal); });
  LongformerStates& states = *ctx.cached<std::shared_ptr<LongformerStates>>(key + " states", [] { return std::make_shared<LongformerStates>(); });
  states.build(c, grid, in.causal, in.token_state);
  return states;
}

// Pairs in a window, averaged over the dilations.
double window_pairs(const LongformerConfig& c, const TokenGrid& grid, int64_t first) {
  double pairs = 0;
  for (const int64_t dilation : c.dilation) {
    const Band band{.window = c.window, .dilation = dilation};
    pairs += grid.height == 1 ? band_pairs(band, grid.tokens() - first) : band_pairs_on_map(band, grid.height, grid.width);
  }
  return pairs / static_cast<double>(c.dilation.size());
}

std::vector<std::string> unsupported_tokens(const TokenGrid& grid, bool cross) {
  std::vector<std::string> reasons;
  if (cross) reasons.push_back("longformer attention has no second input");
  if (grid.batch > 0 && (grid.height == 0 || grid.width == 0)) reasons.push_back("the map is empty");
  return reasons;
}

// The part of the tokens that are not global.
class NeighbourGeometry : public AttentionGeometry {
 public:
  explicit NeighbourGeometry(const LongformerConfig& config) : config_(config) {}
  const TokenGroups& groups(const AttentionInputs& in, Context& ctx) const override { return longformer_groups_of(config_, in, ctx).window; }
  double pairs(const TokenGrid& grid) const override {
    const int64_t globals = longformer_globals(config_, grid, false), others = grid.tokens() - globals;
    return window_pairs(config_, grid, globals) + static_cast<double>(others) * static_cast<double>(globals);
  }
  bool keys_share_projection() const override { return true; }

 private:
  LongformerConfig config_;
};

// The window as part of a union, whose tokens have one projection.
class UnionPart : public AttentionGeometry {
 public:
  UnionPart(const LongformerConfig& config, bool cross) : config_(config), cross_(cross) {}
  const TokenGroups& groups(const AttentionInputs& in, Context& ctx) const override {
    require(in.token_state == nullptr, "longformer in a union has no global tokens, so no token is said to be one");
    return ctx.cached<TokenGroups>(fmt::format("longformer part {} {} {}", config_key(config_), in.grid.str(), in.causal),
                                   [&] { return longformer_pattern_groups(config_, in.grid, in.causal); });
  }
  std::vector<PairPattern> pattern(const TokenGrid& grid, bool causal) const override { return longformer_patterns(config_, grid, causal); }
  double pairs(const TokenGrid& grid) const override {
    const auto prefix = static_cast<double>(grid.prefix), all = static_cast<double>(grid.tokens());
    return window_pairs(config_, grid, grid.prefix) + prefix * (2 * all - prefix);
  }
  std::vector<std::string> unsupported(const TokenGrid& grid) const override { return unsupported_tokens(grid, cross_); }
  bool keys_share_projection() const override { return true; }

 private:
  LongformerConfig config_;
  bool cross_;
};

void check_config(const LongformerConfig& c, int64_t heads) {
  require(c.window >= 0 && c.globals >= 0, "longformer: window={} and globals={} are no negative numbers", c.window, c.globals);
  for (const int64_t dilation : c.dilation) require(dilation > 0, "longformer: a step of {} in the window leads nowhere", dilation);
  require(!c.dilation.empty() && heads % static_cast<int64_t>(c.dilation.size()) == 0, "longformer: {} dilations do not share {} heads evenly",
          c.dilation.size(), heads);
}

LongformerConfig config_from(const AttentionOptions& o) { return {o.integer("window"), o.integers("dilation"), o.integer("globals")}; }

AttentionConfig without_projection(AttentionConfig c) {
  c.project_out = false;
  return c;
}

}  // namespace

struct LongformerAttention::Record {
  AttentionInputs in;
  const LongformerGroups* groups;
  Tensor out;              // (B, N, H D) before the output projection; empty without one
  Tensor x, q, kv;         // of the global part: (B, globals, C), (B, globals, H D), (B, N, 2, H D)
  Tensor normed_q, normed_k;  // with qk_norm: (B, globals, H, D), (B, N, H, D)
  Tensor q_mean, q_rstd, k_mean, k_rstd;
  Tensor attended, lse;    // (B, globals, H D), (B, H, slots)
};

LongformerAttention::LongformerAttention(const Scope& scope, const AttentionConfig& config, const LongformerConfig& longformer)
    : config_(with_defaults(config)),
      longformer_(longformer),
      window_(scope, without_projection(config), std::make_unique<NeighbourGeometry>(longformer)) {
  check_config(longformer, config.heads);
  const Bias bias = config_.qkv_bias ? Bias::kYes : Bias::kNo;
  q_global_.emplace(scope / "q_global", config_.dim, inner(), bias);
  kv_global_.emplace(scope / "kv_global", config_.dim, 2 * inner(), bias);
  if (config_.qk_norm) {
    q_global_norm_.emplace(scope / "q_global_norm", config_.head_dim, config_.norm_epsilon);
    k_global_norm_.emplace(scope / "k_global_norm", config_.head_dim, config_.norm_epsilon);
  }
  if (config_.project_out) proj_.emplace(scope / "proj", inner(), config_.dim, config_.out_bias ? Bias::kYes : Bias::kNo);
}

std::vector<std::string> LongformerAttention::unsupported(const TokenGrid& grid) const { return unsupported_tokens(grid, config_.cross); }

double LongformerAttention::flops(const TokenGrid& grid) const {
  const auto batch = static_cast<double>(grid.batch), tokens = static_cast<double>(grid.tokens()), width = static_cast<double>(inner());
  const auto globals = static_cast<double>(longformer_globals(longformer_, grid, false)), dim = static_cast<double>(config_.dim);
  double f = window_.flops(grid) + (proj_ ? 2 * batch * tokens * width * dim : 0);
  if (globals > 0) f += 2 * batch * width * dim * (globals + 2 * tokens) + 4 * batch * width * globals * tokens;
  return f;
}

// The global queries' part as the kernel sees it.
GroupedAttentionArgs LongformerAttention::global_args(const Record& r) const {
  const int64_t n = r.in.grid.tokens(), globals = r.groups->globals, d = config_.head_dim;
  GroupedAttentionArgs a;
  a.groups = &r.groups->global;
  a.batch = r.in.grid.batch;
  a.heads = config_.heads;
  a.head_dim = d;
  a.queries = globals;
  a.keys = n;
  a.scale = 1 / std::sqrt(static_cast<double>(d));
  a.q = {r.q.data, globals * inner(), inner(), d};
  a.k = {r.kv.data, n * 2 * inner(), 2 * inner(), d};
  a.v = {values_of(r.kv).data, n * 2 * inner(), 2 * inner(), d};
  if (config_.qk_norm) {
    a.q = {r.normed_q.data, globals * inner(), inner(), d};
    a.k = {r.normed_k.data, n * inner(), inner(), d};
  }
  a.key_padding = r.in.key_padding;
  a.out = {r.attended.data, globals * inner(), inner(), d};
  a.lse = r.lse.data;
  return a;
}

Tensor LongformerAttention::values_of(const Tensor& kv) const {
  return {static_cast<char*>(kv.data) + inner() * static_cast<int64_t>(size_of(kv.dtype)), Shape{}, kv.dtype};
}

// The rows of `out` that belong to global tokens, in which the window part left zeros.
void LongformerAttention::attend_globally(Record& r, Tensor out, Tape* tape, Context& ctx) const {
  const KernelTable& k = ctx.kernels();
  const int64_t batch = r.in.grid.batch, n = r.in.grid.tokens(), globals = r.groups->globals, h = config_.heads, d = config_.head_dim;
  r.x = ctx.activation(Shape{batch, globals, config_.dim}, tape);
  r.q = ctx.activation(Shape{batch, globals, inner()}, tape);
  r.kv = ctx.activation(Shape{batch, n, 2 * inner()}, tape);
  r.attended = ctx.activation(Shape{batch, globals, inner()}, tape);
  if (tape) r.lse = ctx.activation(Shape{batch, h, r.groups->global.query_slots}, tape);
  k.gather_rows(batch * globals, config_.dim, r.in.x.data, r.groups->rows.data(), r.x.data, ctx);
  q_global_->apply(r.x, r.q, {}, ctx);
  kv_global_->apply(r.in.x, r.kv, {}, ctx);
  if (config_.qk_norm) {
    const auto norm = [&](const LayerNorm& layer, const Tensor& x, int64_t tokens, int64_t stride, Tensor& y, Tensor& mean, Tensor& rstd) {
      y = ctx.activation(Shape{batch, tokens, h, d}, tape);
      mean = ctx.activation(Shape{batch * tokens * h}, tape);
      rstd = ctx.activation(Shape{batch * tokens * h}, tape);
      layer.forward_rows(x.data, {batch * tokens, h, stride, d}, y.data, {batch * tokens, h, h * d, d}, mean, rstd, ctx);
    };
    norm(*q_global_norm_, r.q, globals, inner(), r.normed_q, r.q_mean, r.q_rstd);
    norm(*k_global_norm_, r.kv, n, 2 * inner(), r.normed_k, r.k_mean, r.k_rstd);
  }
  k.grouped_attention(global_args(r), ctx);
  k.scatter_add_rows(batch * globals, inner(), r.attended.data, r.groups->rows.data(), out.data, ctx);
}

void LongformerAttention::forward(const AttentionInputs& in, Tensor y, Tape* tape, Context& ctx) const {
  require_shape(in.x, Shape{in.grid.batch, in.grid.tokens(), config_.dim}, "attention input");
  require(in.memory.empty(), "only transformer_xl takes a memory of earlier segments");
  const auto reasons = unsupported(in.grid);
  require(reasons.empty(), "longformer attention cannot run on {} tokens: {}", in.grid.str(), fmt::join(reasons, "; "));
  require(in.mask.empty(), "longformer attention takes no additive mask");
  require(proj_ || in.residual.empty(), "an attention without output projection takes no residual");
  ArenaScope scope(ctx.scratch());
  const int64_t batch = in.grid.batch, n = in.grid.tokens();
  Record r{};
  r.in = in;
  r.groups = &longformer_groups_of(longformer_, in, ctx);
  AttentionInputs window_in = in;
  window_in.residual = {};
  Tensor out = y;
  if (proj_) out = r.out = ctx.activation(Shape{batch, n, inner()}, tape);
  window_.forward(window_in, out, tape, ctx);
  if (r.groups->globals > 0) attend_globally(r, out, tape, ctx);
  if (proj_) {
    LinearFusion fusion;
    fusion.residual = in.residual;
    proj_->apply(r.out, y, fusion, ctx);
  }
  if (tape) tape->push(r);
}

// Each output row is the softmax attention of one of the two parts, so each part gets the gradient of its rows; x collects from
// both parts' projections. A residual input's gradient is the caller's.
void LongformerAttention::backward(ConstTensor dy, const AttentionGradients& gradients, Tape& tape, Context& ctx) const {
  const auto r = tape.pop<Record>();
  // Groups made of token states are those of the latest forward until this brings them back.
  check(&longformer_groups_of(longformer_, r.in, ctx) == r.groups, "longformer: the groups moved between forward and backward");
  ArenaScope scope(ctx.scratch());
  Arena& scratch = ctx.scratch();
  const int64_t batch = r.in.grid.batch, n = r.in.grid.tokens(), globals = r.groups->globals, d = config_.head_dim;
  ConstTensor dout = dy;
  if (proj_) {
    const Tensor own = scratch.take(r.out.shape, r.out.dtype);
    proj_->backward_parameters(r.out, dy, ctx);
    proj_->backward_input(dy, own, Accumulate::kNo, ctx);
    dout = own;
  }
  window_.backward(dout, gradients, tape, ctx);
  if (globals == 0) return;

  const KernelTable& k = ctx.kernels();
  const Tensor dattended = scratch.take(r.attended.shape, ctx.dtype()), dq = scratch.take(r.q.shape, ctx.dtype()),
               dkv = scratch.take(r.kv.shape, ctx.dtype()), dx = scratch.take(r.x.shape, ctx.dtype());
  k.gather_rows(batch * globals, inner(), dout.data, r.groups->rows.data(), dattended.data, ctx);
  GroupedAttentionBackwardArgs a;
  a.forward = global_args(r);
  a.dout = {dattended.data, globals * inner(), inner(), d};
  a.dq = {dq.data, globals * inner(), inner(), d};
  a.dk = {dkv.data, n * 2 * inner(), 2 * inner(), d};
  a.dv = {values_of(dkv).data, n * 2 * inner(), 2 * inner(), d};
  Tensor dnormed_q, dnormed_k;
  if (config_.qk_norm) {
    dnormed_q = scratch.take(r.normed_q.shape, ctx.dtype());
    dnormed_k = scratch.take(r.normed_k.shape, ctx.dtype());
    a.dq = {dnormed_q.data, globals * inner(), inner(), d};
    a.dk = {dnormed_k.data, n * inner(), inner(), d};
  }
  k.grouped_attention_backward(a, ctx);
  if (config_.qk_norm) {
    const int64_t h = config_.heads;
    q_global_norm_->backward_rows(r.q.data, {batch * globals, h, inner(), d}, r.q_mean, r.q_rstd, dnormed_q.data,
                                  {batch * globals, h, inner(), d}, dq.data, {batch * globals, h, inner(), d}, ctx);
    k_global_norm_->backward_rows(r.kv.data, {batch * n, h, 2 * inner(), d}, r.k_mean, r.k_rstd, dnormed_k.data, {batch * n, h, inner(), d},
                                  dkv.data, {batch * n, h, 2 * inner(), d}, ctx);
  }
  // A bias of all keys shifts a query's scores alike.
  kv_global_->backward_parameters(r.in.x, dkv, config_.qk_norm ? Linear::Outputs{} : Linear::Outputs{0, inner()}, ctx);
  kv_global_->backward_input(dkv, gradients.dx, Accumulate::kYes, ctx);
  q_global_->backward_parameters(r.x, dq, ctx);
  q_global_->backward_input(dq, dx, Accumulate::kNo, ctx);
  k.scatter_add_rows(batch * globals, config_.dim, dx.data, r.groups->rows.data(), gradients.dx.data, ctx);
}

AttentionKind longformer_attention_kind() {
  AttentionKind k;
  k.name = "longformer";
  k.summary = "a sliding window (a square on maps), dilated head by head, with global tokens that see all and are seen by all";
  k.paper = "Beltagy et al. 2020, arXiv:2004.05150; on maps: Zhang et al. 2021, arXiv:2103.15358";
  k.cost = "O(N w C + N g C + N C^2), w keys in the window, g global tokens";
  k.options = {{"window", "7", "one side of the window, in tokens: 2 w + 1 keys on a sequence, (2 w + 1)^2 on a map"},
               {"dilation", "1", "step of the window, for all heads or a list for them, such as 1_1_2_2"},
               {"globals", "0", "of a sequence: so many first tokens are global; on maps the prefix tokens (class token) are"}};
  k.traits.causal = k.traits.prefix = k.traits.token_state = true;
  k.traits.prefix_parameters = {"q_global.weight", "q_global.bias", "kv_global.weight", "kv_global.bias", "q_global_norm.weight",
                                "q_global_norm.bias", "k_global_norm.weight", "k_global_norm.bias"};
  k.make_geometry = [](const Scope&, const AttentionConfig& config, const AttentionOptions& o, GeometryUse) -> std::unique_ptr<const AttentionGeometry> {
    const LongformerConfig c = config_from(o);
    check_config(c, config.heads);
    require(c.globals == 0, "longformer with globals={} cannot be part of a union: global tokens have projections of their own", c.globals);
    return std::make_unique<UnionPart>(c, config.cross);
  };
  k.make = [](const Scope& scope, const AttentionConfig& config, const AttentionOptions& o) -> std::unique_ptr<Attention> {
    return std::make_unique<LongformerAttention>(scope, config, config_from(o));
  };
  return k;
}

}  // namespace fovea
