#include "kernels/cpu/grouped_attention_plan.h"

#include <utility>

namespace fovea::grouped_attention_plan {

namespace {

// Bounds of `count` slots of a run from slot `first` on.
void widen(RowBounds& bounds, const Run& run, int32_t first, int32_t count) {
  if (run.source != RowSource::kToken || run.free) {
    bounds.other = true;
    return;
  }
  const int32_t a = run.begin + first * run.stride, b = a + (count - 1) * run.stride;
  bounds.min = std::min({bounds.min, a, b});
  bounds.max = std::max({bounds.max, a, b});
}

bool covers(const TokenGroups& groups, int64_t rows, bool of_keys) {
  for (const TokenGroups::Range& range : groups.ranges) {
    int64_t named = 0;
    for (int32_t g = range.begin; g < range.end; ++g) {
      const TokenGroups::Group& group = groups.groups[static_cast<size_t>(g)];
      const int32_t begin = of_keys ? group.key_runs : group.query_runs;
      const int32_t end = of_keys ? group.key_runs_end : group.query_runs_end;
      for (int32_t r = begin; r < end; ++r) {
        const Run& run = groups.runs[static_cast<size_t>(r)];
        if (run.source == RowSource::kToken) named += run.count;
      }
    }
    if (named != rows) return false;
  }
  return true;
}

}  // namespace

void SlotCursor::skip(int32_t slots) {
  while (slots > 0) {
    const int32_t left = runs_[run_].count - offset_;
    if (slots < left) {
      offset_ += slots;
      return;
    }
    slots -= left;
    ++run_;
    offset_ = 0;
  }
}

void SlotCursor::read(int32_t slots, int32_t* codes, int32_t* places) {
  while (slots > 0) {
    const Run& run = runs_[run_];
    const int32_t n = std::min(slots, run.count - offset_);
    switch (run.source) {
      case RowSource::kToken:
        for (int32_t i = 0; i < n; ++i) codes[i] = run.begin + (offset_ + i) * run.stride;
        break;
      case RowSource::kMemory:
        for (int32_t i = 0; i < n; ++i) codes[i] = memory_code(run.begin + (offset_ + i) * run.stride);
        break;
      case RowSource::kPad: std::fill_n(codes, n, kPadCode); break;
    }
    if (places) {
      if (run.source == RowSource::kToken && !run.free)
        std::copy_n(codes, n, places);
      else
        std::fill_n(places, n, kNowhere);
      places += n;
    }
    codes += n;
    slots -= n;
    offset_ += n;
    if (offset_ == run.count) {
      ++run_;
      offset_ = 0;
    }
  }
}

RowBounds SlotCursor::bounds(int32_t slots) const {
  RowBounds bounds;
  for (int32_t r = run_, offset = offset_; slots > 0; ++r, offset = 0) {
    const int32_t n = std::min(slots, runs_[r].count - offset);
    widen(bounds, runs_[r], offset, n);
    slots -= n;
  }
  return bounds;
}

RowBounds bounds_of(const int32_t* codes, int32_t count) {
  RowBounds bounds;
  for (int32_t i = 0; i < count; ++i) {
    if (is_token(codes[i])) {
      bounds.min = std::min(bounds.min, codes[i]);
      bounds.max = std::max(bounds.max, codes[i]);
    } else {
      bounds.other = true;
    }
  }
  return bounds;
}

namespace {

// What a band of one axis says of positions [query_min, query_max] and [key_min, key_max]: none meet, or all do.
struct BandSight {
  bool none, all;
  BandSight(const PairRule& rule, int64_t query_min, int64_t query_max, int64_t key_min, int64_t key_max) {
    const int64_t reach = int64_t{rule.band} * rule.dilation;
    none = key_min - query_max > reach || query_min - key_max > reach;
    all = rule.dilation == 1 && key_max - query_min <= reach && query_max - key_min <= reach;
  }
};

// The columns that rows [min, max] of a map stand in: all where they are of several map rows.
std::pair<int64_t, int64_t> columns(const PairRule& rule, int64_t min, int64_t max) {
  if (min / rule.map_width != max / rule.map_width) return {0, rule.map_width - 1};
  return {min % rule.map_width, max % rule.map_width};
}

}  // namespace

Sight sight(const PairRule& rule, const RowBounds& queries, const RowBounds& keys) {
  bool none = false, all = rule.exclusions.empty();
  if (keys.min > keys.max) return all ? Sight::kAll : Sight::kSome;  // position rules speak of placed keys only
  const int64_t query_min = int64_t{queries.min} + rule.query_position_shift - rule.first_row;
  const int64_t query_max = int64_t{queries.max} + rule.query_position_shift - rule.first_row;
  const int64_t key_min = keys.min - rule.first_row, key_max = keys.max - rule.first_row;
  if (rule.causal) {
    none = key_min > query_max;
    all = all && key_max <= query_min;
  }
  if (rule.band >= 0 && rule.map_width == 0) {
    const BandSight band(rule, query_min, query_max, key_min, key_max);
    none = none || band.none;
    all = all && band.all;
  }
  if (rule.band >= 0 && rule.map_width > 0) {
    const int64_t w = rule.map_width;
    const BandSight y(rule, query_min / w, query_max / w, key_min / w, key_max / w);
    const auto q = columns(rule, query_min, query_max), k = columns(rule, key_min, key_max);
    const BandSight x(rule, q.first, q.second, k.first, k.second);
    none = none || y.none || x.none;
    all = all && y.all && x.all;
  }
  if (rule.self_penalty != 0 && key_min <= query_max && query_min <= key_max) all = false;
  if (none) return keys.other ? Sight::kSome : Sight::kNone;
  return all ? Sight::kAll : Sight::kSome;
}

bool queries_cover(const TokenGroups& groups, int64_t rows) { return covers(groups, rows, false); }
bool keys_cover(const TokenGroups& groups, int64_t rows) { return covers(groups, rows, true); }

int64_t memory_rows(const TokenGroups& groups) {
  int64_t rows = 0;
  for (const Run& run : groups.runs)
    if (run.source == RowSource::kMemory)
      rows = std::max({rows, int64_t{run.begin} + 1, run.begin + int64_t{run.count - 1} * run.stride + 1});
  return rows;
}

int32_t max_groups(const TokenGroups& groups) {
  int32_t most = 0;
  for (const TokenGroups::Range& range : groups.ranges) most = std::max(most, range.end - range.begin);
  return most;
}

void count_slots(const TokenGroups& groups, const TokenGroups::Range& range, int64_t queries, float* counts) {
  std::fill_n(counts, queries, 0.0f);
  for (int32_t g = range.begin; g < range.end; ++g) {
    const TokenGroups::Group& group = groups.groups[static_cast<size_t>(g)];
    for (int32_t r = group.query_runs; r < group.query_runs_end; ++r) {
      const Run& run = groups.runs[static_cast<size_t>(r)];
      if (run.source != RowSource::kToken) continue;
      for (int32_t i = 0; i < run.count; ++i) counts[run.begin + int64_t{i} * run.stride] += 1;
    }
  }
}

}  // namespace fovea::grouped_attention_plan
