// Regions of sparse regional attention (SST, Fan et al. 2021, 2112.06375): which window of a grid each occupied cell lies in, and
// which cells are left where windows hold at most so many.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "attention/attention.h"
#include "kernels/token_groups.h"

namespace fovea {

struct RegionConfig {
  int64_t window_z = 1, window_h = 12, window_w = 12;
  bool shifted = false;  // windows begin half a window earlier
};

// Where tokens lie: the window's number, unique among all samples, and the cell inside the window, (z H + y) W + x.
struct Regions {
  std::vector<int64_t> window;   // (N)
  std::vector<int32_t> cell;     // (N) in [0, cells_of_window)
};
int64_t cells_of_window(const RegionConfig& config);

// Of occupied cells, or of the map tokens of a dense grid, whose samples are all alike.
void find_regions(const TokenGrid& grid, const RegionConfig& config, Regions& regions);

// Pairs of cells or map tokens that share a window.
double region_pairs(const TokenGrid& grid, const RegionConfig& config);

// Tokens of a window meet, and prefix tokens (rows before the map's) meet all. `order` is memory for sorting.
void build_region_groups(const TokenGrid& grid, const Regions& regions, std::vector<int32_t>& order, TokenGroups& groups);

// A window with a number of cells in [low, high) keeps its first `most`.
struct DropLevel {
  int64_t most = 0, low = 0, high = 0;
};
// The cells that stay, ascending: cut by windows without shift first, then what is left by shifted ones. A window that no level
// speaks of is an error.
std::vector<int32_t> drop_cells(const CellGrid& cells, const RegionConfig& config, const std::vector<DropLevel>& levels);

}  // namespace fovea
