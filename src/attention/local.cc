#include "attention/local.h"

#include <algorithm>

#include "attention/registry.h"

namespace fovea {

const TokenGroups& LocalGeometry::groups(const AttentionInputs& in, Context& ctx) const {
  const int64_t length = in.grid.height * in.grid.width;
  return ctx.cached<TokenGroups>(fmt::format("local {} {} {} {} {} on {} {} {}", config_.window, config_.back, config_.forward, config_.exact,
                                             config_.self_penalty, in.grid.prefix, length, in.causal),
                                 [&] { return local_groups(config_, in.grid.prefix, length, in.causal); });
}

std::vector<PairPattern> LocalGeometry::pattern(const TokenGrid& grid, bool causal) const {
  check(config_.self_penalty == 0, "a pattern has no penalties");
  const int64_t first = causal ? 0 : grid.prefix, tokens = grid.tokens(), step = config_.exact ? 1 : config_.window;
  std::vector<int32_t> labels(static_cast<size_t>(tokens), -1);
  for (int64_t i = first; i < tokens; ++i) labels[static_cast<size_t>(i)] = static_cast<int32_t>((i - first) / step);
  // Exact reach is counted in rows, otherwise in blocks.
  const auto reach = [&](int64_t blocks) {
    const int64_t most = tokens / config_.window + 1, window = std::min(config_.window, tokens);
    return static_cast<int32_t>(std::min(blocks, most) * (config_.exact ? window : 1));
  };
  PairPattern p;
  p.terms.push_back(PairTerm::labels(std::move(labels), {}, -reach(config_.back), reach(config_.forward), causal));
  add_prefix_terms(p, first, tokens);
  return {p};
}

double LocalGeometry::pairs(const TokenGrid& grid) const { return local_pairs(config_, grid.prefix, grid.height * grid.width); }

std::vector<std::string> LocalGeometry::unsupported(const TokenGrid& grid) const {
  std::vector<std::string> reasons;
  if (cross_) reasons.push_back("local attention has no second input");
  if (grid.batch > 0 && (grid.height == 0 || grid.width == 0)) reasons.push_back("the map is empty");
  return reasons;
}

AttentionKind local_attention_kind() {
  AttentionKind k;
  k.name = "local";
  k.summary = "blocks of the sequence (row-major on maps) see themselves and their neighbours";
  k.paper = "Parmar et al. 2018, arXiv:1802.05751; as in Roy et al. 2020, arXiv:2003.05997, and lucidrains' local-attention";
  k.cost = "O(N w C + N C^2), w keys in a block and its neighbours";
  k.options = {{"window", "49", "tokens of a block"},
               {"back", "1", "blocks before the own one that are seen"},
               {"forward", "1", "blocks behind it; none under causal order"},
               {"exact", "no", "yes: every token sees as far, back * window tokens before and forward * window behind it"}};
  k.traits.causal = k.traits.mask = k.traits.prefix = true;
  k.make_geometry = [](const Scope&, const AttentionConfig& config, const AttentionOptions& o,
                       GeometryUse) -> std::unique_ptr<const AttentionGeometry> {
    LocalConfig l;
    l.window = o.integer("window");
    l.back = o.integer("back");
    l.forward = o.integer("forward");
    l.exact = o.choice("exact", {"no", "yes"}) == "yes";
    require(l.window > 0 && l.back >= 0 && l.forward >= 0, "local attention: a window of {} with {} blocks before and {} behind it", l.window,
            l.back, l.forward);
    return std::make_unique<LocalGeometry>(l, config.cross);
  };
  return k;
}

}  // namespace fovea
