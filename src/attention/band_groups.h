// Bands as token groups: on a sequence |i - j| <= window · dilation, on a map both axes so, with dilation dividing the
// differences. Chunks of neighbouring queries meet one run of keys (a run for each row of the map), so the description
// grows with the tokens and not with the pairs; a dilated band is dense within each of its residue classes.
#pragma once

#include <span>

#include "kernels/token_groups.h"

namespace fovea {

struct Band {
  int64_t window = 0;    // one side, in steps of the dilation
  int64_t dilation = 1;
  bool causal = false;   // on sequences
};

// What keeps a chunk's pairs inside the band; the groups' residue classes see to the dilation. map_width 0: a sequence.
PairRule band_rule(const Band& band, int64_t length, int64_t map_width = 0, int64_t first_row = 0);

// Groups under rule number `rule` for rows [first, first + length). Every group gets the runs `free` as keys besides. With
// `states` (of all rows, from row 0 on) only rows in state 0 are queries and keys of the band.
void add_band(TokenGroups& groups, const Band& band, int32_t rule, int64_t first, int64_t length, std::span<const Run> free,
              const int8_t* states = nullptr);
// The same for a map, row-major from row `first` on.
void add_band_on_map(TokenGroups& groups, const Band& band, int32_t rule, int64_t first, int64_t height, int64_t width,
                     std::span<const Run> free, const int8_t* states = nullptr);

// Pairs that meet in a band, free keys not counted.
double band_pairs(const Band& band, int64_t length);
double band_pairs_on_map(const Band& band, int64_t height, int64_t width);

// Rows first, first + stride, ..., count of them, as a run.
inline Run rows_run(int64_t first, int64_t count, int64_t stride = 1) {
  return {.begin = static_cast<int32_t>(first), .stride = static_cast<int32_t>(stride), .count = static_cast<int32_t>(count)};
}
// The first `count` rows as keys that no position rule forbids.
inline Run free_rows(int64_t count) {
  Run run = rows_run(0, count);
  run.free = true;
  return run;
}

}  // namespace fovea
