// The relative term of grouped attention (kernels/relative_term.h) for tiles of queries against blocks of keys.
//
// Tables lie in columns that grow with the key's position: column = lead + last distance - distance. So the products of a
// query with the rows that neighbouring keys need are neighbours in the order of the keys, and the scores of a stretch of
// consecutive keys get a stretch of a strip added: (q_i + v) · R is a small product over the strip's columns, one for each
// tile of queries, and the shift is where row i starts reading it. On a line a strip spans the stretch's keys and the
// tile's queries; on a map it spans the columns (or rows) that a block's keys touch, and every map row is a stretch.
// Columns that have no distance hold -infinity, which forbids.

#if defined(FOVEA_GROUPED_ATTENTION_RELATIVE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_GROUPED_ATTENTION_RELATIVE_INL_H_
#undef FOVEA_GROUPED_ATTENTION_RELATIVE_INL_H_
#else
#define FOVEA_GROUPED_ATTENTION_RELATIVE_INL_H_
#endif

#include "kernels/cpu/grouped_attention_block-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::grouped_attention_tile {

constexpr int32_t kPanelColumns = kTileVectors * kLanes;
// Queries of a line further apart than this are taken one by one, so that a strip is never wider than kMostLineColumns.
constexpr int32_t kMostQuerySpread = 64;
constexpr int32_t kMostLineColumns = kMaxBlockKeys + kMostQuerySpread + 3 * kLanes;

// One axis, packed for all heads.
struct RelativeColumns {
  const RelativeAxis* axis = nullptr;
  int64_t lead = 0, columns = 0;   // columns before the last distance's; all, a multiple of the panel
  float* panels = nullptr;         // (H, columns / panel, D, panel) the rows as columns
  float* start = nullptr;          // (H, columns) b in base 2, -inf where there is no distance
  float* rows = nullptr;           // (H, count, width) the rows in the columns' order from `lead` on; backward only

  int64_t count() const { return axis->count; }
  // Column of a key at position k for a query at position q.
  int64_t column(int64_t k, int64_t q) const { return lead + axis->first + axis->count - 1 - (q - k); }
};

inline void pack_axis(const RelativeAxis& axis, int64_t lead, bool with_rows, const Call& call, Context& ctx, RelativeColumns& c) {
  const int64_t dim = call.a.head_dim, heads = call.a.heads, count = axis.count;
  c.axis = &axis;
  c.lead = plan::round_up(lead, kLanes);
  c.columns = plan::round_up(c.lead + count + lead + kLanes, kPanelColumns);
  Arena& scratch = ctx.scratch();
  c.panels = scratch.take<float>(heads * c.columns * dim);
  c.start = scratch.take<float>(heads * c.columns);
  if (with_rows) c.rows = scratch.take<float>(heads * std::max<int64_t>(1, count) * call.width);
  const int64_t panels = c.columns / kPanelColumns;
  ctx.pool().for_each(heads * panels, [&](int64_t task) {
    const int64_t h = task / panels, begin = task % panels * kPanelColumns;
    float* panel = c.panels + (h * c.columns + begin) * dim;
    float* start = c.start + h * c.columns + begin;
    for (int64_t j = 0; j < kPanelColumns; ++j) {
      const int64_t t = c.lead + count - 1 - (begin + j);  // the row of this column
      const bool there = t >= 0 && t < count;
      const float* from = there ? static_cast<const float*>(axis.rows) + (t * heads + h) * dim : Rows::zeros();
      for (int64_t d = 0; d < dim; ++d) panel[d * kPanelColumns + j] = from[d];
      start[j] = !there ? kNegInf
                 : axis.bias ? static_cast<const float*>(axis.bias)[t * heads + h] * call.scale(h) * kLog2E : 0.0f;
      if (there && with_rows) pack_row(from, dim, 1.0f, c.rows + (h * count + count - 1 - t) * call.width);
    }
  });
}

// What is the same for every task of a call that has a relative term.
struct RelativeCall {
  const RelativeTerm& term;
  RelativeColumns x, y;
  int64_t columns_x = 0, columns_y = 0;  // of a strip at most

  RelativeCall(const Call& call, bool with_rows, Context& ctx) : term(*call.a.relative) {
    check(!call.a.head_scale, "grouped attention: a relative term excludes a scale per head");
    check(!term.wrapped, "the wrapped relative shift is for the reference tables");
    if (term.is_map()) {
      const int64_t rows = std::max(call.a.queries, call.a.keys) - term.first_row, width = term.map_width;
      const int64_t height = (rows + width - 1) / width;
      check(rows <= 0 || (term.x.has(width - 1) && term.x.has(1 - width) && term.y.has(height - 1) && term.y.has(1 - height)),
            "grouped attention: relative tables of {} and {} rows for a {}x{} map", term.y.count, term.x.count, height, width);
    }
    const int64_t lead = term.is_map() ? 0 : kMostLineColumns;
    pack_axis(term.x, lead, with_rows, call, ctx, x);
    columns_x = term.is_map() ? x.columns : kMostLineColumns;
    if (!term.is_map()) return;
    pack_axis(term.y, 0, with_rows, call, ctx, y);
    columns_y = y.columns;
  }
};

// Columns [begin, begin + count) of an axis, whole vectors.
struct Strip {
  int64_t begin = 0, count = 0;
  Strip() = default;
  Strip(int64_t first, int64_t end) : begin(first / kLanes * kLanes), count(plan::round_up(end, kLanes) - begin) {}
};

// A stretch of consecutive keys of a block: their slots, and the place of the first.
struct Stretch {
  int32_t slot = 0, count = 0;
  int32_t x = 0, y = 0;
};

struct Place {
  int32_t x = 0, y = 0;
  bool there = false;
};

struct PlaceBounds {
  int32_t x_min = std::numeric_limits<int32_t>::max(), x_max = std::numeric_limits<int32_t>::min();
  int32_t y_min = x_min, y_max = x_max;
  bool empty() const { return x_min > x_max; }
  void add(int32_t x_first, int32_t x_last, int32_t y) {
    x_min = std::min(x_min, x_first);
    x_max = std::max(x_max, x_last);
    y_min = std::min(y_min, y);
    y_max = std::max(y_max, y);
  }
};

// A thread's memory, and what it knows of the keys loaded last.
struct RelativeWorkspace {
  float* q;           // (queries, width) packed rows of q + v
  Place* places;      // (queries)
  Stretch* stretches; // (block keys)
  float *strip_x, *strip_y;  // (rows of a tile, columns)
  int32_t count = 0;  // of stretches
  int64_t stride_x, stride_y;

  // `rows`: of the strips.
  RelativeWorkspace(Cutter& c, const RelativeCall* call, int64_t queries, int64_t block_keys, int64_t rows, int64_t width)
      : stride_x(call ? call->columns_x + kLanes : 0), stride_y(call ? call->columns_y + kLanes : 0) {
    if (!call) queries = block_keys = rows = 0;
    q = c.take<float>(queries * width);
    places = c.take<Place>(queries);
    stretches = c.take<Stretch>(block_keys);
    strip_x = c.take<float>(rows * stride_x);
    strip_y = c.take<float>(rows * stride_y);
  }
  static int64_t bytes(const RelativeCall* call, int64_t queries, int64_t block_keys, int64_t rows, int64_t width) {
    if (!call) return 0;
    return Cutter::bytes<float>(queries * width) + Cutter::bytes<Place>(queries) + Cutter::bytes<Stretch>(block_keys) +
           Cutter::bytes<float>(rows * (call->columns_x + kLanes)) + Cutter::bytes<float>(rows * (call->columns_y + kLanes));
  }
};

inline Place place_of(const RelativeTerm& term, int32_t code, int64_t shift) {
  if (code == plan::kPadCode) return {};
  if (!term.is_map()) {
    const int64_t row = plan::is_token(code) ? code + shift : plan::memory_code(code) - term.memory_rows;
    return {static_cast<int32_t>(row), 0, true};
  }
  if (!plan::is_token(code) || code < term.first_row) return {};
  const auto row = static_cast<int32_t>(code - term.first_row), width = static_cast<int32_t>(term.map_width);
  return {row % width, row / width, true};
}

// row += factor * extra (head_dim).
inline void add_vector(const float* HWY_RESTRICT extra, int64_t head_dim, float factor, float* HWY_RESTRICT row) {
  const D d;
  const V f = hn::Set(d, factor);
  for_vectors(
      head_dim, [&](int64_t i) HWY_ATTR { hn::Store(hn::MulAdd(f, hn::LoadU(d, extra + i), hn::Load(d, row + i)), d, row + i); },
      [&](int64_t i, int32_t n) HWY_ATTR {
        hn::Store(hn::MulAdd(f, load_partial(extra + i, n), hn::Load(d, row + i)), d, row + i);
      });
}

// Packed queries become q + u in `rows`, and q + v in the workspace.
inline void relative_queries(const RelativeCall& rc, const Call& call, RelativeWorkspace& w, const int32_t* codes, int32_t n,
                             float factor, int64_t h, float* rows) {
  const int64_t dim = call.a.head_dim;
  const float* u = rc.term.u ? static_cast<const float*>(rc.term.u) + h * dim : nullptr;
  const float* v = rc.term.v ? static_cast<const float*>(rc.term.v) + h * dim : nullptr;
  for (int32_t i = 0; i < n; ++i) {
    w.places[i] = plan::is_token(codes[i]) ? place_of(rc.term, codes[i], rc.term.query_shift) : Place{};
    float* row = rows + i * call.width;
    float* with_v = w.q + i * call.width;
    std::copy(row, row + call.width, with_v);
    if (v) add_vector(v, dim, factor, with_v);
    if (u) add_vector(u, dim, factor, row);
  }
}

// Finds the stretches of a block's keys.
inline void relative_keys(const RelativeCall& rc, RelativeWorkspace& w, const KeyBlock& block) {
  w.count = 0;
  for (int32_t j = 0; j < block.count; ++j) {
    const Place p = place_of(rc.term, block.codes[j], 0);
    if (!p.there) continue;
    if (w.count > 0) {
      Stretch& last = w.stretches[w.count - 1];
      if (last.slot + last.count == j && last.y == p.y && last.x + last.count == p.x) {
        ++last.count;
        continue;
      }
    }
    w.stretches[w.count++] = {j, 1, p.x, p.y};
  }
}

// c (rows, strip) = start + (q + v) · R for query rows from r on.
inline void strip_product(const RelativeColumns& columns, const Call& call, const RelativeWorkspace& w, int64_t h, Strip strip,
                          int32_t r, int32_t rows, float* c, int64_t c_stride) {
  const int64_t dim = call.a.head_dim;
  for (int64_t at = strip.begin, end = strip.begin + strip.count; at < end;) {
    const int64_t panel = at / kPanelColumns, inside = at % kPanelColumns;
    const int64_t n = std::min<int64_t>(kPanelColumns - inside, end - at);
    tile_of(false, rows, static_cast<int32_t>(n / kLanes))({.a = w.q + r * call.width,
                                                            .a_stride = call.width,
                                                            .b = columns.panels + (h * columns.columns + panel * kPanelColumns) * dim + inside,
                                                            .b_stride = kPanelColumns,
                                                            .depth = dim,
                                                            .init = columns.start + h * columns.columns + at,
                                                            .init_stride = 0,
                                                            .c = c + (at - strip.begin),
                                                            .c_stride = c_stride});
    at += n;
  }
}

// s (n) += strip (n) + y. Map rows are short: what is left of whole vectors goes in fours.
inline void add_stretch(float* HWY_RESTRICT s, const float* HWY_RESTRICT strip, float y, int64_t n) {
  int64_t i = 0;
  const auto vectors = [&](auto d, int64_t lanes) HWY_ATTR {
    const auto more = hn::Set(d, y);
    for (; i + lanes <= n; i += lanes)
      hn::StoreU(hn::Add(hn::LoadU(d, s + i), hn::Add(hn::LoadU(d, strip + i), more)), d, s + i);
  };
  vectors(D(), kLanes);
  if constexpr (kLanes > 4) vectors(hn::CappedTag<float, 4>(), 4);
  for (; i < n; ++i) s[i] += strip[i] + y;
}

// The part of a stretch that a tile sees.
inline Stretch seen_part(const Stretch& s, Seen seen) {
  const int32_t begin = std::max(s.slot, seen.begin * kLanes), end = std::min(s.slot + s.count, seen.end * kLanes);
  return {begin, end - begin, s.x + begin - s.slot, s.y};
}

inline PlaceBounds bounds_of_places(const RelativeWorkspace& w, int32_t r, int32_t rows) {
  PlaceBounds b;
  for (int32_t i = r; i < r + rows; ++i)
    if (w.places[i].there) b.add(w.places[i].x, w.places[i].x, w.places[i].y);
  return b;
}

inline PlaceBounds bounds_of_stretches(const RelativeWorkspace& w, Seen seen) {
  PlaceBounds b;
  for (int32_t n = 0; n < w.count; ++n) {
    const Stretch s = seen_part(w.stretches[n], seen);
    if (s.count > 0) b.add(s.x, s.x + s.count - 1, s.y);
  }
  return b;
}

inline Strip strip_between(const RelativeColumns& c, int32_t key_min, int32_t key_max, int32_t query_min, int32_t query_max) {
  return {c.column(key_min, query_max), c.column(key_max, query_min) + 1};
}

// Adds the term to the scores of queries [r, r + rows), rows s + i * s_stride, in the seen vectors.
inline void add_relative(const RelativeCall& rc, const Call& call, RelativeWorkspace& w, int64_t h, int32_t r, int32_t rows,
                         Seen seen, float* s, int64_t s_stride) {
  const PlaceBounds q = bounds_of_places(w, r, rows);
  if (q.empty()) return;
  if (rc.term.is_map()) {
    const PlaceBounds k = bounds_of_stretches(w, seen);
    if (k.empty()) return;
    const Strip x = strip_between(rc.x, k.x_min, k.x_max, q.x_min, q.x_max);
    const Strip y = strip_between(rc.y, k.y_min, k.y_max, q.y_min, q.y_max);
    strip_product(rc.x, call, w, h, x, r, rows, w.strip_x, w.stride_x);
    strip_product(rc.y, call, w, h, y, r, rows, w.strip_y, w.stride_y);
    for (int32_t n = 0; n < w.count; ++n) {
      const Stretch k_part = seen_part(w.stretches[n], seen);
      if (k_part.count <= 0) continue;
      for (int32_t i = 0; i < rows; ++i) {
        const Place& p = w.places[r + i];
        if (!p.there) continue;
        add_stretch(s + i * s_stride + k_part.slot, w.strip_x + i * w.stride_x + rc.x.column(k_part.x, p.x) - x.begin,
                    w.strip_y[i * w.stride_y + rc.y.column(k_part.y, p.y) - y.begin], k_part.count);
      }
    }
    return;
  }
  if (rows > 1 && q.x_max - q.x_min > kMostQuerySpread) {
    for (int32_t i = 0; i < rows; ++i) add_relative(rc, call, w, h, r + i, 1, seen, s + i * s_stride, s_stride);
    return;
  }
  for (int32_t n = 0; n < w.count; ++n) {
    const Stretch k = seen_part(w.stretches[n], seen);
    if (k.count <= 0) continue;
    const int64_t first = rc.x.column(k.x, q.x_max), end = rc.x.column(k.x + k.count - 1, q.x_min) + 1;
    const bool nobody = end <= rc.x.lead || first >= rc.x.lead + rc.x.count();  // no pair of them has a distance
    const Strip x = nobody ? Strip() : Strip(first, end);
    if (!nobody) strip_product(rc.x, call, w, h, x, r, rows, w.strip_x, w.stride_x);
    for (int32_t i = 0; i < rows; ++i) {
      const Place& p = w.places[r + i];
      if (!p.there) continue;
      float* to = s + i * s_stride + k.slot;
      if (nobody)
        std::fill_n(to, k.count, kNegInf);
      else
        add_stretch(to, w.strip_x + i * w.stride_x + rc.x.column(k.x, p.x) - x.begin, 0.0f, k.count);
    }
  }
}

}  // namespace fovea::HWY_NAMESPACE::grouped_attention_tile
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
