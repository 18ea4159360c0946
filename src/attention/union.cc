#include "attention/union.h"

#include <algorithm>
#include <utility>

namespace fovea {

namespace {

// Copies a part's groups of one head behind those of a union.
class PartCopy {
 public:
  PartCopy(const TokenGroups& from, TokenGroups& to, bool labelled, bool biased)
      : from_(from), to_(to), labelled_(labelled), biased_(biased), first_term_(static_cast<int32_t>(to.terms.size())) {
    to_.terms.insert(to_.terms.end(), from_.terms.begin(), from_.terms.end());
  }

  // `excluded`: terms of the union's that earlier parts have in this head.
  void copy(int64_t head, const std::vector<int32_t>& excluded, int32_t first_bias) {
    // Rules of this head: the part's own, then none, each with the exclusions.
    const auto first_rule = static_cast<int32_t>(to_.rules.size());
    for (size_t r = 0; r <= from_.rules.size(); ++r) {
      PairRule rule = r < from_.rules.size() ? from_.rules[r] : PairRule();
      for (PairRule::Exclusion& e : rule.exclusions) e.term += first_term_;
      for (const int32_t term : excluded) rule.exclusions.push_back({term, true});
      to_.rules.push_back(std::move(rule));
    }
    const auto none = static_cast<int32_t>(from_.rules.size());
    const TokenGroups::Range& range = from_.range(0, head);
    for (int32_t g = range.begin; g < range.end; ++g) {
      const TokenGroups::Group& group = from_.groups[static_cast<size_t>(g)];
      to_.begin_group(first_rule + (group.rule >= 0 && group.rule < none ? group.rule : none),
                      biased_ && group.bias >= 0 ? first_bias + group.bias : -1);
      for (int32_t r = group.query_runs; r < group.query_runs_end; ++r) to_.add_query_run(from_.runs[static_cast<size_t>(r)]);
      for (int32_t r = group.key_runs; r < group.key_runs_end; ++r) {
        check(from_.runs[static_cast<size_t>(r)].source != RowSource::kMemory, "a part of a union has memory rows");
        to_.add_key_run(from_.runs[static_cast<size_t>(r)]);
      }
      to_.end_group();
      if (labelled_) copy_labels(group);
    }
  }

 private:
  void copy_labels(const TokenGroups::Group& group) {
    const auto add = [](std::vector<int32_t>& to, const std::vector<int32_t>& from, int64_t first, int32_t count) {
      if (from.empty())
        to.insert(to.end(), static_cast<size_t>(count), kAnyLabel);
      else
        to.insert(to.end(), from.begin() + first, from.begin() + first + count);
    };
    add(to_.query_labels, from_.query_labels, group.query_slot, group.queries);
    add(to_.key_labels, from_.key_labels, group.key_slot, group.keys);
  }

  const TokenGroups& from_;
  TokenGroups& to_;
  bool labelled_, biased_;
  int32_t first_term_;
};

// Sets of pairs in all of them.
int64_t terms_of(const std::vector<PairPattern>& patterns) {
  int64_t terms = 0;
  for (const PairPattern& p : patterns) terms += std::ssize(p.terms);
  return std::max<int64_t>(terms, 1);
}

}  // namespace

UnionGeometry::UnionGeometry(std::string key, int64_t heads, std::vector<Part> parts)
    : key_(std::move(key)), heads_(heads), parts_(std::move(parts)) {
  check(parts_.size() >= 2, "a union of {} parts", parts_.size());
  std::stable_partition(parts_.begin(), parts_.end(), [](const Part& p) { return p.geometry->has_score_bias(); });
}

const TokenGroups& UnionGeometry::groups(const AttentionInputs& in, Context& ctx) const {
  require(in.key_input.empty() && in.value_input.empty(), "a union has no second input");
  return ctx.cached<TokenGroups>(
      fmt::format("union {} {} {}x{} {}", key_, in.grid.prefix, in.grid.height, in.grid.width, in.causal),
      [&] { return merged(in, ctx); });
}

TokenGroups UnionGeometry::merged(const AttentionInputs& in, Context& ctx) const {
  TokenGroups u;
  u.reduction = Reduction::kMergeLse;
  std::vector<const TokenGroups*> own;
  std::vector<std::vector<PairPattern>> patterns;
  bool labelled = false, per_head = false;
  for (const Part& p : parts_) {
    const TokenGroups& g = p.geometry->groups(in, ctx);
    check(g.batches == 1 && (g.reduction == Reduction::kAssign || g.reduction == Reduction::kMergeLse),
          "{} is no plain pattern, and part of a union", p.name);
    own.push_back(&g);
    patterns.push_back(p.geometry->pattern(in.grid, in.causal));
    labelled = labelled || !g.query_labels.empty();
    per_head = per_head || g.heads > 1 || patterns.back().size() > 1;
  }
  // Terms of the patterns that a later part may have to exclude, one behind the other: [part][pattern].
  std::vector<std::vector<std::vector<int32_t>>> terms(parts_.size());
  for (size_t p = 0; p + 1 < parts_.size(); ++p)
    for (PairPattern& pattern : patterns[p]) {
      std::vector<int32_t>& indices = terms[p].emplace_back();
      for (PairTerm& term : pattern.terms) {
        indices.push_back(static_cast<int32_t>(u.terms.size()));
        u.terms.push_back(std::move(term));
      }
    }
  std::vector<PartCopy> copies;
  copies.reserve(parts_.size());
  for (size_t p = 0; p < parts_.size(); ++p) copies.emplace_back(*own[p], u, labelled, parts_[p].geometry->has_score_bias());
  u.heads = per_head ? heads_ : 1;
  for (int64_t h = 0; h < u.heads; ++h) {
    TokenGroups::Range range;
    range.begin = static_cast<int32_t>(u.groups.size());
    std::vector<int32_t> excluded;
    int32_t first_bias = 0;
    for (size_t p = 0; p < parts_.size(); ++p) {
      copies[p].copy(h, excluded, first_bias);
      if (parts_[p].geometry->has_score_bias()) first_bias += static_cast<int32_t>(own[p]->biases.size());
      if (terms[p].empty()) continue;
      const auto& more = terms[p][static_cast<size_t>(h) % terms[p].size()];
      excluded.insert(excluded.end(), more.begin(), more.end());
    }
    range.end = static_cast<int32_t>(u.groups.size());
    u.ranges.push_back(range);
  }
  u.finish();
  return u;
}

std::vector<PairPattern> UnionGeometry::pattern(const TokenGrid& grid, bool causal) const {
  std::vector<std::vector<PairPattern>> own;
  size_t size = 1;
  for (const Part& p : parts_) {
    own.push_back(p.geometry->pattern(grid, causal));
    if (own.back().size() > 1) size = static_cast<size_t>(heads_);
  }
  std::vector<PairPattern> all(size);
  for (size_t h = 0; h < size; ++h)
    for (const auto& patterns : own) {
      const auto& terms = patterns[h % patterns.size()].terms;
      all[h].terms.insert(all[h].terms.end(), terms.begin(), terms.end());
    }
  return all;
}

double UnionGeometry::pairs(const TokenGrid& grid) const {
  constexpr int64_t kMostRows = 256, kMostTests = int64_t{1} << 24;
  const int64_t tokens = grid.tokens(), map = tokens - grid.prefix;
  if (tokens == 0) return 0;
  const auto patterns = pattern(grid, false);
  const int64_t rows = std::min(map, std::clamp<int64_t>(kMostTests / (tokens * terms_of(patterns)), 1, kMostRows));
  double met = 0;
  for (const PairPattern& p : patterns) {
    const auto keys_of = [&](int64_t row) {
      int64_t keys = 0;
      for (int64_t k = 0; k < tokens; ++k) keys += p.contains(row, k) ? 1 : 0;
      return static_cast<double>(keys);
    };
    double of_map = 0;
    for (int64_t r = 0; r < rows; ++r) of_map += keys_of(grid.prefix + (2 * r + 1) * map / (2 * rows));
    if (map > 0) met += of_map * static_cast<double>(map) / static_cast<double>(rows);
    if (grid.prefix > 0) met += keys_of(0) * static_cast<double>(grid.prefix);  // prefix tokens are alike
  }
  return met / static_cast<double>(patterns.size());
}

std::vector<std::string> UnionGeometry::unsupported(const TokenGrid& grid) const {
  std::vector<std::string> reasons;
  for (const Part& p : parts_)
    for (const std::string& reason : p.geometry->unsupported(grid)) reasons.push_back(fmt::format("{}: {}", p.name, reason));
  // The patterns hold a number of each token for each of their terms. How many those are does not depend on the map's size.
  constexpr int64_t kMostLabels = int64_t{1} << 25;
  const int64_t terms = terms_of(pattern({1, grid.prefix, std::clamp<int64_t>(grid.height, 1, 2), std::clamp<int64_t>(grid.width, 1, 2)}, false));
  if (reasons.empty() && grid.tokens() > kMostLabels / terms)
    reasons.push_back(fmt::format("a union tells {} sets of pairs apart here, and so takes {} tokens at most, not {}", terms, kMostLabels / terms, grid.tokens()));
  return reasons;
}

bool UnionGeometry::keys_share_projection() const {
  return std::all_of(parts_.begin(), parts_.end(), [](const Part& p) { return p.geometry->keys_share_projection(); });
}

bool UnionGeometry::has_score_bias() const {
  return std::any_of(parts_.begin(), parts_.end(), [](const Part& p) { return p.geometry->has_score_bias(); });
}

template <class F>
void UnionGeometry::for_each_bias(const AttentionInputs& in, Context& ctx, F&& f) const {
  int64_t first = 0;
  for (const Part& p : parts_) {
    if (!p.geometry->has_score_bias()) continue;
    const TokenGroups& own = p.geometry->groups(in, ctx);
    const int64_t elements = heads_ * own.bias_elements();
    f(*p.geometry, own, first, elements);
    first += elements;
  }
}

void UnionGeometry::score_bias(const AttentionInputs& in, const TokenGroups& groups, Tensor bias, Context& ctx) const {
  check(bias.elements() == heads_ * groups.bias_elements(), "a union's bias of {} elements", bias.elements());
  for_each_bias(in, ctx, [&](const AttentionGeometry& part, const TokenGroups& own, int64_t first, int64_t elements) {
    part.score_bias(in, own, bias.slice(first, elements), ctx);
  });
}

double UnionGeometry::score_bias_flops(const TokenGrid& grid) const {
  double sum = 0;
  for (const Part& p : parts_) sum += p.geometry->score_bias_flops(grid);
  return sum;
}

// Each table's gradient goes back through the part that it belongs to.
void UnionGeometry::score_bias_backward(const AttentionInputs& in, const TokenGroups&, ConstTensor dbias, Context& ctx) const {
  for_each_bias(in, ctx, [&](const AttentionGeometry& part, const TokenGroups& own, int64_t first, int64_t elements) {
    part.score_bias_backward(in, own, dbias.slice(first, elements), ctx);
  });
}

}  // namespace fovea
