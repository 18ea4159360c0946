#include "attention/global.h"

#include "attention/registry.h"

namespace fovea {

namespace {

TokenGroups everybody_meets(int64_t queries, int64_t first_key, int64_t keys, bool causal) {
  TokenGroups g;
  g.begin_group();
  g.add_query_run({0, 1, static_cast<int32_t>(queries)});
  g.add_key_run({static_cast<int32_t>(first_key), 1, static_cast<int32_t>(keys - first_key)});
  g.end_group();
  g.only_rule().causal = causal;
  g.keys_disjoint = true;
  g.finish();
  return g;
}

}  // namespace

const TokenGroups& GlobalGeometry::groups(const AttentionInputs& in, Context& ctx) const {
  const int64_t queries = in.grid.tokens(), keys = in.key_input.empty() ? queries : in.key_input.dim(1);
  return ctx.cached<TokenGroups>(fmt::format("global {} {} {} {}", queries, first_key_, keys, in.causal),
                                 [&] { return everybody_meets(queries, first_key_, keys, in.causal); });
}

std::vector<PairPattern> GlobalGeometry::pattern(const TokenGrid&, bool causal) const { return {{{PairTerm::all(causal)}}}; }

double GlobalGeometry::pairs(const TokenGrid& grid) const {
  return static_cast<double>(grid.tokens()) * static_cast<double>(grid.tokens());
}

AttentionKind global_attention_kind() {
  AttentionKind k;
  k.name = "global";
  k.summary = "every token meets every token";
  k.paper = "Vaswani et al. 2017, arXiv:1706.03762; ViT: Dosovitskiy et al. 2020, arXiv:2010.11929";
  k.cost = "O(N^2 C + N C^2)";
  k.traits.causal = k.traits.cross = k.traits.mask = k.traits.prefix = true;
  k.make_geometry = [](const Scope&, const AttentionConfig&, const AttentionOptions&,
                       GeometryUse) -> std::unique_ptr<const AttentionGeometry> { return std::make_unique<GlobalGeometry>(); };
  return k;
}

}  // namespace fovea
