#include "attention/sparse_groups.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "attention/band_groups.h"
#include "attention/geometry.h"
#include "core/check.h"

namespace fovea {

namespace {

using Pattern = SparseConfig::Pattern;
using Factors = SparseConfig::Factors;

constexpr int32_t kNoRule = -1;

// A block of the `fixed` pattern: cells [y, y + height) x [x, x + width) of the map; a sequence is a map of one row.
struct Block {
  int64_t y, x, height, width;
  int64_t cells() const { return height * width; }
};

// Cells of a block by their row-major index, in runs: f(row of the map, first column, count).
template <class F>
void for_cells(const Block& b, int64_t begin, int64_t end, F&& f) {
  while (begin < end) {
    const int64_t y = begin / b.width, x = begin % b.width, count = std::min(end - begin, b.width - x);
    f(b.y + y, b.x + x, count);
    begin += count;
  }
}

int64_t summary_of(const SparseConfig& config, int64_t cells) {
  return config.summary > 0 ? std::min(config.summary, cells) : std::max<int64_t>(1, cells / 8);
}

// The lengths of the parts of an axis that is cut at a stride, and how many there are of each.
std::array<std::pair<int64_t, int64_t>, 2> cuts(int64_t length, int64_t stride) {
  return {std::pair(stride, length / stride), std::pair(length % stride, int64_t{length % stride > 0})};
}

double product(int64_t a, int64_t b) { return static_cast<double>(a) * static_cast<double>(b); }

class SparseBuilder {
 public:
  SparseBuilder(const SparseConfig& config, const SparseTokens& tokens) : config_(config), tokens_(tokens), stride_(sparse_stride(config, tokens)) {
    require(config.verticals > 0 && config.summary >= 0 && config.stride >= 0, "sparse attention: stride, summary and verticals are no negative numbers");
    first_ = tokens.causal ? 0 : tokens.prefix;
    length_ = tokens.causal ? tokens.prefix + tokens.map() : tokens.map();
    if (first_ > 0) prefix_keys_ = {free_rows(first_)};
    by_factor_ = config.factors == Factors::kHeads;
    const bool has_summary = config.pattern == Pattern::kFixed && config.factors != Factors::kFirst;
    verticals_ = has_summary ? config.verticals : 1;
    heads_ = by_factor_ ? std::lcm<int64_t>(2, verticals_) : verticals_;
  }

  TokenGroups build() {
    const bool merges = config_.factors == Factors::kMerged && !(config_.pattern == Pattern::kFixed && tokens_.causal);
    groups_.heads = heads_;
    groups_.reduction = merges ? Reduction::kMergeLse : Reduction::kAssign;
    groups_.keys_disjoint = !merges && first_ == 0;
    for (int64_t head = 0; head < heads_; ++head) {
      TokenGroups::Range range;
      range.begin = static_cast<int32_t>(groups_.groups.size());
      add_prefix_queries(groups_, first_, first_ + length_, false);
      if (config_.pattern == Pattern::kStrided)
        tokens_.sequence() ? add_sequence_strided(factors_of(head)) : add_map_strided(factors_of(head));
      else
        tokens_.causal ? add_causal_fixed(factors_of(head), head % verticals_) : add_map_fixed(factors_of(head), head % verticals_);
      range.end = static_cast<int32_t>(groups_.groups.size());
      groups_.ranges.push_back(range);
    }
    groups_.finish();
    return std::move(groups_);
  }

  std::vector<PairPattern> patterns() const {
    std::vector<PairPattern> all;
    for (int64_t head = 0; head < heads_; ++head) {
      PairPattern p;
      const bool first = factors_of(head) != Factors::kSecond, second = factors_of(head) != Factors::kFirst;
      const bool strided = config_.pattern == Pattern::kStrided, sequence = tokens_.sequence();
      const int64_t width = tokens_.width;
      const auto partition = [&](auto&& label_of) {
        std::vector<int32_t> labels(static_cast<size_t>(first_ + length_), -1);
        for (int64_t i = 0; i < length_; ++i) labels[static_cast<size_t>(first_ + i)] = static_cast<int32_t>(label_of(i));
        p.terms.push_back(PairTerm::partition(std::move(labels), tokens_.causal));
      };
      if (strided && sequence) {
        if (first) p.terms.push_back(PairTerm::band_of(static_cast<int32_t>(std::min(stride_ - 1, length_)), 1, tokens_.causal));
        if (second) partition([&](int64_t i) { return i % stride_; });
      } else if (strided) {
        if (first) partition([&](int64_t i) { return i / width; });
        if (second) partition([&](int64_t i) { return i % width; });
      } else {
        const int64_t blocks_across = (width + stride_ - 1) / stride_;
        if (first && tokens_.causal) partition([&](int64_t i) { return i / stride_; });
        if (first && !tokens_.causal) partition([&](int64_t i) { return i / width / stride_ * blocks_across + i % width / stride_; });
        if (second) p.terms.push_back(PairTerm::keys(summary_rows(head % verticals_), tokens_.causal));
      }
      add_prefix_terms(p, first_, first_ + length_);
      all.push_back(std::move(p));
    }
    return all;
  }

 private:
  int32_t rule(const PairRule& r) {
    groups_.rules.push_back(r);
    return static_cast<int32_t>(groups_.rules.size()) - 1;
  }

  Factors factors_of(int64_t head) const {
    return !by_factor_ ? config_.factors : head % 2 == 0 ? Factors::kFirst : Factors::kSecond;
  }

  // A group of equal query and key rows.
  void add_circle(const Run& rows, int32_t r, bool with_prefix) {
    groups_.begin_group(r);
    groups_.add_query_run(rows);
    if (with_prefix) add_prefix_keys();
    groups_.add_key_run(rows);
    groups_.end_group();
  }

  void add_prefix_keys() {
    for (const Run& run : prefix_keys_) groups_.add_key_run(run);
  }

  // Rows of a causal block's summary, counted in the block.
  std::pair<int64_t, int64_t> causal_summary(int64_t vertical) const {
    const int64_t summary = summary_of(config_, stride_), end = std::max<int64_t>(stride_ - vertical * summary, 0);
    return {std::max<int64_t>(end - summary, 0), end};
  }

  // Cells of a block's summary; a block that the border cuts has one as well.
  std::pair<int64_t, int64_t> map_summary(const Block& b, int64_t vertical) const {
    const int64_t whole = std::min(stride_, tokens_.height) * std::min(stride_, tokens_.width);
    const int64_t summary = std::min(summary_of(config_, whole), b.cells()), end = std::max(b.cells() - vertical * summary, summary);
    return {end - summary, end};
  }

  std::vector<int32_t> summary_rows(int64_t vertical) const {
    std::vector<int32_t> labels(static_cast<size_t>(first_ + length_), -1);
    if (tokens_.causal) {
      const auto [begin, end] = causal_summary(vertical);
      for (int64_t i = 0; i < length_; ++i)
        if (i % stride_ >= begin && i % stride_ < end) labels[static_cast<size_t>(i)] = 0;
      return labels;
    }
    for (const Block& b : blocks()) {
      const auto [begin, end] = map_summary(b, vertical);
      for_cells(b, begin, end, [&](int64_t y, int64_t x, int64_t count) { std::fill_n(labels.begin() + first_ + y * tokens_.width + x, count, 0); });
    }
    return labels;
  }

  // The rule of a second factor: under kMerged the first has the token itself already.
  int32_t second_rule(bool merged) {
    PairRule r;
    r.causal = tokens_.causal;
    if (merged) r.self_penalty = -std::numeric_limits<float>::infinity();
    return r.looks_at_positions() ? rule(r) : kNoRule;
  }

  // A band of l - 1 on both sides, and residue classes modulo l; they share the token itself only.
  void add_sequence_strided(Factors factors) {
    const bool merged = factors == Factors::kMerged;
    if (factors != Factors::kSecond) {
      const Band band{.window = stride_ - 1, .dilation = 1, .causal = tokens_.causal};
      groups_.keys_disjoint = groups_.keys_disjoint && length_ <= 1;
      add_band(groups_, band, rule(band_rule(band, length_)), first_, length_, prefix_keys_);
    }
    if (factors == Factors::kFirst) return;
    const int32_t second = second_rule(merged);
    for (int64_t residue = 0; residue < std::min(stride_, length_); ++residue)
      add_circle(rows_run(first_ + residue, (length_ - residue + stride_ - 1) / stride_, stride_), second, !merged);
  }

  void add_map_strided(Factors factors) {
    const bool merged = factors == Factors::kMerged;
    const int64_t height = tokens_.height, width = tokens_.width;
    if (factors != Factors::kSecond)
      for (int64_t y = 0; y < height; ++y) add_circle(rows_run(first_ + y * width, width), kNoRule, true);
    if (factors == Factors::kFirst) return;
    const int32_t second = second_rule(merged);
    for (int64_t x = 0; x < width; ++x) add_circle(rows_run(first_ + x, height, width), second, !merged);
  }

  // Block by block: the own rows, and of every earlier block the summary rows, which are columns of the sequence written l
  // to a line. No pair is in both, and later rows are forbidden by the order.
  void add_causal_fixed(Factors factors, int64_t vertical) {
    PairRule causal;
    causal.causal = true;
    const int32_t r = rule(causal);
    const auto [summary_begin, summary_end] = causal_summary(vertical);
    for (int64_t begin = 0, block = 0; begin < length_; begin += stride_, ++block) {
      const int64_t rows = std::min(stride_, length_ - begin);
      groups_.begin_group(r);
      groups_.add_query_run(rows_run(begin, rows));
      if (factors != Factors::kFirst)
        for (int64_t column = summary_begin; column < summary_end; ++column) groups_.add_key_run(rows_run(column, block, stride_));
      if (factors != Factors::kSecond) groups_.add_key_run(rows_run(begin, rows));
      else if (summary_begin < rows) groups_.add_key_run(rows_run(begin + summary_begin, std::min(summary_end, rows) - summary_begin));
      groups_.end_group();
    }
    if (factors != Factors::kFirst && length_ > 0) groups_.keys_disjoint = groups_.keys_disjoint && length_ <= stride_;
  }

  std::vector<Block> blocks() const {
    std::vector<Block> all;
    for (int64_t y = 0; y < tokens_.height; y += stride_)
      for (int64_t x = 0; x < tokens_.width; x += stride_)
        all.push_back({y, x, std::min(stride_, tokens_.height - y), std::min(stride_, tokens_.width - x)});
    return all;
  }

  // Everybody with the summary cells of all blocks; in each block its cells with each other, summary cells as keys left out
  // where the first part has them.
  void add_map_fixed(Factors factors, int64_t vertical) {
    const auto add_query = [&](int64_t y, int64_t x, int64_t count) { groups_.add_query_run(rows_run(first_ + y * tokens_.width + x, count)); };
    const auto add_key = [&](int64_t y, int64_t x, int64_t count) { groups_.add_key_run(rows_run(first_ + y * tokens_.width + x, count)); };
    const std::vector<Block> all = blocks();
    if (factors != Factors::kFirst && length_ > 0) {
      groups_.begin_group(kNoRule);
      groups_.add_query_run(rows_run(first_, length_));
      add_prefix_keys();
      for (const Block& b : all) {
        const auto [begin, end] = map_summary(b, vertical);
        for_cells(b, begin, end, add_key);
      }
      groups_.end_group();
    }
    if (factors == Factors::kSecond) return;
    for (const Block& b : all) {
      groups_.begin_group(kNoRule);
      for_cells(b, 0, b.cells(), add_query);
      if (factors == Factors::kFirst) {
        add_prefix_keys();
        for_cells(b, 0, b.cells(), add_key);
      } else {
        const auto [begin, end] = map_summary(b, vertical);
        for_cells(b, 0, begin, add_key);
        for_cells(b, end, b.cells(), add_key);
      }
      groups_.end_group();
    }
  }

  const SparseConfig config_;
  const SparseTokens tokens_;
  const int64_t stride_;
  int64_t first_ = 0, length_ = 0;  // rows of the pattern
  bool by_factor_ = false;          // heads differ by the factor that they take
  int64_t verticals_ = 1, heads_ = 1;
  std::vector<Run> prefix_keys_;
  TokenGroups groups_;
};

}  // namespace

// About as many keys from each factor: l + N / l on a sequence, l² + c N / l² in blocks of a map.
int64_t sparse_stride(const SparseConfig& config, const SparseTokens& tokens) {
  constexpr int64_t kBeyondAll = int64_t{1} << 31;  // rows are 32-bit numbers
  if (config.stride > 0) return std::min(config.stride, kBeyondAll);
  const double n = static_cast<double>(tokens.causal ? tokens.prefix + tokens.map() : tokens.map());
  const bool blocks_of_a_map = config.pattern == Pattern::kFixed && !tokens.sequence();
  return std::max<int64_t>(1, std::llround(std::pow(n, blocks_of_a_map ? 0.25 : 0.5)));
}

TokenGroups sparse_groups(const SparseConfig& config, const SparseTokens& tokens) { return SparseBuilder(config, tokens).build(); }

std::vector<PairPattern> sparse_pattern(const SparseConfig& config, const SparseTokens& tokens) { return SparseBuilder(config, tokens).patterns(); }

double sparse_pairs(const SparseConfig& config, const SparseTokens& tokens) {
  SparseConfig c = config;
  c.verticals = 1;
  if (config.factors == Factors::kHeads) {
    c.factors = Factors::kFirst;
    const double first = sparse_pairs(c, tokens);
    c.factors = Factors::kSecond;
    return (first + sparse_pairs(c, tokens)) / 2;
  }
  const SparseTokens all{tokens.prefix, tokens.height, tokens.width, false};
  const int64_t stride = sparse_stride(c, all), n = all.map();
  const bool first = c.factors != Factors::kSecond, second = c.factors != Factors::kFirst;
  double pairs = product(all.prefix, all.prefix + 2 * n);
  if (c.pattern == Pattern::kFixed) {
    const int64_t whole = std::min(stride, all.height) * std::min(stride, all.width);
    int64_t summaries = 0;
    for (const auto& [height, down] : cuts(all.height, stride))
      for (const auto& [width, across] : cuts(all.width, stride)) {
        const int64_t cells = height * width, summary = std::min(summary_of(c, whole), cells);
        summaries += down * across * summary;
        if (first) pairs += product(down * across * cells, cells - (second ? summary : 0));
      }
    return second ? pairs + product(n, summaries) : pairs;
  }
  if (!all.sequence()) {
    if (first) pairs += product(n, all.width);
    if (second) pairs += product(n, all.height);
  } else {
    if (first) pairs += band_pairs({.window = stride - 1}, n);
    const int64_t rows = n / stride, longer = n % stride;  // of the residue classes, and how many have one more
    if (second) pairs += product(longer * (rows + 1), rows + 1) + product((std::min(stride, n) - longer) * rows, rows);
  }
  return first && second ? pairs - static_cast<double>(n) : pairs;  // the token itself is in both factors
}

}  // namespace fovea
