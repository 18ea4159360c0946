// Parts of the grouped attention kernel that have no vectors in them: walking the runs of a group, and cutting a call
// into tasks. Nothing here depends on the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/kernel_table.h"

namespace fovea::grouped_attention_plan {

// A slot's row in one word: token row r is r, pad is -1, memory row r is -2 - r.
constexpr int32_t kPadCode = -1;
constexpr int32_t memory_code(int32_t row) { return -2 - row; }  // its own inverse
constexpr bool is_token(int32_t code) { return code >= 0; }

// Where the position rules see a key: its row, or -1 where they do not hold (pad, memory, free runs).
constexpr int32_t kNowhere = -1;

// Row numbers of a stretch of slots: the least and the greatest token row, and whether there are others (free ones too).
struct RowBounds {
  int32_t min = std::numeric_limits<int32_t>::max();
  int32_t max = std::numeric_limits<int32_t>::min();
  bool other = false;
};

// Walks the slots of a list of runs in order.
class SlotCursor {
 public:
  SlotCursor(const TokenGroups& groups, int32_t first_run) : runs_(groups.runs.data()), run_(first_run) {}

  void skip(int32_t slots);
  // Writes the codes of the next slots, and where `places` is given their places, and goes on behind them.
  void read(int32_t slots, int32_t* codes, int32_t* places = nullptr);
  RowBounds bounds(int32_t slots) const;       // of the next slots, which stay next

 private:
  const Run* runs_;
  int32_t run_;
  int32_t offset_ = 0;  // slots of the current run that are behind
};

RowBounds bounds_of(const int32_t* codes, int32_t count);

// How much of a range of positions a rule lets a block of keys see.
enum class Sight : uint8_t { kNone, kSome, kAll };
// Between queries and keys within bounds; self penalties and exclusions make kSome.
Sight sight(const PairRule& rule, const RowBounds& queries, const RowBounds& keys);

// True when every row of [0, rows) is named by the token runs of every range, given that no row is named twice.
bool queries_cover(const TokenGroups& groups, int64_t rows);
bool keys_cover(const TokenGroups& groups, int64_t rows);

// Memory rows named by the runs: 1 + the greatest.
int64_t memory_rows(const TokenGroups& groups);
// Groups of the largest range.
int32_t max_groups(const TokenGroups& groups);

// Slot counts per row of a batch element and head, for kMean: counts (queries).
void count_slots(const TokenGroups& groups, const TokenGroups::Range& range, int64_t queries, float* counts);

// Cuts `count` things into pieces of at most `most`, sizes differing by one at most.
struct Pieces {
  int32_t count, pieces;
  Pieces(int32_t n, int32_t most) : count(n), pieces(std::max(1, (n + most - 1) / most)) {}
  int32_t begin(int32_t i) const { return static_cast<int32_t>(int64_t{count} * i / pieces); }
};

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

}  // namespace fovea::grouped_attention_plan
