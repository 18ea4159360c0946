#include "attention/routing.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "attention/registry.h"

namespace fovea {

struct RoutingAttention::Record {
  AttentionInputs in;
  Tensor q, k, v;  // (B, N, H D) each, or q alone: (B, N, 3 H D) the fused projection
  Tensor out;      // (B, N, H D)
  int64_t keys;
};

// Projections, or their gradients, as rows of heads.
struct RoutingAttention::Heads {
  HeadsView q, k, v;
};

namespace {

constexpr int64_t kClustersOfUnknownLength = 8;

RoutedConfig complete(RoutedConfig r, const AttentionConfig& c) {
  r.heads = c.heads;
  r.head_dim = c.head_dim;
  if (r.clusters == 0)
    r.clusters = c.max_tokens > 0 ? std::max<int64_t>(1, std::llround(std::sqrt(static_cast<double>(c.max_tokens)))) : kClustersOfUnknownLength;
  return r;
}

}  // namespace

RoutingAttention::RoutingAttention(const Scope& scope, const AttentionConfig& config, RoutedConfig routed)
    : config_(with_defaults(config)) {
  require(!config_.qk_norm, "routing normalises q and k for its clusters itself; build it without qk_norm");
  const Bias bias = config_.qkv_bias ? Bias::kYes : Bias::kNo;
  const bool shared = routed.keys == RoutedConfig::Keys::kUnitQueries;
  require(!(shared && config_.cross), "routing with shared q and k has no second input");
  if (shared || config_.cross) {
    q_.emplace(scope / "q", config_.dim, inner(), bias);
    if (!shared) k_.emplace(scope / "k", config_.key_dim, inner(), bias);
    v_.emplace(scope / "v", config_.value_dim, inner(), bias);
  } else {
    qkv_.emplace(scope / "qkv", config_.dim, 3 * inner(), bias);
  }
  routed_.emplace(scope, complete(std::move(routed), config_));
  if (config_.project_out) proj_.emplace(scope / "proj", inner(), config_.dim, config_.out_bias ? Bias::kYes : Bias::kNo);
}

RoutingAttention::Heads RoutingAttention::heads_of(const Tensor& q, const Tensor& k, const Tensor& v, int64_t queries, int64_t keys,
                                                   Context& ctx) const {
  const int64_t d = config_.head_dim, width = inner();
  if (qkv_) {
    const auto part = [&](int64_t i) {
      return HeadsView{static_cast<char*>(q.data) + i * width * static_cast<int64_t>(size_of(ctx.dtype())), queries * 3 * width, 3 * width, d};
    };
    return {part(0), part(1), part(2)};
  }
  return {{q.data, queries * width, width, d}, {k.data, keys * width, width, d}, {v.data, keys * width, width, d}};
}

void RoutingAttention::forward(const AttentionInputs& in, Tensor y, Tape* tape, Context& ctx) const {
  const int64_t batch = in.grid.batch, n = in.grid.tokens();
  require_shape(in.x, Shape{batch, n, config_.dim}, "attention input");
  require(in.memory.empty(), "only transformer_xl takes a memory of earlier segments");
  require(in.mask.empty(), "routing takes no additive mask: who meets whom follows from the tokens");
  ArenaScope scope(ctx.scratch());
  Record r{};
  r.in = in;
  r.keys = n;
  ConstTensor key = in.x, value = in.x;
  if (config_.cross) {
    if (!in.key_input.empty()) key = in.key_input;
    value = in.value_input.empty() ? key : in.value_input;
    require(key.dim(0) == batch && value.dim(0) == batch && key.dim(1) == value.dim(1),
            "cross attention: queries {}, keys {} and values {} do not belong together", in.x.shape, key.shape, value.shape);
    r.keys = key.dim(1);
  } else {
    require(in.key_input.empty() && in.value_input.empty(), "self attention got a second input; build it with cross = true");
  }
  const auto project = [&](const Linear& layer, ConstTensor x, int64_t tokens) {
    const Tensor to = ctx.activation(Shape{batch, tokens, layer.out()}, tape);
    layer.apply(x, to, {}, ctx);
    return to;
  };
  r.q = project(qkv_ ? *qkv_ : *q_, in.x, n);
  if (k_) r.k = project(*k_, key, r.keys);
  if (v_) r.v = project(*v_, value, r.keys);
  r.out = ctx.activation(Shape{batch, n, inner()}, tape);

  const Heads heads = heads_of(r.q, r.k, r.v, n, r.keys, ctx);
  RoutedInputs routed;
  routed.batch = batch;
  routed.queries = n;
  routed.keys = r.keys;
  routed.query_prefix = in.grid.prefix;
  routed.key_prefix = config_.cross ? 0 : in.grid.prefix;
  routed.q = heads.q;
  routed.k = heads.k;
  routed.v = heads.v;
  routed.causal = in.causal;
  routed.query_padding = config_.cross ? nullptr : in.key_padding;
  routed.key_padding = in.key_padding;
  routed_->forward(routed, {r.out.data, n * inner(), inner(), config_.head_dim}, tape, ctx);
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

// Choices are constants, so this is the grouped softmax's backward between those of affine maps; in training the distance from the
// centroids adds to dq and dk.
void RoutingAttention::backward(ConstTensor dy, const AttentionGradients& gradients, Tape& tape, Context& ctx) const {
  const auto r = tape.pop<Record>();
  const int64_t n = r.in.grid.tokens();
  ArenaScope scope(ctx.scratch());
  Arena& scratch = ctx.scratch();
  ConstTensor dout = dy;
  if (proj_) {
    const Tensor own = scratch.take(r.out.shape, ctx.dtype());
    proj_->backward_parameters(r.out, dy, ctx);
    proj_->backward_input(dy, own, Accumulate::kNo, ctx);
    dout = own;
  }
  const Tensor dq = scratch.take(r.q.shape, ctx.dtype());
  const Tensor dk = k_ ? scratch.take(r.k.shape, ctx.dtype()) : Tensor(), dv = v_ ? scratch.take(r.v.shape, ctx.dtype()) : Tensor();
  const Heads to = heads_of(dq, dk, dv, n, r.keys, ctx);
  const int64_t width = inner(), d = config_.head_dim;
  routed_->backward({r.out.data, n * width, width, d}, {dout.data, n * width, width, d}, to.q, to.k, to.v, tape, ctx);
  if (qkv_) {
    qkv_->backward_parameters(r.in.x, dq, ctx);
    qkv_->backward_input(dq, gradients.dx, Accumulate::kNo, ctx);
    return;
  }
  const bool own_keys = !r.in.key_input.empty(), own_values = !r.in.value_input.empty();
  const ConstTensor key = own_keys ? r.in.key_input : r.in.x, value = own_values ? r.in.value_input : key;
  q_->backward_parameters(r.in.x, dq, ctx);
  q_->backward_input(dq, gradients.dx, Accumulate::kNo, ctx);
  const Tensor dkey = own_keys ? gradients.dkey_input : gradients.dx;
  const Tensor dvalue = own_values ? gradients.dvalue_input : dkey;
  check(!dkey.empty() && !dvalue.empty(), "cross attention: no place for the gradient of the keys' or values' input");
  if (k_) {
    k_->backward_parameters(key, dk, ctx);
    k_->backward_input(dk, dkey, own_keys ? Accumulate::kNo : Accumulate::kYes, ctx);
  }
  v_->backward_parameters(value, dv, ctx);
  v_->backward_input(dv, dvalue, own_values ? Accumulate::kNo : Accumulate::kYes, ctx);
}

std::vector<std::string> RoutingAttention::unsupported(const TokenGrid&) const { return {}; }

double RoutingAttention::flops(const TokenGrid& grid) const {
  const double tokens = static_cast<double>(grid.batch * grid.tokens()), width = static_cast<double>(inner());
  const double out = proj_ ? static_cast<double>(config_.dim) : 0, keys = shared() ? 0 : static_cast<double>(config_.key_dim);
  const double projections = 2 * tokens * width * (static_cast<double>(config_.dim + config_.value_dim) + keys + out);
  const int64_t routed = grid.height * grid.width, prefix = grid.prefix;
  const double meeting = routed_->pairs(routed, routed) + static_cast<double>(prefix) * static_cast<double>(grid.tokens() + routed);
  return projections + static_cast<double>(grid.batch) * width * (4 * meeting + 2 * routed_->similarities(routed, routed));
}

AttentionKind routing_attention_kind() {
  AttentionKind k;
  k.name = "routing";
  k.summary = "tokens meet the tokens of their cluster, found by online k-means (Routing Transformer)";
  k.paper = "Roy et al. 2020, arXiv:2003.05997";
  k.cost = "O(N K D + N w C + N C^2), K clusters of w tokens: N^1.5 with K about sqrt(N)";
  k.options = {{"clusters", "0", "number of clusters a head; 0: about the root of the number of tokens"},
               {"window", "0", "queries and keys of a cluster; 0: tokens / clusters"},
               {"membership", "auto",
                "balanced: a cluster takes its `window` nearest tokens; nearest: a token joins its nearest cluster; auto: nearest "
                "where the order is causal (balanced choices look ahead), else balanced"},
               {"shared_qk", "no", "yes: keys are the queries at length one, and a token meets itself only where it is alone"},
               {"memory", "0", "learned keys and values of each cluster"},
               {"commitment", "1e-4", "weight of the tokens' mean square distance from their centroids in the training loss"},
               {"decay", "0.999", "of the centroids: how much of them stays in each training step"}};
  k.no_union_reason = "who meets whom follows from the tokens, not from their places";
  k.traits.causal = k.traits.cross = k.traits.prefix = true;
  k.traits.qk_norm = false;
  k.make = [](const Scope& scope, const AttentionConfig& config, const AttentionOptions& o) -> std::unique_ptr<Attention> {
    RoutedConfig r;
    r.clusters = o.integer("clusters");
    r.window = o.integer("window");
    require(r.clusters >= 0 && r.window >= 0, "attention option clusters and window: no negative numbers");
    const std::string membership = o.choice("membership", {"auto", "balanced", "nearest"});
    if (membership == "balanced") r.membership = RoutedConfig::Membership::kBalanced;
    if (membership == "nearest") r.membership = RoutedConfig::Membership::kNearest;
    if (o.choice("shared_qk", {"no", "yes"}) == "yes") r.keys = RoutedConfig::Keys::kUnitQueries;
    r.memory = o.integer("memory");
    r.commitment = o.real("commitment");
    r.decay = o.real("decay");
    return std::make_unique<RoutingAttention>(scope, config, r);
  };
  return k;
}

}  // namespace fovea
