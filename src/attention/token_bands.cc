#include "attention/token_bands.h"

#include <algorithm>
#include <numeric>

#include "core/check.h"

namespace fovea {

namespace {

// Sets of lines that belong together; the least line stands for its set.
class Lines {
 public:
  explicit Lines(int64_t count) : parents_(static_cast<size_t>(count)) { std::iota(parents_.begin(), parents_.end(), int64_t{0}); }
  int64_t set_of(int64_t line) {
    while (parent(line) != line) line = parent(line) = parent(parent(line));
    return line;
  }
  void join(int64_t a, int64_t b) {
    a = set_of(a);
    b = set_of(b);
    parent(std::max(a, b)) = std::min(a, b);
  }

 private:
  int64_t& parent(int64_t line) { return parents_[static_cast<size_t>(line)]; }
  std::vector<int64_t> parents_;
};

// A band is numbered anew and by itself, so nothing may hang on a row's number, on other groups or on the batch.
bool divisible(const TokenGroups& g) {
  if (g.ranges.size() != 1 || g.reduction != Reduction::kAssign) return false;
  for (const PairRule& rule : g.rules)
    if (rule.looks_at_positions() || !rule.exclusions.empty()) return false;
  return std::all_of(g.runs.begin(), g.runs.end(), [](const Run& run) { return run.source != RowSource::kMemory; });
}

// f(run) for the runs [begin, end) that name tokens.
template <class F>
void for_token_runs(const TokenGroups& g, int32_t begin, int32_t end, F&& f) {
  for (int32_t r = begin; r < end; ++r) {
    const Run& run = g.runs[static_cast<size_t>(r)];
    if (run.source == RowSource::kToken) f(run);
  }
}

}  // namespace

std::vector<TokenBand> token_bands(const TokenGroups& g, int64_t tokens, int64_t line, int64_t least) {
  if (!divisible(g) || line <= 0 || tokens <= 0 || tokens % line != 0) return {};
  const int64_t lines = tokens / line;
  Lines sets(lines);
  std::vector<int64_t> line_of_group(g.groups.size(), -1);  // any line of its tokens
  for (size_t i = 0; i < g.groups.size(); ++i) {
    const TokenGroups::Group& group = g.groups[i];
    int64_t& first = line_of_group[i];
    for_token_runs(g, group.query_runs, group.key_runs_end, [&](const Run& run) {
      if (first < 0) first = run.begin / line;
      for (int64_t k = 0, last = -1; k < run.count; ++k) {
        const int64_t l = (run.begin + k * run.stride) / line;
        if (l != last) sets.join(first, last = l);
      }
    });
  }

  // Sets of lines by their first line; neighbours join until they are large enough.
  std::vector<int64_t> lines_of_set(static_cast<size_t>(lines), 0), band_of_set(static_cast<size_t>(lines), -1);
  for (int64_t l = 0; l < lines; ++l) ++lines_of_set[static_cast<size_t>(sets.set_of(l))];
  const int64_t wanted = std::max<int64_t>(1, (least + line - 1) / line);
  int64_t bands = 0, gathered = 0, left = lines;
  for (int64_t l = 0; l < lines; ++l) {
    const int64_t own = lines_of_set[static_cast<size_t>(l)];
    if (own == 0) continue;
    band_of_set[static_cast<size_t>(l)] = bands;
    gathered += own;
    left -= own;
    if (gathered < wanted || left < wanted) continue;  // what is left at the end is too small for a band of its own
    ++bands;
    gathered = 0;
  }
  if (gathered > 0) ++bands;

  std::vector<TokenBand> result(static_cast<size_t>(bands));
  std::vector<int64_t> place(static_cast<size_t>(lines));  // of a line's first token in its band
  const auto band_of_line = [&](int64_t l) -> TokenBand& {
    return result[static_cast<size_t>(band_of_set[static_cast<size_t>(sets.set_of(l))])];
  };
  for (int64_t l = 0; l < lines; ++l) {
    TokenBand& band = band_of_line(l);
    place[static_cast<size_t>(l)] = band.count;
    if (!band.rows.empty() && band.rows.back().begin + band.rows.back().count == l * line)
      band.rows.back().count += line;
    else
      band.rows.push_back({l * line, line});
    band.count += line;
  }

  for (TokenBand& band : result) {
    band.groups.rules = g.rules;
    band.groups.keys_disjoint = g.keys_disjoint;
  }
  const auto place_of = [&](int64_t row) { return place[static_cast<size_t>(row / line)] + row % line; };
  for (size_t i = 0; i < g.groups.size(); ++i) {
    const TokenGroups::Group& group = g.groups[i];
    if (line_of_group[i] < 0) continue;  // of pad rows alone, which nobody asks for
    TokenGroups& to = band_of_line(line_of_group[i]).groups;
    to.begin_group(group.rule, group.bias);
    for (int32_t r = group.query_runs; r < group.key_runs_end; ++r) {
      Run run = g.runs[static_cast<size_t>(r)];
      if (run.source == RowSource::kToken) {
        const int64_t begin = run.begin, length = int64_t{run.count - 1} * run.stride;
        if (place_of(begin + length) - place_of(begin) != length) return {};  // it leaps over lines of others
        run.begin = static_cast<int32_t>(place_of(begin));
      }
      r < group.query_runs_end ? to.add_query_run(run) : to.add_key_run(run);
    }
    to.end_group();
    if (!g.query_labels.empty()) {
      const auto queries = g.query_labels.begin() + group.query_slot, keys = g.key_labels.begin() + group.key_slot;
      to.query_labels.insert(to.query_labels.end(), queries, queries + group.queries);
      to.key_labels.insert(to.key_labels.end(), keys, keys + group.keys);
    }
  }
  for (TokenBand& band : result) {
    band.groups.finish();
    band.groups.biases = g.biases;  // the tables are those of the whole
  }
  return result;
}

}  // namespace fovea
