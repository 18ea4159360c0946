// Fixtures of attention on random features.
#include "parity/runners.h"

#include <cmath>

#include "attention/performer.h"
#include "core/convert.h"

namespace fovea::parity {

namespace {

FeatureKernel map_of(const std::string& kernel, const std::string& function) {
  if (kernel == "softmax") return FeatureKernel::kSoftmax;
  if (kernel == "efficient_attention" || kernel == "no_projection") return FeatureKernel::kNone;
  if (kernel == "relu_jax" || kernel == "relu_tf") return FeatureKernel::kRelu;
  require(kernel == "generalized", "unknown kernel {}", kernel);
  if (function == "relu") return FeatureKernel::kRelu;
  if (function == "exp") return FeatureKernel::kExp;
  require(function == "gelu", "unknown kernel function {}", function);
  return FeatureKernel::kGelu;
}

std::string text_or(const Json& j, const char* key, const char* otherwise) {
  return j.contains(key) && !j[key].is_null() ? j[key].get<std::string>() : otherwise;
}
double number_or(const Json& j, const char* key, double otherwise) {
  return j.contains(key) && !j[key].is_null() ? j[key].get<double>() : otherwise;
}

double epsilon_of(const Json& j, FeatureKernel map) {
  if (map == FeatureKernel::kNone) return 0;
  return map == FeatureKernel::kSoftmax ? number_or(j, "eps", 1e-4) : number_or(j, "kernel_epsilon", 1e-3);
}

// The layout of a tensor whose axes are batch, then (heads, tokens) or (tokens, heads), then channels.
HeadsView heads_view(const Tensor& t, bool heads_first) {
  const int64_t d = t.dim(3);
  if (heads_first) return {t.data, t.dim(1) * t.dim(2) * d, d, t.dim(2) * d};
  return {t.data, t.dim(1) * t.dim(2) * d, t.dim(2) * d, d};
}

void feature_attention(CheckCase& c, bool heads_first, const FeatureAttentionArgs& options) {
  const Tensor q = c.input("q"), k = c.input("k"), v = c.input("v");
  FeatureAttentionArgs a = options;
  a.batch = q.dim(0);
  a.heads = q.dim(heads_first ? 1 : 2);
  a.queries = q.dim(heads_first ? 2 : 1);
  a.keys = k.dim(heads_first ? 2 : 1);
  a.head_dim = q.dim(3);
  a.value_dim = v.dim(3);
  a.features = a.head_dim;
  harness::HostTensor projection;
  if (a.map != FeatureKernel::kNone) {
    projection = c.fixture.tensor("buf.projection_matrix", c.ctx.dtype());
    a.features = projection.dim(0);
    a.projection = projection.data;
  }
  if (a.map == FeatureKernel::kSoftmax) a.causal_epsilon *= std::sqrt(static_cast<double>(a.features));
  if (c.config.at("kernel") == "relu_tf") a.input_scale = 1 / std::sqrt(static_cast<double>(a.features));
  a.q = heads_view(q, heads_first);
  a.k = heads_view(k, heads_first);
  a.v = heads_view(v, heads_first);
  const Shape y_shape = heads_first ? Shape{a.batch, a.heads, a.queries, a.value_dim} : Shape{a.batch, a.queries, a.heads, a.value_dim};
  const Tensor y = c.memory(y_shape), dq = c.memory(q.shape), dk = c.memory(k.shape), dv = c.memory(v.shape);
  a.out = heads_view(y, heads_first);
  const KernelTable& kernels = c.ctx.kernels();
  const Tensor state = c.memory(Shape{std::max<int64_t>(1, kernels.feature_attention_state(a))});
  a.state = state.data;
  kernels.feature_attention(a, c.ctx);
  c.output("y", y);
  const Tensor dy = c.upstream("y");
  kernels.feature_attention_backward(
      {a, heads_view(dy, heads_first), heads_view(dq, heads_first), heads_view(dk, heads_first), heads_view(dv, heads_first)}, c.ctx);
  c.input_gradient("q", dq);
  c.input_gradient("k", dk);
  c.input_gradient("v", dv);
}

// lucidrains: stabilisers over all tokens and detached, an epsilon in causal denominators.
void performer_fast_attention(CheckCase& c) {
  const Json& j = c.config;
  FeatureAttentionArgs a;
  a.map = map_of(j.at("kernel"), text_or(j, "kernel_fn", "relu"));
  a.epsilon = epsilon_of(j, a.map);
  const bool scaled = a.map != FeatureKernel::kNone && flag(j, "normalize_data", true);
  a.input_scale = scaled ? std::pow(j.at("dim_head").get<double>(), -0.25) : 1;
  a.causal = flag(j, "causal", false);
  a.constant_stabilisers = a.whole_stabiliser = true;
  if (a.causal) a.causal_epsilon = number_or(j, "causal_eps", 1e-6);
  feature_attention(c, true, a);
}

// Google: the same stabilisers, differentiated; generalised kernels without d^-1/4.
void performer_google(CheckCase& c) {
  const Json& j = c.config;
  FeatureAttentionArgs a;
  a.map = map_of(j.at("kernel"), "");
  a.epsilon = epsilon_of(j, a.map);
  a.input_scale = a.map == FeatureKernel::kSoftmax ? std::pow(j.at("dim_head").get<double>(), -0.25) : 1;
  a.causal = flag(j, "causal", false);
  a.whole_stabiliser = true;
  feature_attention(c, false, a);
}

PerformerConfig performer_config(const CheckCase& c) {
  const Json& j = c.config;
  PerformerConfig p;
  p.heads.dim = j.at("dim");
  p.heads.heads = j.at("heads");
  p.heads.head_dim = j.at("dim_head");
  p.heads.qkv_bias = flag(j, "qkv_bias", false);
  p.heads.out_bias = c.fixture.has("w.to_out.bias");
  p.map = map_of(j.at("kernel"), text_or(j, "kernel_fn", "relu"));
  p.epsilon = epsilon_of(j, p.map);
  if (p.map != FeatureKernel::kNone) p.features = c.fixture.tensor("buf.projection_matrix", DType::kF64).dim(0);
  p.constant_stabilisers = p.whole_stabiliser = p.padding_zeroes_values = true;
  if (flag(j, "causal", false)) p.causal_epsilon = number_or(j, "causal_eps", 1e-6);
  return p;
}

void fill_features(CheckCase& c, const std::string& parameter) {
  if (Param* w = c.params.find(parameter)) convert(c.fixture.tensor("buf.projection_matrix", c.ctx.dtype()), w->value);
}

void bind_projections(CheckCase& c, const AttentionConfig& a) {
  const int64_t inner = a.heads * a.head_dim;
  const char* names[] = {"q", "k", "v"};
  for (int64_t i = 0; i < 3; ++i)
    for (const char* part : {".weight", ".bias"}) {
      if (part[1] == 'b' && !a.qkv_bias) continue;
      const std::string key = std::string("to_") + names[i] + part;
      if (a.cross)
        c.bind(key, names[i] + std::string(part));
      else
        c.bind(key, std::string("qkv") + part, i * inner, inner);
    }
  c.bind("to_out.weight", "proj.weight");
  if (a.out_bias) c.bind("to_out.bias", "proj.bias");
}

void performer_attention_layer(CheckCase& c) {
  PerformerConfig p = performer_config(c);
  p.heads.cross = c.fixture.has("in.context");
  const PerformerAttention attention(Scope(c.params), p);
  bind_projections(c, p.heads);
  c.load();
  fill_features(c, "projection_matrix");
  AttentionInputs in;
  in.x = c.input("x");
  in.grid = sequence(in.x.dim(0), in.x.dim(1));
  in.causal = flag(c.config, "causal", false);
  AttentionGradients g{c.memory(in.x.shape), {}, {}};
  if (p.heads.cross) {
    in.key_input = c.input("context");
    g.dkey_input = c.memory(in.key_input.shape);
  }
  std::vector<uint8_t> padding;  // the fixture's mask says 1 = keep
  const char* mask = c.fixture.has("in.context_mask") ? "context_mask" : "mask";
  if (c.fixture.has(std::string("in.") + mask)) {
    const uint8_t* keep = c.bytes(mask);
    const ConstTensor keys = p.heads.cross ? in.key_input : in.x;
    for (int64_t i = 0; i < keys.dim(0) * keys.dim(1); ++i) padding.push_back(keep[i] == 0);
    in.key_padding = padding.data();
  }
  run_attention(c, attention, in, g, in.x.shape);
  c.input_gradient("x", g.dx);
  if (p.heads.cross) c.input_gradient("context", g.dkey_input);
}

// Heads [first, first + count) of a view as (B, H, N, D), and back.
Tensor heads_of_view(CheckCase& c, const ConstHeadsView& view, int64_t batch, int64_t tokens, int64_t dim, int64_t first, int64_t count) {
  const Tensor t = c.memory(Shape{batch, count, tokens, dim});
  const ConstTensor from(view.data, Shape{batch * view.batch_stride}, t.dtype);
  for (int64_t i = 0; i < t.elements(); ++i) {
    const int64_t d = i % dim, n = i / dim % tokens, h = i / dim / tokens % count, b = i / dim / tokens / count;
    store_scalar(t, i, load_scalar(from, b * view.batch_stride + n * view.token_stride + (first + h) * view.head_stride + d));
  }
  return t;
}
void give_heads(const Tensor& t, const HeadsView& view, int64_t first) {
  const int64_t count = t.dim(1), tokens = t.dim(2), dim = t.dim(3);
  const Tensor to(view.data, Shape{t.dim(0) * view.batch_stride}, t.dtype);
  for (int64_t i = 0; i < t.elements(); ++i) {
    const int64_t d = i % dim, n = i / dim % tokens, h = i / dim / tokens % count, b = i / dim / tokens / count;
    store_scalar(to, b * view.batch_stride + n * view.token_stride + (first + h) * view.head_stride + d, load_scalar(t, i));
  }
}

// The first heads on features of all tokens, the others in blocks of neighbours; one projection in front, one behind.
void performer_global_local_heads(CheckCase& c) {
  const PerformerConfig p = performer_config(c);
  const AttentionConfig a = with_defaults(p.heads);
  const int64_t local = c.config.at("local_heads"), global = a.heads - local, inner = a.heads * a.head_dim;
  require(!c.fixture.has("in.mask"), "local heads with a mask");
  const HeadProjections projections(Scope(c.params), a);
  const Linear proj(Scope(c.params) / "proj", inner, a.dim, a.out_bias ? Bias::kYes : Bias::kNo);
  bind_projections(c, a);
  c.load();
  AttentionInputs in;
  in.x = c.input("x");
  in.grid = sequence(in.x.dim(0), in.x.dim(1));
  const int64_t batch = in.grid.batch, n = in.grid.tokens(), d = a.head_dim;
  const ArenaScope scope(c.ctx.scratch());
  const ProjectedHeads heads = projections.forward(in, &c.tape, c.ctx);
  const ProjectedGradients gradients = projections.gradients(heads, c.ctx.scratch(), c.ctx.dtype());
  const Tensor out = c.memory(Shape{batch, n, inner}), dout = c.memory(out.shape), y = c.memory(in.x.shape), dx = c.memory(in.x.shape);
  const Tensor dy = c.upstream("y");
  proj.backward_input(dy, dout, Accumulate::kNo, c.ctx);
  const HeadsView out_view{out.data, n * inner, inner, d};

  if (global > 0) {
    const harness::HostTensor w = c.fixture.tensor("buf.projection_matrix", c.ctx.dtype());
    FeatureAttentionArgs f;
    f.batch = batch;
    f.heads = global;
    f.head_dim = f.value_dim = d;
    f.queries = f.keys = n;
    f.map = p.map;
    f.features = w.dim(0);
    f.projection = w.data;
    f.input_scale = feature_input_scale(p.map, d);
    f.epsilon = p.epsilon;
    f.causal = flag(c.config, "causal", false);
    f.constant_stabilisers = f.whole_stabiliser = true;
    f.causal_epsilon = p.causal_epsilon * (p.map == FeatureKernel::kSoftmax ? std::sqrt(static_cast<double>(f.features)) : 1);
    f.q = heads.q_view();
    f.k = heads.k_view();
    f.v = heads.v_view();
    f.out = out_view;
    const KernelTable& kernels = c.ctx.kernels();
    f.state = c.memory(Shape{std::max<int64_t>(1, kernels.feature_attention_state(f))}).data;
    kernels.feature_attention(f, c.ctx);
    kernels.feature_attention_backward({f, {dout.data, n * inner, inner, d}, gradients.q_view, gradients.k_view, gradients.v_view}, c.ctx);
  }
  const auto local_heads = [&](const ConstHeadsView& view) { return heads_of_view(c, view, batch, n, d, global, local); };
  const KernelRun r = run_local_blocks(c, local_heads(heads.q_view()), local_heads(heads.k_view()), local_heads(heads.v_view()),
                                       local_heads({dout.data, n * inner, inner, d}));
  give_heads(r.y, out_view, global);
  give_heads(r.dq, gradients.q_view, global);
  give_heads(r.dk, gradients.k_view, global);
  give_heads(r.dv, gradients.v_view, global);

  proj.apply(out, y, {}, c.ctx);
  c.output("y", y);
  proj.backward_parameters(out, dy, c.ctx);
  projections.backward(in, heads, gradients, {dx, {}, {}}, c.ctx);
  c.input_gradient("x", dx);
}

// The stored Gaussians give W up to the sign of each row: which sign a QR decomposition picks is a convention.
void orthogonal_random_matrix(CheckCase& c) {
  const int64_t rows = c.config.at("nb_rows"), dim = c.config.at("nb_columns"), blocks = (rows + dim - 1) / dim;
  const bool constant = c.config.at("scaling").get<int>() == 1;
  const Tensor w = c.memory(Shape{rows, dim});
  const harness::HostTensor stored = c.fixture.tensor("out.W", DType::kF64);
  std::vector<double> directions(static_cast<size_t>(dim * dim));
  harness::HostTensor lengths;
  if (!constant) lengths = c.fixture.tensor("aux.gauss" + std::to_string(blocks), DType::kF64);
  for (int64_t f = 0; f < rows; ++f) {
    if (f % dim == 0) orthonormal_directions(dim, c.fixture.tensor("aux.gauss" + std::to_string(f / dim), DType::kF64).as<double>(), directions.data());
    const double* row = directions.data() + f % dim * dim;
    double square = constant ? static_cast<double>(dim) : 0, along = 0;
    for (int64_t i = 0; i < dim; ++i) {
      along += row[i] * stored.as<double>()[f * dim + i];
      if (!constant) square += lengths.as<double>()[f * dim + i] * lengths.as<double>()[f * dim + i];
    }
    for (int64_t i = 0; i < dim; ++i) store_scalar(w, f * dim + i, std::copysign(std::sqrt(square), along) * row[i]);
  }
  c.output("W", w);
}

}  // namespace

void add_performer_runners(Runners& runners) {
  runners["performer_fast_attention"] = performer_fast_attention;
  runners["performer_google"] = performer_google;
  runners["performer_attention_layer"] = performer_attention_layer;
  runners["performer_global_local_heads"] = performer_global_local_heads;
  runners["orthogonal_random_matrix"] = orthogonal_random_matrix;
}

}  // namespace fovea::parity
