#include "attention/regions.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "attention/geometry.h"

namespace fovea {

namespace {

// One axis: windows so long, the grid moved by `shift` against them.
struct RegionAxis {
  int64_t window, shift, windows;
  // Without a shift cells are moved by a whole window, as the published numbering has it; an axis that one window spans may stay.
  RegionAxis(int64_t length, int64_t of_window, bool shifted, bool may_span)
      : window(of_window),
        shift(may_span && of_window >= length ? 0 : shifted ? of_window / 2 : of_window),
        windows((length + of_window - 1) / of_window + 1) {}
  int64_t window_of(int64_t c) const { return (c + shift) / window; }
  int64_t inside(int64_t c) const { return (c + shift) % window; }
};

void require_cells(const RegionConfig& c) {
  require(c.window_z > 0 && c.window_h > 0 && c.window_w > 0, "a {}x{}x{} window has no cells", c.window_z, c.window_h, c.window_w);
}

// Sum over the windows of an axis of the square of the places in it.
double squares(const RegionAxis& axis, int64_t length) {
  std::vector<int64_t> places(static_cast<size_t>(axis.windows), 0);
  for (int64_t c = 0; c < length; ++c) ++places[static_cast<size_t>(axis.window_of(c))];
  double sum = 0;
  for (const int64_t n : places) sum += static_cast<double>(n) * static_cast<double>(n);
  return sum;
}

// Tokens by window, in order inside each.
void sort_by_window(const std::vector<int64_t>& window, std::vector<int32_t>& order) {
  order.resize(window.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    const int64_t wa = window[static_cast<size_t>(a)], wb = window[static_cast<size_t>(b)];
    return wa != wb ? wa < wb : a < b;
  });
}

// Calls f(first, last) for each stretch of `order` that lies in one window.
template <class F>
void for_each_window(const std::vector<int64_t>& window, const std::vector<int32_t>& order, F&& f) {
  for (size_t first = 0; first < order.size();) {
    size_t last = first + 1;
    while (last < order.size() && window[static_cast<size_t>(order[last])] == window[static_cast<size_t>(order[first])]) ++last;
    f(first, last);
    first = last;
  }
}

}  // namespace

double region_pairs(const TokenGrid& grid, const RegionConfig& c) {
  if (!grid.cells) {
    require_cells(c);
    return squares({grid.height, c.window_h, c.shifted, false}, grid.height) * squares({grid.width, c.window_w, c.shifted, false}, grid.width);
  }
  Regions r;
  find_regions(grid, c, r);
  std::map<int64_t, int64_t> tokens;
  for (const int64_t w : r.window) ++tokens[w];
  double pairs = 0;
  for (const auto& [window, n] : tokens) pairs += static_cast<double>(n) * static_cast<double>(n);
  return pairs;
}

int64_t cells_of_window(const RegionConfig& c) { return c.window_z * c.window_h * c.window_w; }

void find_regions(const TokenGrid& grid, const RegionConfig& c, Regions& regions) {
  require_cells(c);
  const CellGrid* cells = grid.cells;
  const RegionAxis z(cells ? cells->depth : 1, c.window_z, c.shifted, true), y(cells ? cells->height : grid.height, c.window_h, c.shifted, false),
      x(cells ? cells->width : grid.width, c.window_w, c.shifted, false);
  const int64_t tokens = cells ? cells->count : grid.height * grid.width;
  regions.window.resize(static_cast<size_t>(tokens));
  regions.cell.resize(static_cast<size_t>(tokens));
  for (int64_t n = 0; n < tokens; ++n) {
    int64_t sample = 0, cz = 0, cy = 0, cx = 0;
    if (cells) {
      const int32_t* at = cells->cells + 4 * n;
      sample = at[0];
      cz = at[1];
      cy = at[2];
      cx = at[3];
      require(sample >= 0 && sample < cells->samples && cz >= 0 && cz < cells->depth && cy >= 0 && cy < cells->height && cx >= 0 &&
                  cx < cells->width,
              "cell {} lies at sample {}, z {}, y {}, x {}, outside {} samples of {}x{}x{}", n, sample, cz, cy, cx, cells->samples,
              cells->depth, cells->height, cells->width);
    } else {
      cy = n / grid.width;
      cx = n % grid.width;
    }
    regions.window[static_cast<size_t>(n)] =
        ((sample * x.windows + x.window_of(cx)) * y.windows + y.window_of(cy)) * z.windows + z.window_of(cz);
    regions.cell[static_cast<size_t>(n)] = static_cast<int32_t>((z.inside(cz) * c.window_h + y.inside(cy)) * c.window_w + x.inside(cx));
  }
}

void build_region_groups(const TokenGrid& grid, const Regions& regions, std::vector<int32_t>& order, TokenGroups& g) {
  const auto prefix = static_cast<int32_t>(grid.prefix);
  g.clear();
  add_prefix_queries(g, grid.prefix, grid.tokens(), false);
  sort_by_window(regions.window, order);
  for_each_window(regions.window, order, [&](size_t first, size_t last) {
    g.begin_group(0, -1);
    const auto add_slots = [&](auto&& add) {  // neighbours in a row become one run
      for (size_t i = first; i < last;) {
        size_t end = i + 1;
        while (end < last && order[end] == order[end - 1] + 1) ++end;
        add(Run{order[i] + prefix, 1, static_cast<int32_t>(end - i)});
        i = end;
      }
    };
    add_slots([&](const Run& run) { g.add_query_run(run); });
    add_slots([&](const Run& run) { g.add_key_run(run); });
    add_prefix_keys(g, grid.prefix);
    g.end_group();
  });
  g.keys_disjoint = prefix == 0;
  g.finish();
}

std::vector<int32_t> drop_cells(const CellGrid& cells, const RegionConfig& config, const std::vector<DropLevel>& levels) {
  std::vector<int32_t> kept(static_cast<size_t>(cells.count));
  std::iota(kept.begin(), kept.end(), 0);
  TokenGrid grid;
  grid.cells = &cells;
  Regions regions;
  RegionConfig c = config;
  for (const bool shifted : {false, true}) {
    c.shifted = shifted;
    find_regions(grid, c, regions);
    std::vector<int64_t> window;
    for (const int32_t n : kept) window.push_back(regions.window[static_cast<size_t>(n)]);
    std::vector<int32_t> order, left;
    sort_by_window(window, order);
    for_each_window(window, order, [&](size_t first, size_t last) {
      const auto count = static_cast<int64_t>(last - first);
      const auto level = std::find_if(levels.begin(), levels.end(), [&](const DropLevel& l) { return count >= l.low && count < l.high; });
      require(level != levels.end(), "no level says how many of a window's {} cells stay", count);
      for (size_t i = first; i < first + static_cast<size_t>(std::min(count, level->most)); ++i)
        left.push_back(kept[static_cast<size_t>(order[i])]);
    });
    std::sort(left.begin(), left.end());
    kept = std::move(left);
  }
  return kept;
}

}  // namespace fovea
