// Rows held against centroids. Similarities are register-tiled products of a few rows and a block of centroids, looked at
// while they are in the caches: the matrix of all of them is never written.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/clusters.cc"
#include "kernels/cpu/isa.h"

#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/grouped_attention_block-inl.h"
#include "kernels/cpu/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::clusters_file {

namespace {

using namespace grouped_attention_tile;  // NOLINT: rows of heads in the same packed forms

constexpr int32_t kBlockClusters = 64;
constexpr int32_t kBlockRows = kTileVectors * kLanes;
constexpr int64_t kChunkRows = 512;
constexpr float kSmallestNorm = 1e-12f;

const float* row_of(const ConstHeadsView& v, int64_t b, int64_t h, int64_t n) {
  return static_cast<const float*>(v.data) + b * v.batch_stride + n * v.token_stride + h * v.head_stride;
}

bool is_padding(const ClusterArgs& a, int64_t b, int64_t n) {
  return a.padding != nullptr && a.padding[b * a.padding_stride + n] != 0;
}

// max(|x|, 1e-12), or 1 without `unit`.
float norm_of(const ClusterArgs& a, const float* x) {
  if (!a.unit) return 1;
  const D d;
  V sum = hn::Zero(d);
  for_vectors(
      a.head_dim, [&](int64_t i) HWY_ATTR { const V v = hn::LoadU(d, x + i); sum = hn::MulAdd(v, v, sum); },
      [&](int64_t i, int32_t n) HWY_ATTR { const V v = load_partial(x + i, n); sum = hn::MulAdd(v, v, sum); });
  return std::max(std::sqrt(sum_of_lanes(sum)), kSmallestNorm);
}

// A block of centroids as the right side of products, and a few packed rows as the left one.
struct Similarities {
  const ClusterArgs& a;
  int64_t width;         // head_dim in whole vectors
  int32_t first = 0, count = 0, vectors = 0;  // clusters of the block
  float *means, *rows;   // (head_dim, kBlockClusters) and (kTileRows, width)
  float *start, *s;      // (kBlockClusters): 0, -inf behind the clusters; (kTileRows, kBlockClusters)

  Similarities(const ClusterArgs& args, Cutter& c)
      : a(args),
        width(plan::round_up(args.head_dim, kLanes)),
        means(c.take<float>(args.head_dim * kBlockClusters)),
        rows(c.take<float>(kTileRows * width)),
        start(c.take<float>(kBlockClusters)),
        s(c.take<float>(kTileRows * kBlockClusters)) {}
  static int64_t bytes(int64_t head_dim) {
    return Cutter::bytes<float>(head_dim * kBlockClusters) + Cutter::bytes<float>(kTileRows * plan::round_up(head_dim, kLanes)) +
           Cutter::bytes<float>(kBlockClusters) + Cutter::bytes<float>(kTileRows * kBlockClusters);
  }

  void load_clusters(int64_t h, int32_t block) {
    first = block * kBlockClusters;
    count = std::min(kBlockClusters, static_cast<int32_t>(a.clusters) - first);
    vectors = (count + kLanes - 1) / kLanes;
    int32_t codes[kBlockClusters];
    for (int32_t i = 0; i < count; ++i) codes[i] = first + i;
    const ConstHeadsView view(a.means, 0, a.head_dim, a.clusters * a.head_dim);
    pack_panels(Rows(view, {}, nullptr, a.head_dim, 0, h), codes, count, plan::Pieces(vectors, vectors), a.head_dim, means);
    std::fill_n(start, count, 0.0f);
    std::fill(start + count, start + kBlockClusters, kNegInf);
  }
  void load_row(int32_t i, const float* x) { pack_row(x, a.head_dim, 1.0f / norm_of(a, x), rows + i * width); }
  void multiply(int32_t n) {
    product(false, n, vectors,
            {.a = rows, .a_stride = width, .b = means, .b_stride = vectors * kLanes, .depth = a.head_dim, .init = start,
             .init_stride = 0, .c = s, .c_stride = kBlockClusters});
  }
};

int32_t blocks_of(const ClusterArgs& a) { return static_cast<int32_t>((a.clusters + kBlockClusters - 1) / kBlockClusters); }

// Rows [begin, end) of a batch element and head.
void nearest_of_chunk(Similarities& m, int64_t b, int64_t h, int64_t begin, int64_t end, float* best, int32_t* nearest) {
  const ClusterArgs& a = m.a;
  const D d;
  const DI di;
  for (int64_t n = begin; n < end; ++n) {
    best[n - begin] = kNegInf;
    nearest[n] = is_padding(a, b, n) ? -1 : 0;
  }
  for (int32_t block = 0; block < blocks_of(a); ++block) {
    m.load_clusters(h, block);
    for (int64_t n = begin; n < end; n += kTileRows) {
      const auto rows = static_cast<int32_t>(std::min<int64_t>(kTileRows, end - n));
      for (int32_t i = 0; i < rows; ++i) m.load_row(i, row_of(a.x, b, h, n + i));
      m.multiply(rows);
      for (int32_t i = 0; i < rows; ++i) {
        if (nearest[n + i] < 0) continue;
        const float* s = m.s + i * kBlockClusters;
        V greatest = hn::Set(d, kNegInf);
        auto where = hn::Zero(di);
        for (int32_t j = 0; j < m.vectors; ++j) {
          const V v = hn::Load(d, s + j * kLanes);
          const auto more = hn::Gt(v, greatest);
          greatest = hn::IfThenElse(more, v, greatest);
          where = hn::IfThenElse(hn::RebindMask(di, more), hn::Set(di, j), where);
        }
        HWY_ALIGN float values[kLanes];
        HWY_ALIGN int32_t indices[kLanes];
        hn::Store(greatest, d, values);
        hn::Store(where, di, indices);
        float& most = best[n + i - begin];
        int32_t winner = -1;
        for (int32_t l = 0; l < kLanes; ++l) {
          const int32_t cluster = m.first + indices[l] * kLanes + l;
          if (values[l] > most || (winner >= 0 && values[l] == most && cluster < winner)) {
            most = values[l];
            winner = cluster;
          }
        }
        if (winner >= 0) nearest[n + i] = winner;
      }
    }
  }
}

void nearest_clusters(const ClusterArgs& a, int32_t* nearest, Context& ctx) {
  if (a.batch * a.heads * a.rows == 0) return;
  ArenaScope scope(ctx.scratch());
  const int64_t chunks = (a.rows + kChunkRows - 1) / kChunkRows;
  const int64_t bytes = Similarities::bytes(a.head_dim) + Cutter::bytes<float>(kChunkRows);
  char* memory = ctx.scratch().take<char>(bytes * ctx.pool().threads());
  ctx.pool().for_ranges(a.batch * a.heads * chunks, [&](int64_t first, int64_t last, int thread) {
    Cutter cutter(memory + thread * bytes);
    Similarities m(a, cutter);
    float* best = cutter.take<float>(kChunkRows);
    for (int64_t task = first; task < last; ++task) {
      const int64_t bh = task / chunks, begin = task % chunks * kChunkRows;
      nearest_of_chunk(m, bh / a.heads, bh % a.heads, begin, std::min(begin + kChunkRows, a.rows), best, nearest + bh * a.rows);
    }
  });
}

// Similarities as integers in the same order: NaN as minus infinity, both zeros alike.
HWY_INLINE hn::Vec<DI> sortable(V v) {
  const DI di;
  const V number = hn::Add(hn::IfThenElse(hn::Eq(v, v), v, hn::Set(D(), kNegInf)), hn::Zero(D()));
  const auto bits = hn::BitCast(di, number);
  return hn::Xor(bits, hn::And(hn::ShiftRight<31>(bits), hn::Set(di, std::numeric_limits<int32_t>::max())));
}

// The best rows of one cluster so far, in ascending order. A full buffer is cut back to `count`: a constant number of steps
// for each row that enters. Since rows come in ascending order, one that only equals the least of `count` rows loses against it.
struct Selection {
  int64_t count = 0, size = 0;
  int32_t* keys = nullptr;  // (capacity)
  int32_t* rows = nullptr;
  int32_t least = std::numeric_limits<int32_t>::min();  // what a key must exceed: any does, until `count` rows are there

  // Room for rows to come, and for whole vectors to be stored behind the last.
  static int64_t capacity(int64_t count) { return plan::round_up(4 * count + kBlockRows, kLanes) + kLanes; }
  static int64_t bytes(int64_t count) { return 2 * Cutter::bytes<int32_t>(capacity(count)); }
  Selection() = default;
  Selection(int64_t wanted, Cutter& c) : count(wanted), keys(c.take<int32_t>(capacity(wanted))), rows(c.take<int32_t>(capacity(wanted))) {}

  void restart() {
    size = 0;
    least = std::numeric_limits<int32_t>::min();
  }
  HWY_INLINE void add(hn::Vec<DI> key, hn::Vec<DI> row, hn::Mask<DI> which) {
    const DI di;
    hn::StoreU(hn::Compress(key, which), di, keys + size);
    hn::StoreU(hn::Compress(row, which), di, rows + size);
    size += static_cast<int64_t>(hn::CountTrue(di, which));
  }
  bool full() const { return size > capacity(count) - kLanes - kBlockRows; }

  int64_t above(int32_t bound) const {
    const DI di;
    int64_t n = 0, i = 0;
    for (; i + kLanes <= size; i += kLanes) n += static_cast<int64_t>(hn::CountTrue(di, hn::Gt(hn::LoadU(di, keys + i), hn::Set(di, bound))));
    for (; i < size; ++i) n += keys[i] > bound;
    return n;
  }

  // Keeps the best `count` of more rows than that.
  void cut() {
    const DI di;
    auto smallest = hn::Set(di, keys[0]), greatest = smallest;
    for_keys([&](hn::Vec<DI> key, hn::Mask<DI> there, int64_t) HWY_ATTR {
      smallest = hn::Min(smallest, hn::IfThenElse(there, key, smallest));
      greatest = hn::Max(greatest, hn::IfThenElse(there, key, greatest));
    });
    int64_t low = hn::GetLane(hn::MinOfLanes(di, smallest)), high = hn::GetLane(hn::MaxOfLanes(di, greatest));
    int64_t found = 0;  // above(low - 1) >= count > above(high)
    while (low < high && found != count) {
      const int64_t middle = low + (high - low + 1) / 2;
      found = above(static_cast<int32_t>(middle - 1));
      if (found >= count)
        low = middle;
      else
        high = middle - 1;
    }
    // All above `low` stay, and of those that equal it the first ones.
    const auto bound = hn::Set(di, static_cast<int32_t>(low));
    int64_t equals = count - above(static_cast<int32_t>(low)), kept = 0;
    auto worst = hn::Set(di, std::numeric_limits<int32_t>::max());
    for_keys([&](hn::Vec<DI> key, hn::Mask<DI> there, int64_t i) HWY_ATTR {
      auto equal = hn::And(hn::Eq(key, bound), there);
      auto alike = static_cast<int64_t>(hn::CountTrue(di, equal));
      for (; alike > std::max<int64_t>(equals, 0); --alike) {  // without its last one
        HWY_ALIGN int32_t lanes[hn::MaxLanes(di)];
        hn::Store(hn::VecFromMask(di, equal), di, lanes);
        for (int64_t l = kLanes - 1; l >= 0; --l)
          if (lanes[l] != 0) {
            lanes[l] = 0;
            break;
          }
        equal = hn::Ne(hn::Load(di, lanes), hn::Zero(di));
      }
      equals -= alike;
      const auto stays = hn::Or(hn::And(hn::Gt(key, bound), there), equal);
      const auto row = hn::LoadU(di, rows + i);
      worst = hn::Min(worst, hn::IfThenElse(stays, key, worst));
      hn::StoreU(hn::Compress(key, stays), di, keys + kept);  // never beyond what has been read
      hn::StoreU(hn::Compress(row, stays), di, rows + kept);
      kept += static_cast<int64_t>(hn::CountTrue(di, stays));
    });
    least = hn::GetLane(hn::MinOfLanes(di, worst));
    size = kept;
  }

 private:
  // f(keys, those that there are, index of the first) by whole vectors, which the buffer has room for.
  template <class F>
  HWY_INLINE void for_keys(F&& f) const {
    const DI di;
    for (int64_t i = 0; i < size; i += kLanes)
      f(hn::LoadU(di, keys + i), hn::FirstN(di, static_cast<size_t>(std::min<int64_t>(size - i, kLanes))), i);
  }
};

// A block of clusters against all rows, which come in blocks as the right side of products.
struct Choice {
  const ClusterArgs& a;
  int64_t width;                 // head_dim in whole vectors
  float *means, *rows;           // (kBlockClusters, width) and (head_dim, kBlockRows)
  float *inverse_norms, *s;      // (kBlockRows); (kTileRows, kBlockRows)
  int32_t* numbers;              // (kBlockRows) which rows they are
  Selection best[kBlockClusters];

  Choice(const ClusterArgs& args, int64_t count, Cutter& c)
      : a(args),
        width(plan::round_up(args.head_dim, kLanes)),
        means(c.take<float>(kBlockClusters * width)),
        rows(c.take<float>(args.head_dim * kBlockRows)),
        inverse_norms(c.take<float>(kBlockRows)),
        s(c.take<float>(kTileRows * kBlockRows)),
        numbers(c.take<int32_t>(kBlockRows)) {
    for (Selection& selection : best) selection = Selection(count, c);
  }
  static int64_t bytes(int64_t head_dim, int64_t count) {
    return Cutter::bytes<float>(kBlockClusters * plan::round_up(head_dim, kLanes)) + Cutter::bytes<float>(head_dim * kBlockRows) +
           Cutter::bytes<float>(kBlockRows) + Cutter::bytes<float>(kTileRows * kBlockRows) + Cutter::bytes<int32_t>(kBlockRows) +
           kBlockClusters * Selection::bytes(count);
  }

  // The next rows that take part, from n on; returns how many.
  int32_t load_rows(int64_t b, int64_t h, int64_t& n) {
    int32_t count = 0;
    for (; n < a.rows && count < kBlockRows; ++n)
      if (!is_padding(a, b, n)) numbers[count++] = static_cast<int32_t>(n);
    if (count == 0) return 0;
    const int32_t vectors = (count + kLanes - 1) / kLanes;
    pack_panels(Rows(a.x, {}, nullptr, a.head_dim, b, h), numbers, count, plan::Pieces(vectors, vectors), a.head_dim, rows);
    for (int32_t i = 0; i < count; ++i) inverse_norms[i] = 1.0f / norm_of(a, row_of(a.x, b, h, numbers[i]));
    return count;
  }

  void run(int64_t b, int64_t h, int64_t first, int64_t clusters, int32_t* chosen) {
    const D d;
    const DI di;
    for (int64_t c = 0; c < clusters; ++c) {
      pack_row(static_cast<const float*>(a.means) + (h * a.clusters + first + c) * a.head_dim, a.head_dim, 1.0f, means + c * width);
      best[c].restart();
    }
    for (int64_t n = 0; n < a.rows;) {
      const int32_t count = load_rows(b, h, n), vectors = (count + kLanes - 1) / kLanes;
      if (count == 0) break;
      for (int64_t c = 0; c < clusters; c += kTileRows) {
        const auto tile = static_cast<int32_t>(std::min<int64_t>(kTileRows, clusters - c));
        product(false, tile, vectors,
                {.a = means + c * width, .a_stride = width, .b = rows, .b_stride = vectors * kLanes, .depth = a.head_dim, .init = nullptr,
                 .init_stride = 0, .c = s, .c_stride = kBlockRows});
        for (int32_t i = 0; i < tile; ++i) {
          Selection& selection = best[c + i];
          for (int32_t j = 0; j < count; j += kLanes) {
            const auto key = sortable(hn::Mul(hn::Load(d, s + i * kBlockRows + j), hn::Load(d, inverse_norms + j)));
            auto enters = hn::And(hn::Gt(key, hn::Set(di, selection.least)), hn::FirstN(di, static_cast<size_t>(count - j)));
            if (!hn::AllFalse(di, enters)) selection.add(key, hn::Load(di, numbers + j), enters);
          }
          if (selection.full()) selection.cut();
        }
      }
    }
    for (int64_t c = 0; c < clusters; ++c) {
      Selection& selection = best[c];
      if (selection.size > selection.count) selection.cut();
      std::copy_n(selection.rows, selection.count, chosen + (first + c) * selection.count);
    }
  }
};

void top_rows(const ClusterArgs& a, int64_t count, int32_t* chosen, Context& ctx) {
  if (a.batch * a.heads * a.clusters * count == 0) return;
  ArenaScope scope(ctx.scratch());
  const int64_t wanted = std::min(count, a.rows);
  const int64_t bytes = Choice::bytes(a.head_dim, wanted);
  char* memory = ctx.scratch().take<char>(bytes * ctx.pool().threads());
  ctx.pool().for_ranges(a.batch * a.heads * blocks_of(a), [&](int64_t first, int64_t last, int thread) {
    Cutter cutter(memory + thread * bytes);
    Choice choice(a, wanted, cutter);
    for (int64_t task = first; task < last; ++task) {
      const int64_t bh = task / blocks_of(a), b = bh / a.heads;
      int32_t* to = chosen + bh * a.clusters * count;
      int64_t there = 0;
      for (int64_t n = 0; n < a.rows; ++n) there += !is_padding(a, b, n);
      const int64_t begin = task % blocks_of(a) * kBlockClusters, end = std::min(begin + kBlockClusters, a.clusters);
      if (there > count) {
        choice.run(b, bh % a.heads, begin, end - begin, to);
        continue;
      }
      for (int64_t c = begin; c < end; ++c) {  // every row is chosen
        int32_t* next = to + c * count;
        for (int64_t n = 0; n < a.rows; ++n)
          if (!is_padding(a, b, n)) *next++ = static_cast<int32_t>(n);
        std::fill(next, to + (c + 1) * count, -1);
      }
    }
  });
}

// x^ - mean of each element goes through f(i, x^, difference), by whole vectors with zeros behind the row.
template <class F>
HWY_INLINE void for_differences(const float* HWY_RESTRICT x, float inverse, const float* HWY_RESTRICT mean, int64_t n, F&& f) {
  const D d;
  const V factor = hn::Set(d, inverse);
  for_vectors(
      n,
      [&](int64_t i) HWY_ATTR {
        const V unit = hn::Mul(factor, hn::LoadU(d, x + i));
        f(i, kLanes, unit, hn::Sub(unit, hn::LoadU(d, mean + i)));
      },
      [&](int64_t i, int32_t r) HWY_ATTR {
        const V unit = hn::Mul(factor, load_partial(x + i, r));
        f(i, r, unit, hn::Sub(unit, load_partial(mean + i, r)));
      });
}

HWY_INLINE V load_some(const float* p, int32_t n) { return n == kLanes ? hn::LoadU(D(), p) : load_partial(p, n); }
HWY_INLINE void store_some(V v, float* p, int32_t n) {
  if (n == kLanes)
    hn::StoreU(v, D(), p);
  else
    store_partial(v, p, n);
}

// The rows of all batch elements are cut into chunks, each with sums of its own for every head, added in their order.
void cluster_distance(const ClusterDistanceArgs& args, Context& ctx) {
  const ClusterArgs& a = args.clusters;
  const int64_t rows = a.batch * a.rows, of_head = a.clusters * a.head_dim;
  if (rows * a.heads == 0) return;
  constexpr int64_t kMostChunks = 16;
  const int64_t chunks = std::clamp<int64_t>(rows / kChunkRows, 1, kMostChunks), tasks = a.heads * chunks;
  ArenaScope scope(ctx.scratch());
  float* totals = ctx.scratch().take<float>(tasks * of_head);
  float* counts = ctx.scratch().take<float>(tasks * a.clusters);
  double* distances = ctx.scratch().take<double>(tasks);
  ctx.pool().for_each(tasks, [&](int64_t task) HWY_ATTR {
    const D d;
    const int64_t h = task / chunks, chunk = task % chunks;
    float* sums = totals + task * of_head;
    std::fill_n(sums, of_head, 0.0f);
    std::fill_n(counts + task * a.clusters, a.clusters, 0.0f);
    double distance = 0;
    for (int64_t r = rows * chunk / chunks; r < rows * (chunk + 1) / chunks; ++r) {
      const int64_t b = r / a.rows, n = r % a.rows;
      const int32_t c = args.nearest[(b * a.heads + h) * a.rows + n];
      if (c < 0) continue;
      const float* x = row_of(a.x, b, h, n);
      V squares = hn::Zero(d);
      for_differences(x, 1.0f / norm_of(a, x), static_cast<const float*>(a.means) + (h * a.clusters + c) * a.head_dim, a.head_dim,
                      [&](int64_t i, int32_t lanes, V unit, V difference) HWY_ATTR {
                        squares = hn::MulAdd(difference, difference, squares);
                        float* to = sums + c * a.head_dim + i;
                        store_some(hn::Add(load_some(to, lanes), unit), to, lanes);
                      });
      distance += static_cast<double>(sum_of_lanes(squares));
      counts[task * a.clusters + c] += 1;
    }
    distances[task] = distance;
  });
  ctx.pool().for_each(a.heads, [&](int64_t h) {
    const auto add = [&](const float* from, int64_t count, void* to) {
      float* sum = static_cast<float*>(to) + h * count;
      for (int64_t chunk = 0; chunk < chunks; ++chunk)
        for (int64_t i = 0; i < count; ++i) sum[i] += from[(h * chunks + chunk) * count + i];
    };
    add(totals, of_head, args.totals);
    add(counts, a.clusters, args.counts);
  });
  double distance = 0;
  for (int64_t task = 0; task < tasks; ++task) distance += distances[task];
  *static_cast<float*>(args.distance) += static_cast<float>(distance);
}

// With g = 2 scale (x^ - mean): dx += (g - x^ (x^ · g)) / |x| where x^ = x / |x|; g / 1e-12 where |x| is smaller than that.
void cluster_distance_backward(const ClusterDistanceArgs& args, double scale, const HeadsView& dx, Context& ctx) {
  const ClusterArgs& a = args.clusters;
  parallel_for(ctx, a.batch * a.heads * a.rows, a.head_dim, [&](int64_t begin, int64_t end) HWY_ATTR {
    const D d;
    for (int64_t r = begin; r < end; ++r) {
      const int32_t c = args.nearest[r];
      if (c < 0) continue;
      const int64_t n = r % a.rows, h = r / a.rows % a.heads, b = r / a.rows / a.heads;
      const float* x = row_of(a.x, b, h, n);
      const float* mean = static_cast<const float*>(a.means) + (h * a.clusters + c) * a.head_dim;
      const float norm = norm_of(a, x), inverse = 1.0f / norm;
      V along = hn::Zero(d);
      if (a.unit && norm > kSmallestNorm) {
        V sum = hn::Zero(d);
        for_differences(x, inverse, mean, a.head_dim, [&](int64_t, int32_t, V unit, V difference) HWY_ATTR {
          sum = hn::MulAdd(unit, difference, sum);
        });
        along = hn::Set(d, sum_of_lanes(sum));
      }
      float* to = static_cast<float*>(dx.data) + b * dx.batch_stride + n * dx.token_stride + h * dx.head_stride;
      const V factor = hn::Set(d, static_cast<float>(2 * scale) * inverse);
      for_differences(x, inverse, mean, a.head_dim, [&](int64_t i, int32_t lanes, V unit, V difference) HWY_ATTR {
        const V g = hn::NegMulAdd(unit, along, difference);
        store_some(hn::MulAdd(factor, g, load_some(to + i, lanes)), to + i, lanes);
      });
    }
  });
}

}  // namespace

void fill(KernelTable& t) {
  t.nearest_clusters = nearest_clusters;
  t.top_rows = top_rows;
  t.cluster_distance = cluster_distance;
  t.cluster_distance_backward = cluster_distance_backward;
}

}  // namespace fovea::HWY_NAMESPACE::clusters_file
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fovea {
void fill_clusters(KernelTable& t, Isa isa) { FOVEA_FILL(t, isa, clusters_file); }
}  // namespace fovea
#endif
