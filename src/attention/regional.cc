#include "attention/regional.h"

#include <algorithm>
#include <cmath>

#include "attention/registry.h"
#include "core/convert.h"

namespace fovea {

namespace {

constexpr double kTwoPi = 2 * 3.1415;  // as published, so that models trained so agree

// What depends on the occupied cells is built in each call; all layers of a context share the memory.
struct RegionMemory {
  Regions regions;
  std::vector<int32_t> order;
  TokenGroups groups;
};

// Position tables by cell, in the context's number type.
struct PlaceTable {
  Buffer memory;
  Tensor table;  // (cells, C)
};

}  // namespace

std::vector<double> region_positions(const RegionalConfig& config, int64_t channels) {
  const RegionConfig& w = config.region;
  const int64_t axes = w.window_z > 1 ? 3 : 2, length = channels / axes;
  std::vector<double> table(static_cast<size_t>(cells_of_window(w) * channels), 0);
  double* row = table.data();
  for (int64_t z = 0; z < w.window_z; ++z)
    for (int64_t y = 0; y < w.window_h; ++y)
      for (int64_t x = 0; x < w.window_w; ++x, row += channels) {
        const int64_t at[] = {x, y, z}, size[] = {w.window_w, w.window_h, w.window_z};
        for (int64_t axis = 0; axis < axes; ++axis) {
          double place = static_cast<double>(at[axis]) - static_cast<double>(size[axis]) / 2;
          if (config.normalise) place *= kTwoPi / static_cast<double>(size[axis]);
          for (int64_t i = 0; i < length; ++i) {
            const double frequency = std::pow(config.temperature, -static_cast<double>(i / 2 * 2) / static_cast<double>(length));
            row[axis * length + i] = i % 2 == 0 ? std::sin(place * frequency) : std::cos(place * frequency);
          }
        }
      }
  return table;
}

RegionalGeometry::RegionalGeometry(const AttentionConfig& config, const RegionalConfig& regional)
    : regional_(regional), dim_(config.dim), cross_(config.cross) {
  const RegionConfig& r = regional.region;
  require(r.window_z > 0 && r.window_h > 0 && r.window_w > 0, "a {}x{}x{} window has no cells", r.window_z, r.window_h, r.window_w);
  require(regional.temperature > 0, "regional attention: the temperature {} is not positive", regional.temperature);
}

std::string RegionalGeometry::key(const TokenGrid& grid) const {
  const RegionConfig& r = regional_.region;
  return fmt::format("{} {}x{} of {}x{}x{} {}", grid.prefix, grid.height, grid.width, r.window_z, r.window_h, r.window_w, r.shifted);
}

std::vector<std::string> RegionalGeometry::unsupported(const TokenGrid& grid) const {
  std::vector<std::string> reasons;
  if (cross_) reasons.push_back("regions have no second input");
  if (grid.batch > 0 && !grid.cells && (grid.height == 0 || grid.width == 0)) reasons.push_back("the map is empty");
  if (grid.cells && (grid.batch != 1 || grid.prefix != 0 || grid.tokens() != grid.cells->count))
    reasons.push_back(fmt::format("{} occupied cells are one batch element of as many tokens, without prefix", grid.cells->count));
  return reasons;
}

const Regions& RegionalGeometry::regions(const TokenGrid& grid, Context& ctx) const {
  if (grid.cells) {
    Regions& r = ctx.reusable<RegionMemory>().regions;
    find_regions(grid, regional_.region, r);
    return r;
  }
  return ctx.cached<Regions>("regions " + key(grid), [&] {
    Regions r;
    find_regions(grid, regional_.region, r);
    return r;
  });
}

const TokenGroups& RegionalGeometry::groups(const AttentionInputs& in, Context& ctx) const {
  require(!in.causal, "regional attention has no causal order");
  const Regions& r = regions(in.grid, ctx);
  if (in.grid.cells) {
    RegionMemory& memory = ctx.reusable<RegionMemory>();
    build_region_groups(in.grid, r, memory.order, memory.groups);
    return memory.groups;
  }
  return ctx.cached<TokenGroups>("region groups " + key(in.grid), [&] {
    std::vector<int32_t> order;
    TokenGroups g;
    build_region_groups(in.grid, r, order, g);
    return g;
  });
}

double RegionalGeometry::pairs(const TokenGrid& grid) const {
  const auto prefix = static_cast<double>(grid.prefix);
  return prefix * static_cast<double>(2 * grid.tokens() - grid.prefix) + region_pairs(grid, regional_.region);
}

void RegionalGeometry::position(const AttentionInputs& in, Tensor p, Context& ctx) const {
  const RegionConfig& r = regional_.region;
  const Tensor& table = ctx.cached<PlaceTable>(
      fmt::format("region positions {} of {}x{}x{} {} {}", dim_, r.window_z, r.window_h, r.window_w, regional_.normalise, regional_.temperature), [&] {
        const std::vector<double> values = region_positions(regional_, dim_);
        PlaceTable t;
        t.memory = Buffer(values.size() * size_of(ctx.dtype()));
        t.table = {t.memory.data(), Shape{cells_of_window(r), dim_}, ctx.dtype()};
        for (size_t i = 0; i < values.size(); ++i) store_scalar(t.table, static_cast<int64_t>(i), values[i]);
        return t;
      }).table;
  const Regions& at = regions(in.grid, ctx);
  const int64_t prefix = in.grid.prefix;
  Tensor(p.slice(0, prefix)).zero();  // prefix tokens have no place
  ctx.kernels().gather_rows(std::ssize(at.cell), dim_, table.data, at.cell.data(), p.slice(prefix, std::ssize(at.cell)).data, ctx);
}

AttentionKind regional_attention_kind() {
  AttentionKind k;
  k.name = "regional";
  k.summary = "tokens of a window meet with their place in it, however many there are; windows move by half in every second block (SST)";
  k.paper = "Fan et al. 2021, arXiv:2112.06375";
  k.cost = "O(sum of n_w^2 C + N C^2), n_w tokens in window w";
  k.options = {{"window", "12", "window, H or HxW, in tokens"},
               {"depth", "1", "cells of a window in depth, for tokens of a 3-D grid"},
               {"cosine", "no", "yes: scores are cosines times a learned temperature for each head, as window_v2 has them"},
               {"normalise", "no", "yes: places from -pi to pi instead of cells from the window's centre"},
               {"temperature", "10000", "of the sinusoids' frequencies"}};
  k.traits.prefix = true;
  k.no_union_reason = "it adds places to what queries and keys are projected from, which the parts of one softmax share";
  k.make = [](const Scope& scope, const AttentionConfig& config, const AttentionOptions& o) -> std::unique_ptr<Attention> {
    RegionalConfig r;
    std::tie(r.region.window_h, r.region.window_w) = o.size("window");
    r.region.window_z = o.integer("depth");
    r.region.shifted = config.block % 2 == 1;
    r.normalise = o.choice("normalise", {"no", "yes"}) == "yes";
    r.temperature = o.real("temperature");
    AttentionConfig c = config;
    if (o.choice("cosine", {"no", "yes"}) == "yes") {
      require(!c.qk_norm, "attention option cosine: q and k have length one, so qk_norm has no place");
      c.cosine = true;
    }
    return std::make_unique<RegionalAttention>(scope, c, r);
  };
  return k;
}

}  // namespace fovea
