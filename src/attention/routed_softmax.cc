#include "attention/routed_softmax.h"

#include <algorithm>
#include <cmath>

#include "core/convert.h"

namespace fovea {

// What was routed on one side, and where it went.
struct RoutedSoftmax::Side {
  ConstHeadsView rows;         // the first routed row
  int64_t count = 0, all = 0, prefix = 0;  // routed rows; all rows; those before
  const uint8_t* padding = nullptr;        // (B, all), of the first routed row
  int64_t valid = 0;           // routed rows of the batch that are no padding
  int64_t window = 0;
  int32_t* chosen = nullptr;   // (B, H, clusters, window)
  int32_t* nearest = nullptr;  // (B, H, count), where balanced choices do without: in training
};

struct RoutedSoftmax::Record {
  RoutedInputs in;
  bool nearest = false;        // membership
  bool learning = false;       // a training step, whose distances count
  Side queries, keys;          // keys: unused where they go with the queries
  Tensor unit_keys, unit_norm; // (B, N, H, D) and (B, N, H) with unit queries
  Tensor memory_k, memory_v;   // where rows besides the learned ones are needed: (B, H, rows, D)
  Tensor lse;
  HeadsView out;
};

// Since the last end_step.
struct RoutedSoftmax::Gathered {
  std::vector<double> means;   // (H, clusters, D) sum over forwards of each forward's new means
  int64_t forwards = 0;
  std::vector<double> sample;  // (H, sampled, D) rows as clusters see them, while the means are not ready
  int64_t sampled = 0;
};

namespace {

constexpr int64_t kSampleOfCluster = 16;  // rows for each cluster to place the first means by
constexpr int kPlacingSteps = 10;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

const void* offset(const void* data, int64_t elements, DType dtype) {
  return data ? static_cast<const char*>(data) + elements * static_cast<int64_t>(size_of(dtype)) : nullptr;
}

// The row (D) of a view as a tensor.
ConstTensor row_at(const ConstHeadsView& v, int64_t b, int64_t h, int64_t n, int64_t head_dim, DType dtype) {
  return {offset(v.data, b * v.batch_stride + h * v.head_stride + n * v.token_stride, dtype), Shape{head_dim}, dtype};
}

}  // namespace

RoutedSoftmax::RoutedSoftmax(const Scope& scope, const RoutedConfig& config) : config_(config) {
  const RoutedConfig& c = config_;
  require(c.clusters > 0, "routing needs clusters, got {}", c.clusters);
  require(c.window >= 0 && c.key_window >= 0 && c.memory >= 0, "routing: windows and memory cannot be negative");
  require(c.decay >= 0 && c.decay <= 1, "routing: the centroids' decay {} is not in [0, 1]", c.decay);
  require(c.commitment >= 0, "routing: the commitment {} is negative", c.commitment);
  const double spread = 1 / std::sqrt(static_cast<double>(c.head_dim));
  means_ = scope.buffer("means", Shape{c.heads, c.clusters, c.head_dim}, Init::normal(spread));
  means_ready_ = scope.buffer("means_ready", Shape{1}, Init::zeros());
  if (c.memory == 0) return;
  const Shape memory{c.heads, c.clusters, c.memory, c.head_dim};
  mem_key_ = scope.param("mem_key", memory, Init::normal(1), Decay::kNo);
  mem_value_ = scope.param("mem_value", memory, Init::normal(1), Decay::kNo);
}

ClusterArgs RoutedSoftmax::cluster_args(const Record& r, const Side& side) const {
  ClusterArgs a;
  a.batch = r.in.batch;
  a.heads = config_.heads;
  a.head_dim = config_.head_dim;
  a.rows = side.count;
  a.clusters = config_.clusters;
  a.unit = config_.unit;
  a.x = side.rows;
  a.means = means_->value.data;
  if (!config_.padding_is_routed) {
    a.padding = side.padding;
    a.padding_stride = side.all;
  }
  return a;
}

void RoutedSoftmax::choose(const RoutedInputs& in, Record& r, Tape* tape, Context& ctx) const {
  const RoutedConfig& c = config_;
  Arena& arena = tape ? tape->arena() : ctx.scratch();
  const auto fill = [&](Side& side, const ConstHeadsView& view, int64_t all, int64_t prefix, const uint8_t* padding, int64_t window) {
    side.rows = view;
    side.rows.data = offset(view.data, prefix * view.token_stride, ctx.dtype());
    side.count = all - prefix;
    side.all = all;
    side.prefix = prefix;
    side.padding = padding ? padding + prefix : nullptr;
    side.valid = in.batch * side.count;
    if (side.padding && !c.padding_is_routed)
      for (int64_t b = 0; b < in.batch; ++b) side.valid -= std::count(side.padding + b * all, side.padding + b * all + side.count, 1);
    side.window = std::min(window > 0 ? window : ceil_div(side.count, c.clusters), side.count);
    const ClusterArgs args = cluster_args(r, side);
    if (!r.nearest) {
      side.chosen = arena.take<int32_t>(in.batch * c.heads * c.clusters * side.window);
      ctx.kernels().top_rows(args, side.window, side.chosen, ctx);
    }
    if (r.nearest || r.learning) {
      side.nearest = arena.take<int32_t>(in.batch * c.heads * side.count);
      ctx.kernels().nearest_clusters(args, side.nearest, ctx);
    }
  };
  fill(r.queries, in.q, in.queries, in.query_prefix, in.query_padding, c.window);
  if (c.keys == RoutedConfig::Keys::kOwn)
    fill(r.keys, in.k, in.keys, in.key_prefix, in.key_padding, c.key_window > 0 ? c.key_window : c.window);
}

// Memory besides the learned rows: behind them, for every token a key of zeros with the token's value, whose scores are all
// equal. By batch element, since values differ. A test's variant.
void RoutedSoftmax::memory_rows(Record& r, Tape* tape, Context& ctx) const {
  const RoutedConfig& c = config_;
  const int64_t learned = c.clusters * c.memory, rows = learned + r.in.keys;
  r.memory_k = ctx.activation(Shape{r.in.batch, c.heads, rows, c.head_dim}, tape);
  r.memory_v = ctx.activation(r.memory_k.shape, tape);
  r.memory_k.zero();
  const size_t row_bytes = static_cast<size_t>(c.head_dim) * size_of(ctx.dtype());
  for (int64_t bh = 0; bh < r.in.batch * c.heads; ++bh) {
    const int64_t b = bh / c.heads, h = bh % c.heads;
    const Tensor k = r.memory_k.reshaped(Shape{r.in.batch * c.heads, rows * c.head_dim}).slice(bh, 1);
    const Tensor v = r.memory_v.reshaped(Shape{r.in.batch * c.heads, rows * c.head_dim}).slice(bh, 1);
    if (learned > 0) {
      std::memcpy(k.data, mem_key_->value.slice(h, 1).data, static_cast<size_t>(learned) * row_bytes);
      std::memcpy(v.data, mem_value_->value.slice(h, 1).data, static_cast<size_t>(learned) * row_bytes);
    }
    for (int64_t n = 0; n < r.in.keys; ++n)
      std::memcpy(v.reshaped(Shape{rows, c.head_dim}).slice(learned + n, 1).data,
                  row_at(r.in.v, b, h, n, c.head_dim, ctx.dtype()).data, row_bytes);
  }
}

const TokenGroups& RoutedSoftmax::groups(const Record& r, Context& ctx) const {
  const RoutedConfig& c = config_;
  const bool own = c.keys == RoutedConfig::Keys::kOwn;
  RoutingGroups g;
  g.batch = r.in.batch;
  g.heads = c.heads;
  g.clusters = c.clusters;
  g.memory = c.memory;
  const auto side = [&](const Side& s) {
    RoutedSide to;
    to.rows = s.all;
    to.prefix = s.prefix;
    to.window = s.window;
    to.chosen = s.chosen;
    to.nearest = r.nearest ? s.nearest : nullptr;
    return to;
  };
  g.queries = side(r.queries);
  g.keys = side(own ? r.keys : r.queries);
  g.block = std::max<int64_t>(1, g.keys.window);
  g.causal = r.in.causal;
  g.self_penalty = c.keys == RoutedConfig::Keys::kUnitQueries ? static_cast<float>(c.self_penalty) : 0;
  g.mean_epsilon = c.mean_epsilon;
  g.rank_causal = c.rank_causal;
  g.padding_is_routed = c.padding_is_routed && (r.in.query_padding || r.in.key_padding);
  g.query_padding = r.in.query_padding;
  g.key_padding = r.in.key_padding;
  g.uniform_rows = c.clusters * c.memory;
  return build_routing_groups(g, ctx.reusable<RoutingMemory>());
}

GroupedAttentionArgs RoutedSoftmax::kernel_args(const Record& r, const TokenGroups& groups) const {
  const RoutedConfig& c = config_;
  GroupedAttentionArgs a;
  a.groups = &groups;
  a.batch = r.in.batch;
  a.heads = c.heads;
  a.head_dim = c.head_dim;
  a.queries = r.in.queries;
  a.keys = r.in.keys;
  a.scale = c.scale > 0 ? c.scale : 1 / std::sqrt(static_cast<double>(c.head_dim));
  a.q = r.in.q;
  a.k = r.in.k;
  a.v = r.in.v;
  const int64_t width = c.heads * c.head_dim;
  if (!r.unit_keys.empty()) a.k = {r.unit_keys.data, r.in.keys * width, width, c.head_dim};
  if (!r.memory_k.empty()) {
    const int64_t of_head = r.memory_k.dim(2) * c.head_dim;
    a.memory_k = {r.memory_k.data, c.heads * of_head, c.head_dim, of_head};
    a.memory_v = {r.memory_v.data, c.heads * of_head, c.head_dim, of_head};
  } else if (mem_key_) {
    const int64_t of_head = c.clusters * c.memory * c.head_dim;
    a.memory_k = {mem_key_->value.data, 0, c.head_dim, of_head};
    a.memory_v = {mem_value_->value.data, 0, c.head_dim, of_head};
  }
  if (!c.padding_is_routed) a.key_padding = r.in.key_padding;  // prefix queries see all tokens
  a.out = r.out;
  a.lse = r.lse.data;
  return a;
}

void RoutedSoftmax::forward(const RoutedInputs& in, const HeadsView& out, Tape* tape, Context& ctx) const {
  const RoutedConfig& c = config_;
  using Membership = RoutedConfig::Membership;
  ArenaScope scope(ctx.scratch());
  Record r{};
  r.in = in;
  r.out = out;
  r.nearest = c.membership == Membership::kNearest || (c.membership == Membership::kAuto && in.causal);
  r.learning = ctx.training() && tape != nullptr;
  if (c.keys == RoutedConfig::Keys::kUnitQueries) {
    require(in.keys == in.queries, "routing with shared q and k has no second input");
    r.unit_keys = ctx.activation(Shape{in.batch, in.queries, c.heads, c.head_dim}, tape);
    r.unit_norm = ctx.activation(Shape{in.batch, in.queries, c.heads}, tape);
    for (int64_t b = 0; b < in.batch; ++b) {
      UnitRowsArgs u;
      u.channels = c.head_dim;
      u.x_rows = {in.queries, c.heads, in.q.token_stride, in.q.head_stride};
      u.y_rows = {in.queries, c.heads, c.heads * c.head_dim, c.head_dim};
      u.x = offset(in.q.data, b * in.q.batch_stride, ctx.dtype());
      u.y = r.unit_keys.slice(b, 1).data;
      u.norm = r.unit_norm.slice(b, 1).data;
      ctx.kernels().unit_rows(u, ctx);
    }
  }
  choose(in, r, tape, ctx);
  if (r.learning) learn(r, ctx);
  if (c.padding_is_routed && (in.query_padding || in.key_padding)) memory_rows(r, tape, ctx);
  const TokenGroups& g = groups(r, ctx);
  if (tape) r.lse = ctx.activation(Shape{in.batch, c.heads, g.query_slots}, tape);
  ctx.kernels().grouped_attention(kernel_args(r, g), ctx);
  if (tape) tape->push(r);
}

// The loss gets commitment · mean over the routed rows' elements of (x^ - mean)^2.
double RoutedSoftmax::distance_scale(const Record& r, const Side& side) const {
  const RoutedConfig& c = config_;
  const double of_row = static_cast<double>(c.heads * c.head_dim);
  const bool alone = c.keys != RoutedConfig::Keys::kOwn;
  const double rows = static_cast<double>(c.distance_per_side ? side.valid : r.queries.valid + (alone ? 0 : r.keys.valid));
  if (rows == 0) return 0;
  return c.commitment / (rows * of_row) * (c.distance_per_side && alone ? 2 : 1);
}

void RoutedSoftmax::learn(const Record& r, Context& ctx) const {
  const RoutedConfig& c = config_;
  Gathered& gathered = ctx.state<Gathered>(this);
  ArenaScope scope(ctx.scratch());
  const Tensor totals = ctx.scratch().take(means_->shape, ctx.dtype()), counts = ctx.scratch().take(Shape{c.heads, c.clusters}, ctx.dtype());
  const Tensor distance = ctx.scratch().take(Shape{1}, ctx.dtype());
  totals.zero();
  counts.zero();
  for (const Side* side : {&r.queries, &r.keys}) {
    if (side->nearest == nullptr) continue;
    distance.zero();
    ClusterDistanceArgs a;
    a.clusters = cluster_args(r, *side);
    a.nearest = side->nearest;
    a.distance = distance.data;
    a.totals = totals.data;
    a.counts = counts.data;
    ctx.kernels().cluster_distance(a, ctx);
    ctx.add_auxiliary_loss(distance_scale(r, *side) * load_scalar(distance, 0));
  }
  if (load_scalar(means_ready_->value, 0) == 0) sample(r, gathered, ctx);
  // Each cluster's tokens summed and brought to length one; a cluster without tokens stays where it is.
  const auto size = static_cast<size_t>(means_->shape.elements());
  if (gathered.forwards++ == 0) gathered.means.assign(size, 0);
  for (int64_t cluster = 0; cluster < c.heads * c.clusters; ++cluster) {
    const bool empty = load_scalar(counts, cluster) == 0;
    const int64_t first = cluster * c.head_dim;
    double squares = 0;
    for (int64_t d = 0; d < c.head_dim && !empty; ++d) squares += std::pow(load_scalar(totals, first + d), 2);
    const double norm = std::max(std::sqrt(squares), 1e-12);
    for (int64_t d = 0; d < c.head_dim; ++d)
      gathered.means[static_cast<size_t>(first + d)] +=
          empty ? load_scalar(means_->value, first + d) : load_scalar(totals, first + d) / norm;
  }
}

// Rows spread evenly over the batch and both sides, of the first forward.
void RoutedSoftmax::sample(const Record& r, Gathered& gathered, Context& ctx) const {
  const RoutedConfig& c = config_;
  if (gathered.forwards > 0) return;
  const int64_t valid = r.queries.valid + r.keys.valid, wanted = std::min(valid, kSampleOfCluster * c.clusters);
  gathered.sampled = wanted;
  gathered.sample.assign(static_cast<size_t>(c.heads * wanted * c.head_dim), 0);
  for (int64_t h = 0; h < c.heads; ++h) {
    int64_t seen = 0, taken = 0;
    for (const Side* side : {&r.queries, &r.keys})
      for (int64_t b = 0; b < r.in.batch; ++b)
        for (int64_t n = 0; n < side->count; ++n) {
          if (side->nearest == nullptr || side->nearest[(b * c.heads + h) * side->count + n] < 0) continue;
          if (seen++ * wanted / valid < taken || taken == wanted) continue;
          const ConstTensor row = row_at(side->rows, b, h, n, c.head_dim, ctx.dtype());
          double squares = 0;
          for (int64_t d = 0; d < c.head_dim; ++d) squares += std::pow(load_scalar(row, d), 2);
          const double norm = c.unit ? std::max(std::sqrt(squares), 1e-12) : 1;
          for (int64_t d = 0; d < c.head_dim; ++d)
            gathered.sample[static_cast<size_t>((h * wanted + taken) * c.head_dim + d)] = load_scalar(row, d) / norm;
          ++taken;
        }
  }
}

// With g = 2 scale (x^ - mean): the distance's gradient through x^ = x / |x| (kernels); the softmax's is that over groups.
void RoutedSoftmax::backward(const ConstHeadsView& out, const ConstHeadsView& dout, const HeadsView& dq, const HeadsView& dk,
                             const HeadsView& dv, Tape& tape, Context& ctx) const {
  auto r = tape.pop<Record>();
  check(out.data == r.out.data, "routing's backward got another output than its forward wrote");
  const RoutedConfig& c = config_;
  ArenaScope scope(ctx.scratch());
  const bool unit = c.keys == RoutedConfig::Keys::kUnitQueries;
  const int64_t width = c.heads * c.head_dim;
  GroupedAttentionBackwardArgs a;
  a.forward = kernel_args(r, groups(r, ctx));
  a.dout = dout;
  a.dq = dq;
  a.dk = dk;
  a.dv = dv;
  Tensor dunit, dmemory_k, dmemory_v;
  if (unit) {
    dunit = ctx.scratch().take(r.unit_keys.shape, ctx.dtype());
    a.dk = {dunit.data, r.in.keys * width, width, c.head_dim};
  }
  const int64_t learned = c.clusters * c.memory, memory = r.memory_k.empty() ? learned : r.memory_k.dim(2);
  if (memory > 0) {
    dmemory_k = ctx.scratch().take(Shape{r.in.batch, c.heads, memory, c.head_dim}, ctx.dtype());
    dmemory_v = ctx.scratch().take(dmemory_k.shape, ctx.dtype());
    dmemory_k.zero();  // the rows that no group names too
    dmemory_v.zero();
    a.dmemory_k = {dmemory_k.data, memory * width, c.head_dim, memory * c.head_dim};
    a.dmemory_v = {dmemory_v.data, memory * width, c.head_dim, memory * c.head_dim};
  }
  ctx.kernels().grouped_attention_backward(a, ctx);

  for (int64_t b = 0; b < r.in.batch && mem_key_; ++b)
    for (int64_t h = 0; h < c.heads; ++h) {
      const auto add = [&](const Tensor& from, const Param& to) {
        const Tensor rows = from.reshaped(Shape{r.in.batch * c.heads, memory * c.head_dim}).slice(b * c.heads + h, 1);
        ctx.kernels().scale_add(learned * c.head_dim, 1.0, rows.data, to.grad.slice(h, 1).data, ctx);
      };
      add(dmemory_k, *mem_key_);
      add(dmemory_v, *mem_value_);
    }
  if (!r.memory_v.empty()) {  // the values of plain means are the tokens'
    for (int64_t b = 0; b < r.in.batch; ++b)
      for (int64_t h = 0; h < c.heads; ++h)
        for (int64_t n = 0; n < r.in.keys; ++n) {
          const ConstTensor to = row_at(dv, b, h, n, c.head_dim, ctx.dtype());
          const int64_t from = ((b * c.heads + h) * memory + learned + n) * c.head_dim;
          ctx.kernels().scale_add(c.head_dim, 1.0, offset(dmemory_v.data, from, ctx.dtype()), const_cast<void*>(to.data), ctx);
        }
  }
  if (unit) {
    for (int64_t b = 0; b < r.in.batch; ++b) {
      UnitRowsBackwardArgs u;
      u.channels = c.head_dim;
      u.y_rows = u.dy_rows = {r.in.keys, c.heads, width, c.head_dim};
      u.dx_rows = {r.in.keys, c.heads, dq.token_stride, dq.head_stride};
      u.y = r.unit_keys.slice(b, 1).data;
      u.norm = r.unit_norm.slice(b, 1).data;
      u.dy = dunit.slice(b, 1).data;
      u.dx = const_cast<void*>(offset(dq.data, b * dq.batch_stride, ctx.dtype()));
      u.accumulate_dx = true;
      ctx.kernels().unit_rows_backward(u, ctx);
    }
  }
  if (!r.learning) return;
  for (const Side* side : {&r.queries, &r.keys}) {
    const double scale = side->nearest ? ctx.loss_weight() * distance_scale(r, *side) : 0;
    if (scale == 0) continue;
    ClusterDistanceArgs d;
    d.clusters = cluster_args(r, *side);
    d.nearest = side->nearest;
    HeadsView dx = side == &r.queries ? dq : dk;
    dx.data = const_cast<void*>(offset(dx.data, side->prefix * dx.token_stride, ctx.dtype()));
    ctx.kernels().cluster_distance_backward(d, scale, dx, ctx);
  }
}

std::vector<double> RoutedSoftmax::new_means(Context& ctx) const {
  const Gathered& gathered = ctx.state<Gathered>(this);
  std::vector<double> means = gathered.means;
  for (double& m : means) m /= static_cast<double>(std::max<int64_t>(gathered.forwards, 1));
  return means;
}

// k-means on the sampled rows: evenly spread rows first, then Lloyd's steps. Without rows the means stay random.
void RoutedSoftmax::place_means(const Gathered& gathered, Context& ctx) {
  const RoutedConfig& c = config_;
  const int64_t rows = gathered.sampled;
  if (rows == 0) return;
  store_scalar(means_ready_->value, 0, 1);
  ArenaScope scope(ctx.scratch());
  const Tensor x = ctx.scratch().take(Shape{c.heads, rows, c.head_dim}, ctx.dtype());
  for (int64_t i = 0; i < x.elements(); ++i) store_scalar(x, i, gathered.sample[static_cast<size_t>(i)]);
  for (int64_t h = 0; h < c.heads; ++h)
    for (int64_t k = 0; k < c.clusters; ++k)
      for (int64_t d = 0; d < c.head_dim; ++d)
        store_scalar(means_->value, (h * c.clusters + k) * c.head_dim + d, load_scalar(x, (h * rows + k * rows / c.clusters) * c.head_dim + d));
  const Tensor totals = ctx.scratch().take(means_->shape, ctx.dtype()), counts = ctx.scratch().take(Shape{c.heads, c.clusters}, ctx.dtype());
  const Tensor distance = ctx.scratch().take(Shape{1}, ctx.dtype());
  int32_t* nearest = ctx.scratch().take<int32_t>(c.heads * rows);
  ClusterDistanceArgs a;
  a.clusters = {1, c.heads, c.head_dim, rows, c.clusters, config_.unit, {x.data, 0, c.head_dim, rows * c.head_dim}, means_->value.data, nullptr, 0};
  a.nearest = nearest;
  a.distance = distance.data;
  a.totals = totals.data;
  a.counts = counts.data;
  for (int step = 0; step < kPlacingSteps; ++step) {
    ctx.kernels().nearest_clusters(a.clusters, nearest, ctx);
    totals.zero();
    counts.zero();
    distance.zero();
    ctx.kernels().cluster_distance(a, ctx);
    for (int64_t cluster = 0; cluster < c.heads * c.clusters; ++cluster) {
      if (load_scalar(counts, cluster) == 0) continue;
      double squares = 0;
      for (int64_t d = 0; d < c.head_dim; ++d) squares += std::pow(load_scalar(totals, cluster * c.head_dim + d), 2);
      const double norm = std::max(std::sqrt(squares), 1e-12);
      for (int64_t d = 0; d < c.head_dim; ++d) {
        const int64_t i = cluster * c.head_dim + d;
        store_scalar(means_->value, i, load_scalar(totals, i) / norm);
      }
    }
  }
}

void RoutedSoftmax::end_step(Context& ctx) {
  Gathered& gathered = ctx.state<Gathered>(this);
  if (gathered.forwards == 0) return;
  if (load_scalar(means_ready_->value, 0) == 0) {
    place_means(gathered, ctx);
  } else {
    const double share = (1 - config_.decay) / static_cast<double>(gathered.forwards);
    for (int64_t i = 0; i < means_->shape.elements(); ++i)
      store_scalar(means_->value, i, config_.decay * load_scalar(means_->value, i) + share * gathered.means[static_cast<size_t>(i)]);
  }
  gathered.forwards = 0;
}

double RoutedSoftmax::pairs(int64_t queries, int64_t keys) const {
  const RoutedConfig& c = config_;
  const int64_t wq = std::min(c.window > 0 ? c.window : ceil_div(queries, c.clusters), queries);
  const int64_t key_window = c.key_window > 0 ? c.key_window : c.window;
  const int64_t wk = std::min(key_window > 0 ? key_window : ceil_div(keys, c.clusters), keys);
  return static_cast<double>(c.clusters * wq) * static_cast<double>(wk + c.memory);
}

double RoutedSoftmax::similarities(int64_t queries, int64_t keys) const {
  return static_cast<double>(config_.clusters) * static_cast<double>(queries + (config_.keys == RoutedConfig::Keys::kOwn ? keys : 0));
}

}  // namespace fovea
