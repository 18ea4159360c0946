#include "kernels/cpu/gemm_plan.h"

#include "kernels/cpu/native_rows.h"

namespace fovea::gemm_plan {

namespace {

// Longest block of k, in steps; part of the result's definition. Sums over tokens (transposed A) are long and C is small: short blocks
// keep those of A and B in the caches.
constexpr int64_t kBlockK = 1024, kBlockKTransposed = 256;
// Of A, to stay in the second-level cache beside two panels of B and, where it is read as it comes, beside the next block.
constexpr int64_t kBlockABytes = 448 << 10, kBlockABytesTransposed = 256 << 10;
constexpr int64_t kMaxBlockRows = 1024;
// Of packed panels, beside A in the second-level cache; where A must be staged again for each group, it pays to read them from farther.
constexpr int64_t kGroupBytes = 384 << 10, kGroupBytesStaged = 2048 << 10;
constexpr int64_t kConflictBytes = 4096;  // rows so far apart, or a multiple of it, share one set of the first cache
constexpr int64_t kPackSteps = 128;       // that are packed at a time

}  // namespace

Forms::Forms(const GemmBackend& be, ProductType type, bool a_transposed) : longest(a_transposed ? kBlockKTransposed : kBlockK) {
  if (type == ProductType::kBF16) {
    if (be.has(TileType::kBF16)) tile = TileType::kBF16;
    a = b = tile == TileType::kBF16 ? OperandForm::kBF16 : OperandForm::kBF16Float;
  } else if (type == ProductType::kInt8) {
    integers = true;
    if (be.has(TileType::kInt8)) tile = TileType::kInt8;
    a = tile == TileType::kInt8 ? OperandForm::kUint8 : OperandForm::kInt8Float;
    b = tile == TileType::kInt8 ? OperandForm::kInt8 : OperandForm::kInt8Float;
  }
}

Job::Job(const GemmBackend& backend, const GemmArgs& args, int64_t threads)
    : be(backend),
      g(args),
      forms(backend, args.type, args.a_transposed),
      panels(backend, forms, args.n),
      steps(forms.steps(args.k)),
      blocks(forms.k_blocks(steps)),
      order(args.a_transposed ? AOrder::kColumns : AOrder::kRows) {
  choose_parts(threads);
  choose_a();
  choose_b();
}

// Rows and panels of each thread such that the largest share is small: first in arithmetic, then in what it must read.
void Job::choose_parts(int64_t threads) {
  if (g.m * g.n * std::max<int64_t>(g.k, 1) < kSerialWork) return;
  // Costs in units of one row times one column: of the start of a tile, of a row or column that is read, of a row that is staged and of a
  // column that is packed, which weigh more the faster the product itself is.
  constexpr int64_t kRowsPerTileStart = 2, kRowsPerRead = 8;
  const bool floats = forms.tile == TileType::kF32;
  const int64_t columns_per_stage = !converts_a() ? 0 : floats ? 16 : forms.tile == TileType::kBF16 ? 32 : 64;
  const int64_t rows_per_pack = g.b_packed != nullptr ? 0 : floats ? 8 : 32;
  int64_t best = -1;
  for (int64_t mp = 1; mp <= std::min(threads, ceil_div(g.m, 4)); ++mp) {
    const int64_t np = std::min(threads / mp, panels.count());
    const int64_t rows = ceil_div(g.m, mp), columns = std::min(g.n, ceil_div(panels.count(), np) * panels.width);
    const int64_t cost =
        (rows + kRowsPerTileStart * ceil_div(rows, be.max_rows)) * columns + kRowsPerRead * (rows + columns) +
        columns_per_stage * rows + rows_per_pack * columns;
    if (best < 0 || cost < best) {
      best = cost;
      m_parts = mp;
      n_parts = np;
    }
  }
}

// A is read as it stands where it is in the operand's form already.
bool Job::converts_a() const {
  const int64_t of_step = elements_of_step(forms.a);
  const bool in_form = (forms.a == OperandForm::kBF16 && g.a_bf16) || (forms.a == OperandForm::kUint8 && g.a_uint8);
  const bool whole_steps = order == AOrder::kRows && g.k % of_step == 0 && g.a_stride % of_step == 0;
  return g.a_rows != nullptr || g.norm_gamma != nullptr || !(forms.a == OperandForm::kF32 || (in_form && whole_steps));
}

void Job::choose_a() {
  const int64_t k = forms.k_block(steps, 0).size(), bytes = order == AOrder::kRows ? kBlockABytes : kBlockABytesTransposed;
  block_tiles = std::clamp(bytes / (4 * std::max<int64_t>(k, 1)), int64_t{4} * be.max_rows, kMaxBlockRows) / be.max_rows;
  // A copy pays when it is read more than once and its lines would evict each other.
  const bool reread = ceil_div(panels.count(), n_parts) > 1;
  stage_a = converts_a() || (reread && g.a_stride * a_element(g) % kConflictBytes == 0);
  if (!stage_a) return;
  const int64_t block_rows = std::min(block_tiles * be.max_rows, round_up(g.m, be.max_rows));
  stage_elements = order == AOrder::kRows ? block_rows * padded(k) : k * padded(block_rows);
  // Behind it the rows' scales and rows before they are converted; a conversion writes up to a whole vector more than the row.
  if (forms.a != OperandForm::kF32) stage_elements += padded(block_rows) + native_rows_kept(k * elements_of_step(forms.a)) * padded(k * elements_of_step(forms.a)) + kMaxWidth;
}

void Job::choose_b() {
  pack_in_parts = g.b_packed == nullptr && g.k > 0;
  if (!pack_in_parts) return;
  const int64_t of_panel = forms.k_block(steps, 0).size() * panels.width;
  keep_panels = ceil_div(ceil_div(g.m, m_parts), be.max_rows) > block_tiles;
  group_panels = 1;
  if (keep_panels)
    group_panels = std::clamp<int64_t>((stage_a ? kGroupBytesStaged : kGroupBytes) / (4 * of_panel), 1, ceil_div(panels.count(), n_parts));
  part_elements = of_panel * group_panels + pack_scratch();
}

int64_t Job::pack_scratch() const {
  return forms.b == OperandForm::kF32 || !g.b_transposed ? 0 : panels.width * (kPackSteps + panels.lanes);
}

void pack_panel(const Job& job, int64_t p, Range steps, float* out, float* scratch) {
  const GemmArgs& g = job.g;
  const int64_t of_step = job.forms.of_step(), column = p * job.panels.width;
  GemmPack pack;
  pack.form = job.forms.b;
  pack.columns = job.panels.columns(p);
  pack.width = job.panels.packed_width(p);
  pack.b_stride = g.b_stride;
  pack.b_transposed = g.b_transposed;
  pack.b_bf16 = g.b_bf16;
  pack.columns_scratch = scratch;
  const int64_t step = g.b_transposed ? kPackSteps : steps.size();
  for (int64_t begin = steps.begin; begin < steps.end; begin += step) {
    const int64_t end = std::min(steps.end, begin + step), k = begin * of_step, offset = g.b_transposed ? column * g.b_stride + k : k * g.b_stride + column;
    pack.k = std::min(end * of_step, g.k) - k;
    pack.b = g.b_bf16 ? reinterpret_cast<const float*>(static_cast<const uint16_t*>(g.b) + offset) : static_cast<const float*>(g.b) + offset;
    pack.out = out + (begin - steps.begin) * pack.width;
    job.be.pack(pack);
  }
}

}  // namespace fovea::gemm_plan
