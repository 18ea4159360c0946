// B packed before its products.
#include <cstring>

#include "kernels/cpu/gemm_plan.h"

namespace fovea {

namespace {

using namespace gemm_plan;  // NOLINT: one driver, several files

// Packs steps [k.begin, k.end) of b.
void pack_all(const Job& job, Range k, float* out, Context& ctx) {
  constexpr int64_t kChunk = 256;  // steps of k that one unit of work packs
  const int64_t chunks = ceil_div(k.size(), kChunk), units = job.panels.count() * chunks, scratch = job.pack_scratch();
  const bool alone = job.panels.n * k.size() < kSerialWork;
  const ArenaScope scope(ctx.scratch());
  float* memory = ctx.scratch().take<float>(scratch * (alone ? 1 : ctx.pool().threads()));
  const auto range = [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t p = i / chunks;
      const Range part = share(k, i % chunks, chunks);
      pack_panel(job, p, part, out + p * job.panels.packed_stride(k.size()) + (part.begin - k.begin) * job.panels.packed_width(p), memory + thread * scratch);
    }
  };
  if (alone)
    range(0, units, 0);
  else
    ctx.pool().for_ranges(units, range);
}

}  // namespace

size_t gemm_packed_size(const GemmBackend& be, ProductType type, int64_t k, int64_t n) {
  if (k <= 0 || n <= 0) return 0;
  const Forms forms(be, type, false);
  return static_cast<size_t>(Panels(be, forms, n).packed_elements(forms.steps(k))) * sizeof(float);
}

void run_gemm_pack(const GemmBackend& be, ProductType type, int64_t k, int64_t n, const float* b, int64_t b_stride, bool b_transposed,
                   float* packed, Context& ctx) {
  if (k <= 0 || n <= 0) return;
  GemmArgs g;
  g.n = n;
  g.k = k;
  g.b = b;
  g.b_stride = b_stride;
  g.b_transposed = b_transposed;
  g.type = type;
  const Job job(be, g, 1);
  if (!job.forms.integers) return pack_all(job, {0, job.steps}, packed, ctx);
  // A column has one scale.
  const Panels& panels = job.panels;
  const int64_t scratch = panels.width * (job.steps + panels.lanes) + k + panels.lanes;
  const ArenaScope scope(ctx.scratch());
  float* memory = ctx.scratch().take<float>(scratch * ctx.pool().threads());
  ctx.pool().for_ranges(panels.count(), [&](int64_t first, int64_t last, int thread) {
    for (int64_t p = first; p < last; ++p) {
      float* header = packed + p * panels.packed_stride(job.steps);
      std::memset(header, 0, static_cast<size_t>(panels.header) * sizeof(float));
      GemmPack pack;
      pack.form = job.forms.b;
      pack.k = k;
      pack.columns = panels.columns(p);
      pack.width = panels.packed_width(p);
      pack.b = b + (b_transposed ? p * panels.width * b_stride : p * panels.width);
      pack.b_stride = b_stride;
      pack.b_transposed = b_transposed;
      pack.out = header + panels.header;
      pack.columns_scratch = memory + thread * scratch;
      pack.column_scale = header;
      pack.start = reinterpret_cast<int32_t*>(header + panels.width);
      be.pack(pack);
    }
  });
}

}  // namespace fovea
