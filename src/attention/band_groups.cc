#include "attention/band_groups.h"

#include <algorithm>

namespace fovea {

namespace {

// Queries of a group. Wide bands pack many keys for each chunk, so their chunks are larger.
int64_t chunk_of(int64_t window) { return window <= 32 ? 64 : 128; }
int64_t tile_of(int64_t window) { return window <= 12 ? 8 : 16; }

// One axis of the map: positions residue, residue + dilation, ... below length.
struct Axis {
  int64_t residue, dilation, count;
  Axis(int64_t length, int64_t d, int64_t r) : residue(r), dilation(d), count(length > r ? (length - r + d - 1) / d : 0) {}
  int64_t position(int64_t i) const { return residue + i * dilation; }
};

// Adds `count` rows, cut at rows that are not in state 0.
template <class Add>
void add_rows(int64_t first, int64_t stride, int64_t count, const int8_t* states, Add&& add) {
  if (!states) return add(rows_run(first, count, stride));
  for (int64_t i = 0; i < count;) {
    if (states[first + i * stride] != 0) {
      ++i;
      continue;
    }
    int64_t end = i + 1;
    while (end < count && states[first + end * stride] == 0) ++end;
    add(rows_run(first + i * stride, end - i, stride));
    i = end;
  }
}

// A group without queries is no group.
void end_group(TokenGroups& groups) {
  if (groups.groups.back().queries > 0) return groups.end_group();
  groups.runs.resize(static_cast<size_t>(groups.groups.back().query_runs));
  groups.groups.pop_back();
}

// Sum over i < length of the j within `reach` of i.
double near_pairs(int64_t length, int64_t reach) {
  const int64_t w = std::min(reach, std::max<int64_t>(length - 1, 0));
  return static_cast<double>(length) * static_cast<double>(2 * w + 1) - static_cast<double>(w) * static_cast<double>(w + 1);
}

// The same with a dilation: classes are counted one by one, which differ in length by one at most.
double near_pairs(int64_t length, int64_t reach, int64_t dilation) {
  const int64_t longer = length % dilation;
  return static_cast<double>(longer) * near_pairs(length / dilation + 1, reach) +
         static_cast<double>(std::min(dilation, length) - longer) * near_pairs(length / dilation, reach);
}

}  // namespace

PairRule band_rule(const Band& band, int64_t length, int64_t map_width, int64_t first_row) {
  PairRule rule;
  rule.causal = band.causal;
  // The whole sequence is as far as a band can matter, and so the product stays small.
  rule.band = static_cast<int32_t>(std::min(std::min(band.window, length) * std::min(band.dilation, length), length));
  rule.map_width = static_cast<int32_t>(map_width);
  rule.first_row = static_cast<int32_t>(first_row);
  return rule;
}

void add_band(TokenGroups& groups, const Band& band, int32_t rule, int64_t first, int64_t length, std::span<const Run> free,
              const int8_t* states) {
  const int64_t window = std::min(band.window, length), chunk = chunk_of(window);
  for (int64_t residue = 0; residue < std::min(band.dilation, length); ++residue) {
    const Axis axis(length, band.dilation, residue);
    for (int64_t begin = 0; begin < axis.count; begin += chunk) {
      const int64_t end = std::min(begin + chunk, axis.count);
      const int64_t from = std::max<int64_t>(begin - window, 0);
      const int64_t to = band.causal ? end : std::min(end + window, axis.count);
      groups.begin_group(rule);
      add_rows(first + axis.position(begin), axis.dilation, end - begin, states, [&](const Run& r) { groups.add_query_run(r); });
      for (const Run& run : free) groups.add_key_run(run);
      add_rows(first + axis.position(from), axis.dilation, to - from, states, [&](const Run& r) { groups.add_key_run(r); });
      end_group(groups);
    }
  }
}

void add_band_on_map(TokenGroups& groups, const Band& band, int32_t rule, int64_t first, int64_t height, int64_t width,
                     std::span<const Run> free, const int8_t* states) {
  const int64_t tile = tile_of(band.window);
  for (int64_t class_y = 0; class_y < std::min(band.dilation, height); ++class_y) {
    for (int64_t class_x = 0; class_x < std::min(band.dilation, width); ++class_x) {
      const Axis rows(height, band.dilation, class_y), columns(width, band.dilation, class_x);
      for (int64_t top = 0; top < rows.count; top += tile) {
        for (int64_t left = 0; left < columns.count; left += tile) {
          const auto add_tile = [&](int64_t margin, auto&& add) {
            const int64_t y_begin = std::max<int64_t>(top - margin, 0), y_end = std::min(top + tile + margin, rows.count);
            const int64_t x_begin = std::max<int64_t>(left - margin, 0), x_end = std::min(left + tile + margin, columns.count);
            for (int64_t y = y_begin; y < y_end; ++y)
              add_rows(first + rows.position(y) * width + columns.position(x_begin), columns.dilation, x_end - x_begin, states, add);
          };
          groups.begin_group(rule);
          add_tile(0, [&](const Run& run) { groups.add_query_run(run); });
          for (const Run& run : free) groups.add_key_run(run);
          add_tile(std::min(band.window, std::max(height, width)), [&](const Run& run) { groups.add_key_run(run); });
          end_group(groups);
        }
      }
    }
  }
}

double band_pairs(const Band& band, int64_t length) {
  const double both = near_pairs(length, band.window, band.dilation);
  return band.causal ? (both + static_cast<double>(length)) / 2 : both;
}

double band_pairs_on_map(const Band& band, int64_t height, int64_t width) {
  return near_pairs(height, band.window, band.dilation) * near_pairs(width, band.window, band.dilation);
}

}  // namespace fovea
