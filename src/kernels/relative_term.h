// The relative position term of grouped attention (Dai et al. 2019, 1901.02860): a second dot product inside the kernel.
//
//   score(i, j) = scale · ((q_i + u) · k_j + (q_i + v) · R_t + b_t),  t the row of the pair's distance, query minus key
//
// On a line positions are row numbers, memory rows stand before the tokens, and a pair whose distance has no row does not
// meet. On a map the rows are sums R_y[dy] + R_x[dx] of two tables, one for each axis, which have a row for every distance;
// rows before the map (prefix tokens) and pad rows have no place: their pairs keep the first product alone.
#pragma once

#include <cstdint>

namespace fovea {

// Rows of distances first, first + 1, ..., count of them.
struct RelativeAxis {
  const void* rows = nullptr;  // (count, H, D)
  const void* bias = nullptr;  // (count, H) b, or null: zeros
  int64_t first = 0, count = 0;

  int64_t row(int64_t distance) const { return distance - first; }
  bool has(int64_t distance) const { return distance >= first && distance < first + count; }
};

struct RelativeTerm {
  const void* u = nullptr;   // (H, D) or null: zeros
  const void* v = nullptr;   // (H, D) or null: zeros
  RelativeAxis x;            // the line, or a map's columns
  RelativeAxis y;            // a map's rows
  int64_t map_width = 0;     // > 0: a map of this width from token row `first_row` on, queries and keys alike
  int64_t first_row = 0;
  int64_t memory_rows = 0;   // a line: memory row m stands at position m - memory_rows
  int64_t query_shift = 0;   // a line: added to a query's row number
  // What the official shift of an unmasked line gives to keys behind the query (relative_shift_source): for tests, on the
  // reference tables only.
  bool wrapped = false;

  bool is_map() const { return map_width > 0; }
};

// Gradients, all += and each may be null.
struct RelativeGradients {
  void *du = nullptr, *dv = nullptr;        // (H, D)
  void *dx_rows = nullptr, *dx_bias = nullptr;  // like RelativeTerm::x
  void *dy_rows = nullptr, *dy_bias = nullptr;  // like RelativeTerm::y
};

// The official shift moves raw (query, t), t = 0 the greatest distance, to (query, key) by reinterpreting a padded matrix.
// Element (i, j) comes from row `query`, distance `distance`; where no key is behind its query that is i and i + mlen - j.
// Behind it the padding's zero (distance -1 of the result), then what belongs to the next query.
struct RelativeSource {
  int64_t query = 0, distance = -1;
};
inline RelativeSource relative_shift_source(int64_t query, int64_t distance, int64_t distances) {
  if (distance >= 0) return {query, distance};
  if (distance == -1) return {query, -1};
  return {query + 1, distances + 1 + distance};
}

}  // namespace fovea
