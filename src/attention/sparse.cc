#include "attention/sparse.h"

#include "attention/registry.h"

namespace fovea {

namespace {

SparseTokens tokens_of(const TokenGrid& grid, bool causal) { return {grid.prefix, grid.height, grid.width, causal}; }

}  // namespace

const TokenGroups& SparseGeometry::groups(const AttentionInputs& in, Context& ctx) const {
  const TokenGrid& g = in.grid;
  return ctx.cached<TokenGroups>(
      fmt::format("sparse {} {} {} {} {} on {} {}x{} {}", static_cast<int>(config_.pattern), static_cast<int>(config_.factors), config_.stride,
                  config_.summary, config_.verticals, g.prefix, g.height, g.width, in.causal),
      [&] { return sparse_groups(config_, tokens_of(g, in.causal)); });
}

std::vector<PairPattern> SparseGeometry::pattern(const TokenGrid& grid, bool causal) const {
  return sparse_pattern(config_, tokens_of(grid, causal));
}

double SparseGeometry::pairs(const TokenGrid& grid) const { return sparse_pairs(config_, tokens_of(grid, false)); }

std::vector<std::string> SparseGeometry::unsupported(const TokenGrid& grid) const {
  std::vector<std::string> reasons;
  if (cross_) reasons.push_back("sparse attention has no second input");
  if (grid.batch > 0 && (grid.height == 0 || grid.width == 0)) reasons.push_back("the map is empty");
  return reasons;
}

AttentionKind sparse_attention_kind() {
  AttentionKind k;
  k.name = "sparse";
  k.summary = "two factors of global attention: near tokens and strided ones; rows and columns, or blocks and summaries, on maps";
  k.paper = "Child et al. 2019, arXiv:1904.10509";
  k.cost = "O(N sqrt(N) C + N C^2)";
  k.options = {{"pattern", "strided", "strided, fixed; or one factor alone: local, strided_only, fixed_local, fixed_summary"},
               {"mode", "merged", "both factors in one softmax (merged), on even and odd heads (heads), or on even and odd blocks (alternate)"},
               {"stride", "0", "l, in tokens (side of the blocks on maps); 0: about the square root of the tokens"},
               {"summary", "0", "rows of a block that all later blocks see (fixed); 0: an eighth of the block"},
               {"verticals", "1", "so many heads in turn take summaries of their own (fixed)"}};
  k.traits.causal = k.traits.mask = k.traits.prefix = true;
  k.make_geometry = [](const Scope&, const AttentionConfig& config, const AttentionOptions& o,
                       GeometryUse) -> std::unique_ptr<const AttentionGeometry> {
    using Pattern = SparseConfig::Pattern;
    using Factors = SparseConfig::Factors;
    SparseConfig s;
    const std::string pattern = o.choice("pattern", {"strided", "fixed", "local", "strided_only", "fixed_local", "fixed_summary"});
    s.pattern = pattern.rfind("fixed", 0) == 0 ? Pattern::kFixed : Pattern::kStrided;
    const std::string mode = o.choice("mode", {"merged", "heads", "alternate"});
    if (mode == "heads") s.factors = Factors::kHeads;
    if (mode == "alternate") s.factors = config.block % 2 == 0 ? Factors::kFirst : Factors::kSecond;
    if (pattern == "local" || pattern == "fixed_local") s.factors = Factors::kFirst;
    if (pattern == "strided_only" || pattern == "fixed_summary") s.factors = Factors::kSecond;
    s.stride = o.integer("stride");
    s.summary = o.integer("summary");
    s.verticals = o.integer("verticals");
    require(s.stride >= 0 && s.summary >= 0 && s.verticals > 0, "sparse attention: stride={}, summary={} and verticals={} are no negative numbers",
            s.stride, s.summary, s.verticals);
    require(s.verticals <= config.heads, "sparse attention: verticals={} is more than the {} heads", s.verticals, config.heads);
    require(s.factors != Factors::kHeads || config.heads > 1, "sparse attention: mode=heads gives each head one factor and needs two heads at least");
    return std::make_unique<SparseGeometry>(s, config.cross);
  };
  return k;
}

}  // namespace fovea
