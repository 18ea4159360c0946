#include "attention/performer.h"

#include <cmath>

#include "attention/registry.h"
#include "core/convert.h"

namespace fovea {

struct PerformerAttention::Record {
  AttentionInputs in;
  ProjectedHeads heads;
  Tensor out, state;  // (B, N, H D), and what the kernel keeps
};

double feature_input_scale(FeatureKernel map, int64_t head_dim) {
  return map == FeatureKernel::kNone ? 1 : std::pow(static_cast<double>(head_dim), -0.25);
}

double default_feature_epsilon(FeatureKernel map) {
  return map == FeatureKernel::kNone ? 0 : map == FeatureKernel::kSoftmax ? 1e-4 : 1e-3;
}

namespace {

PerformerConfig filled_in(PerformerConfig c) {
  c.heads = with_defaults(c.heads);
  const auto d = static_cast<double>(c.heads.head_dim);
  require(c.features >= 0, "attention option features={}: expected a number from 0 (automatic) on", c.features);
  require(c.redraw >= 0, "attention option redraw={}: expected a number of steps, or 0 for never", c.redraw);
  if (c.map == FeatureKernel::kNone) {
    require(c.features == 0 || c.features == c.heads.head_dim,
            "attention option features={}: kernel=none has as many features as a head has channels, {}", c.features, c.heads.head_dim);
    require(c.epsilon <= 0, "attention option epsilon={}: kernel=none takes none", c.epsilon);
    c.features = c.heads.head_dim;
    c.redraw = 0;
  }
  if (c.features == 0) c.features = std::max<int64_t>(1, static_cast<int64_t>(d * std::log(d)));
  if (c.epsilon < 0) c.epsilon = default_feature_epsilon(c.map);
  return c;
}

// Rows of padded keys become zeros.
void zero_padded(const ProjectedHeads& heads, const uint8_t* padding, const HeadsView& rows, DType dtype) {
  const auto bytes = static_cast<int64_t>(size_of(dtype));
  for (int64_t row = 0; row < heads.batch * heads.keys; ++row) {
    if (padding[row] == 0) continue;
    const int64_t at = row / heads.keys * rows.batch_stride + row % heads.keys * rows.token_stride;
    for (int64_t h = 0; h < heads.heads; ++h)
      std::memset(static_cast<char*>(rows.data) + (at + h * rows.head_stride) * bytes, 0, static_cast<size_t>(heads.head_dim * bytes));
  }
}

}  // namespace

PerformerAttention::PerformerAttention(const Scope& scope, const PerformerConfig& config)
    : config_(filled_in(config)), projections_(scope, config_.heads) {
  const AttentionConfig& c = config_.heads;
  if (config_.map != FeatureKernel::kNone) {
    features_ = scope.buffer("projection_matrix", Shape{config_.features, c.head_dim}, Init::zeros());
    features_->fill = [norms = config_.norms](const Rng& rng, const Tensor& w) { draw_orthogonal_features(rng, norms, w); };
  }
  if (config_.redraw > 0) steps_ = scope.buffer("steps_since_redraw", Shape{1}, Init::zeros());
  if (c.project_out) proj_.emplace(scope / "proj", c.heads * c.head_dim, c.dim, c.out_bias ? Bias::kYes : Bias::kNo);
}

FeatureAttentionArgs PerformerAttention::kernel_args(const AttentionInputs& in, const ProjectedHeads& heads, const Tensor& out,
                                                     const Tensor& state) const {
  FeatureAttentionArgs a;
  a.batch = heads.batch;
  a.heads = heads.heads;
  a.head_dim = a.value_dim = heads.head_dim;
  a.queries = heads.queries;
  a.keys = heads.keys;
  a.map = config_.map;
  a.features = config_.features;
  if (features_) a.projection = features_->value.data;
  a.input_scale = feature_input_scale(config_.map, heads.head_dim);
  a.epsilon = config_.epsilon;
  a.causal = in.causal;
  a.q = heads.q_view();
  a.k = heads.k_view();
  a.v = heads.v_view();
  if (!config_.padding_zeroes_values) a.key_padding = in.key_padding;
  a.out = {out.data, heads.queries * heads.heads * heads.head_dim, heads.heads * heads.head_dim, heads.head_dim};
  a.state = state.data;
  a.constant_stabilisers = config_.constant_stabilisers;
  a.whole_stabiliser = config_.whole_stabiliser;
  // Our features of the softmax kernel lack the factor 1 / sqrt(M), which numerator and denominator share but for this.
  a.causal_epsilon = config_.causal_epsilon;
  if (config_.map == FeatureKernel::kSoftmax) a.causal_epsilon *= std::sqrt(static_cast<double>(config_.features));
  return a;
}

void PerformerAttention::forward(const AttentionInputs& in, Tensor y, Tape* tape, Context& ctx) const {
  const AttentionConfig& c = config_.heads;
  const int64_t inner = c.heads * c.head_dim;
  require_shape(in.x, Shape{in.grid.batch, in.grid.tokens(), c.dim}, "attention input");
  require(in.memory.empty(), "only transformer_xl takes a memory of earlier segments");
  require(in.mask.empty(), "performer attention has no scores that a mask could be added to; it takes causal order and key padding");
  ArenaScope scope(ctx.scratch());
  Record r{};
  r.in = in;
  r.heads = projections_.forward(in, tape, ctx);
  require(!in.causal || r.heads.queries == r.heads.keys, "causal performer attention of {} queries on {} keys: the numbers must be equal",
          r.heads.queries, r.heads.keys);
  if (config_.padding_zeroes_values && in.key_padding) zero_padded(r.heads, in.key_padding, r.heads.v_view(), ctx.dtype());
  r.out = ctx.activation(Shape{in.grid.batch, in.grid.tokens(), inner}, tape);
  const KernelTable& kernels = ctx.kernels();
  if (tape) r.state = ctx.activation(Shape{kernels.feature_attention_state(kernel_args(in, r.heads, r.out, {}))}, tape);
  kernels.feature_attention(kernel_args(in, r.heads, r.out, r.state), ctx);
  if (proj_) {
    LinearFusion fusion;
    fusion.residual = in.residual;
    proj_->apply(r.out, y, fusion, ctx);
  } else {
    check(in.residual.empty() && y.elements() == r.out.elements(), "heads without a projection: shape {}", y.shape);
    if (y.bytes() != 0) std::memcpy(y.data, r.out.data, y.bytes());
  }
  if (tape) tape->push(r);
}

// The kernel's backward (docs/numerics.md) between the backwards of the affine maps around it.
void PerformerAttention::backward(ConstTensor dy, const AttentionGradients& gradients, Tape& tape, Context& ctx) const {
  const auto r = tape.pop<Record>();
  ArenaScope scope(ctx.scratch());
  ConstTensor dout = dy;
  if (proj_) {
    const Tensor d = ctx.scratch().take(r.out.shape, r.out.dtype);
    proj_->backward_parameters(r.out, dy, ctx);
    proj_->backward_input(dy, d, Accumulate::kNo, ctx);
    dout = d;
  }
  const ProjectedGradients d = projections_.gradients(r.heads, ctx.scratch(), ctx.dtype());
  FeatureAttentionBackwardArgs a;
  a.forward = kernel_args(r.in, r.heads, r.out, r.state);
  a.dout = {dout.data, a.forward.out.batch_stride, a.forward.out.token_stride, a.forward.out.head_stride};
  a.dq = d.q_view;
  a.dk = d.k_view;
  a.dv = d.v_view;
  ctx.kernels().feature_attention_backward(a, ctx);
  if (config_.padding_zeroes_values && r.in.key_padding) zero_padded(r.heads, r.in.key_padding, d.v_view, ctx.dtype());
  projections_.backward(r.in, r.heads, d, gradients, ctx);
}

double PerformerAttention::flops(const TokenGrid& grid) const {
  const double tokens = static_cast<double>(grid.batch * grid.tokens());
  const double inner = static_cast<double>(config_.heads.heads * config_.heads.head_dim);
  const double products = config_.map == FeatureKernel::kNone ? 2 : 4;  // features of q and of k, sums over keys, quotients
  return projections_.flops(tokens) + (proj_ ? 2 * tokens * inner * static_cast<double>(config_.heads.dim) : 0) +
         2 * products * tokens * inner * static_cast<double>(config_.features);
}

void PerformerAttention::end_step(Context& ctx) {
  if (!steps_) return;
  const auto steps = static_cast<int64_t>(std::lround(load_scalar(steps_->value, 0))) + 1;
  const bool due = steps >= config_.redraw;
  store_scalar(steps_->value, 0, due ? 0.0 : static_cast<double>(steps));
  if (due) draw_orthogonal_features(ctx.rng().fork(ParamStore::name_tag(features_->name)), config_.norms, features_->value);
}

AttentionKind performer_attention_kind() {
  AttentionKind k;
  k.name = "performer";
  k.summary = "softmax attention estimated with positive orthogonal random features (FAVOR+), linear in the tokens";
  k.paper = "Choromanski et al. 2020, arXiv:2009.14794";
  k.cost = "O(N M C + N C^2), M features";
  k.options = {
      {"features", "0", "random features of a head; 0: int(d ln d) of d channels"},
      {"kernel", "softmax", "softmax, relu, exp or gelu; none: efficient attention (arXiv:1812.01243), which projects nothing"},
      {"epsilon", "auto", "added to each feature; auto: 1e-4 of the softmax kernel, 1e-3 of the others"},
      {"scaling", "0", "lengths of the feature vectors: 0 as of Gaussian ones, 1 sqrt(d)"},
      {"redraw", "0", "training steps between new random features; 0: never"},
  };
  k.traits.causal = k.traits.cross = k.traits.prefix = true;
  k.traits.softmax = false;
  k.no_union_reason = "its weights are no softmax over keys";
  k.make = [](const Scope& scope, const AttentionConfig& config, const AttentionOptions& options) -> std::unique_ptr<Attention> {
    PerformerConfig c;
    c.heads = config;
    c.features = options.integer("features");
    const std::string map = options.choice("kernel", {"softmax", "relu", "exp", "gelu", "none"});
    c.map = map == "softmax" ? FeatureKernel::kSoftmax
            : map == "relu"  ? FeatureKernel::kRelu
            : map == "exp"   ? FeatureKernel::kExp
            : map == "gelu"  ? FeatureKernel::kGelu
                             : FeatureKernel::kNone;
    if (options.text("epsilon") != "auto") {
      c.epsilon = options.real("epsilon");
      require(c.epsilon >= 0, "attention option epsilon={}: expected a number from 0 on", options.text("epsilon"));
    }
    c.norms = options.choice("scaling", {"0", "1"}) == "0" ? FeatureNorms::kGaussian : FeatureNorms::kConstant;
    c.redraw = options.integer("redraw");
    return std::make_unique<PerformerAttention>(scope, c);
  };
  return k;
}

}  // namespace fovea
