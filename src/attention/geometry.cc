#include "attention/geometry.h"

namespace fovea {

std::vector<PairPattern> AttentionGeometry::pattern(const TokenGrid&, bool) const {
  check(false, "a geometry that is no plain pattern was asked for one");
  return {};
}

std::vector<std::string> AttentionGeometry::unsupported(const TokenGrid&) const { return {}; }

void AttentionGeometry::position(const AttentionInputs&, Tensor, Context&) const {
  check(false, "a geometry that adds places does not say what they are");
}

void AttentionGeometry::score_bias(const AttentionInputs&, const TokenGroups&, Tensor, Context&) const {
  check(false, "a geometry with a score bias does not say what it is");
}

void AttentionGeometry::score_bias_backward(const AttentionInputs&, const TokenGroups&, ConstTensor, Context&) const {
  check(false, "a geometry with a score bias does not say how its gradient goes back");
}

void add_prefix_queries(TokenGroups& g, int64_t prefix, int64_t tokens, bool labelled) {
  if (prefix == 0) return;
  g.begin_group(-1, -1);
  g.add_query_run({0, 1, static_cast<int32_t>(prefix)});
  g.add_key_run({0, 1, static_cast<int32_t>(tokens)});
  g.end_group();
  if (!labelled) return;
  g.query_labels.insert(g.query_labels.end(), static_cast<size_t>(prefix), kAnyLabel);
  g.key_labels.insert(g.key_labels.end(), static_cast<size_t>(tokens), kAnyLabel);
}

void add_prefix_keys(TokenGroups& g, int64_t prefix) {
  Run run{0, 1, static_cast<int32_t>(prefix)};
  run.free = true;
  g.add_key_run(run);
}

void add_prefix_terms(PairPattern& pattern, int64_t prefix, int64_t tokens) {
  if (prefix == 0) return;
  pattern.terms.push_back(PairTerm::keys(first_rows(tokens, prefix)));
  pattern.terms.push_back(PairTerm::queries(first_rows(tokens, prefix)));
}

}  // namespace fovea
