// Parts of a map whose tokens meet only each other, so that a whole block can run on one after the other while its
// intermediates stay in the caches.
#pragma once

#include <vector>

#include "kernels/token_groups.h"

namespace fovea {

struct TokenBand {
  struct Rows {
    int64_t begin = 0, count = 0;
  };
  std::vector<Rows> rows;  // of the map's tokens, ascending; neighbours are one
  int64_t count = 0;       // of all of them
  TokenGroups groups;      // those of the band, over its tokens in this order
};

// Cuts `tokens` of a map with `line` tokens a line into bands of whole lines, in their order and each of at least `least`
// tokens where there are so many. Groups that depend on the batch element or the head, on tokens' places in the map, or that share rows
// with others in their result are not cut: they give one band or none, as do maps that are connected throughout.
std::vector<TokenBand> token_bands(const TokenGroups& groups, int64_t tokens, int64_t line, int64_t least);

}  // namespace fovea
