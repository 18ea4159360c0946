#include "blocks/patch_merging.h"

namespace fovea {

namespace {

struct MergingRecord {
  TokenGrid grid;
};

// The four rows of each new token, in the order (row, column) (0,0), (1,0), (0,1), (1,1); -1 outside the map.
const std::vector<int32_t>& merging_index(const TokenGrid& g, Context& ctx) {
  return ctx.cached<std::vector<int32_t>>(fmt::format("merging {} {}x{}", g.batch, g.height, g.width), [&] {
    std::vector<int32_t> index;
    for (int64_t b = 0; b < g.batch; ++b)
      for (int64_t y = 0; y < g.height; y += 2)
        for (int64_t x = 0; x < g.width; x += 2)
          for (int64_t dx = 0; dx < 2; ++dx)
            for (int64_t dy = 0; dy < 2; ++dy)
              index.push_back(y + dy < g.height && x + dx < g.width
                                  ? static_cast<int32_t>((b * g.height + y + dy) * g.width + x + dx)
                                  : -1);
    return index;
  });
}

}  // namespace

PatchMerging::PatchMerging(const Scope& scope, int64_t dim, double norm_epsilon, MergingNorm placement)
    : dim_(dim),
      placement_(placement),
      norm_(scope / "norm", (placement == MergingNorm::kBefore ? 4 : 2) * dim, norm_epsilon),
      reduction_(scope / "reduction", 4 * dim, 2 * dim, Bias::kNo) {}

TokenGrid PatchMerging::merged(const TokenGrid& g) { return {g.batch, 0, (g.height + 1) / 2, (g.width + 1) / 2}; }

void PatchMerging::forward(ConstTensor x, const TokenGrid& grid, Tensor y, Tape* tape, Context& ctx) const {
  require(grid.prefix == 0, "patch merging has no place for prefix tokens");
  ArenaScope scope(ctx.scratch());
  const TokenGrid to = merged(grid);
  const Tensor joined = ctx.activation(Shape{to.batch, to.tokens(), 4 * dim_}, tape);
  ctx.kernels().gather_rows(4 * to.batch * to.tokens(), dim_, x.data, merging_index(grid, ctx).data(), joined.data, ctx);
  const bool before = placement_ == MergingNorm::kBefore;
  if (before && !tape) {
    LinearFusion fusion;
    fusion.norm = &norm_;
    return reduction_.apply(joined, y, fusion, ctx);
  }
  const Tensor middle = ctx.activation(before ? joined.shape : y.shape, tape);
  if (before) {
    norm_.forward(joined, middle, tape, ctx);
    reduction_.forward(middle, y, tape, ctx);
  } else {
    reduction_.forward(joined, middle, tape, ctx);
    norm_.forward(middle, y, tape, ctx);
  }
  if (tape) tape->push(MergingRecord{grid});
}

void PatchMerging::backward(ConstTensor dy, Tensor dx, Tape& tape, Context& ctx) const {
  const auto r = tape.pop<MergingRecord>();
  ArenaScope scope(ctx.scratch());
  const TokenGrid to = merged(r.grid);
  const Tensor d = ctx.scratch().take(Shape{to.batch, to.tokens(), 4 * dim_}, ctx.dtype());
  if (placement_ == MergingNorm::kBefore) {
    reduction_.backward(dy, d, Accumulate::kNo, tape, ctx);
    norm_.backward(d, d, Accumulate::kNo, tape, ctx);
  } else {
    const Tensor middle = ctx.scratch().take(dy.shape, ctx.dtype());
    norm_.backward(dy, middle, Accumulate::kNo, tape, ctx);
    reduction_.backward(middle, d, Accumulate::kNo, tape, ctx);
  }
  dx.zero();
  ctx.kernels().scatter_add_rows(4 * to.batch * to.tokens(), dim_, d.data, merging_index(r.grid, ctx).data(), dx.data, ctx);
}

double PatchMerging::flops(const TokenGrid& grid) const {
  const TokenGrid to = merged(grid);
  return 2.0 * static_cast<double>(to.batch * to.tokens()) * static_cast<double>(8 * dim_ * dim_);
}

}  // namespace fovea
