#include <algorithm>
#include <cstring>
#include <type_traits>

#include "core/check.h"
#include "kernels/cpu/gemm.h"

namespace fovea {

namespace {

constexpr int64_t kBlockK = 1024;              // steps: longest run of k in one accumulator; part of the result's definition
constexpr int64_t kBlockABytes = 384 << 10;    // of A, to stay in the second-level cache beside two panels of B
constexpr int64_t kMaxBlockRows = 1024;
constexpr int64_t kMaxWidth = 32;              // of a panel
constexpr int64_t kSerialWork = 32 << 10;      // multiply-adds below which waking a thread costs more than it brings
constexpr int64_t kConflictBytes = 2048;       // rows so far apart, or a multiple of it, share a few sets of the first cache

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Elements between staged rows of `count`: an odd number of lines, so that consecutive rows fall into different cache sets.
int64_t padded(int64_t count) { return (ceil_div(count, 16) | 1) * 16; }

// The part of a range that block i of `blocks` gets.
struct Range {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};
Range share(Range r, int64_t i, int64_t blocks) {
  return {r.begin + r.size() * i / blocks, r.begin + r.size() * (i + 1) / blocks};
}

// What tiles multiply, and the operands' forms for it.
struct Forms {
  TileType tile = TileType::kF32;
  OperandForm a = OperandForm::kF32, b = OperandForm::kF32;
  bool integers = false;

  Forms(const GemmBackend& be, ProductType type) {
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
  int64_t steps(int64_t k) const { return ceil_div(k, elements_of_step(b)); }
  // Blocks of k; depends on k alone, so that the order of every sum does. A row of integers has one scale, and so one block.
  int64_t k_blocks(int64_t steps) const { return integers ? 1 : std::max<int64_t>(1, ceil_div(steps, kBlockK)); }
  Range k_block(int64_t steps, int64_t i) const {
    const int64_t step = round_up(ceil_div(steps, k_blocks(steps)), 4);
    return {std::min(steps, i * step), std::min(steps, (i + 1) * step)};
  }
};

struct Panels {
  int64_t n, lanes, width;
  Panels(const GemmBackend& be, int64_t columns) : n(columns), lanes(be.lanes), width(2 * be.lanes) {}
  int64_t count() const { return ceil_div(n, width); }
  int64_t columns(int64_t p) const { return std::min(width, n - p * width); }
  int vectors(int64_t p) const { return columns(p) > lanes ? 2 : 1; }
  int64_t packed_width(int64_t p) const { return vectors(p) * lanes; }
  int64_t packed_elements(int64_t steps) const { return steps * ((count() - 1) * width + packed_width(count() - 1)); }
  int64_t whole_columns() const { return count() * width; }
};

// One product with everything that its threads share.
struct Job {
  const GemmBackend& be;
  const GemmArgs& g;
  Forms forms;
  Panels panels;
  int64_t steps;              // of k
  int64_t blocks;             // of steps
  int64_t m_parts, n_parts;   // the threads' shares of c

  // B of blocks [first, last) of k: panel p starts at b + p * width * b_steps.
  const float* b = nullptr;
  int64_t b_steps = 0, b_begin = 0;
  const float* column_scale = nullptr;  // of integers
  const float* start = nullptr;         // int32, of tiles of integers

  AOrder order = AOrder::kRows;
  bool stage_a = false;
  int64_t block_tiles = 1, stage_elements = 0;
  float* stages = nullptr;    // stage_elements per part

  TileEnd end = {};           // of tiles of the last block of k
  bool finish = false;        // a tile's end is more than its kernel can do
  float* partial = nullptr;   // (m, panels * width): sums over the blocks of k so far, where c cannot hold them
  int64_t partial_stride = 0;
};

const float* as_floats(const void* p) { return static_cast<const float*>(p); }

// Rows and panels of each thread such that the largest share is small: first in arithmetic, then in what it must read.
void choose_parts(Job& job, int64_t threads) {
  const int64_t m = job.g.m, tile_rows = job.be.max_rows, panels = job.panels.count();
  job.m_parts = job.n_parts = 1;
  if (m * job.g.n * std::max<int64_t>(job.g.k, 1) < kSerialWork) return;
  constexpr int64_t kRowsPerTileStart = 2, kRowsPerRead = 8;  // costs in units of one row times one column
  int64_t best = -1;
  for (int64_t mp = 1; mp <= std::min(threads, ceil_div(m, 4)); ++mp) {
    const int64_t np = std::min(threads / mp, panels);
    const int64_t rows = ceil_div(m, mp), columns = std::min(job.g.n, ceil_div(panels, np) * job.panels.width);
    const int64_t cost =
        (rows + kRowsPerTileStart * ceil_div(rows, tile_rows)) * columns + kRowsPerRead * (rows + columns);
    if (best < 0 || cost < best) {
      best = cost;
      job.m_parts = mp;
      job.n_parts = np;
    }
  }
}

void choose_blocks(Job& job) {
  const GemmArgs& g = job.g;
  job.order = g.a_transposed ? AOrder::kColumns : AOrder::kRows;
  const int64_t k = job.forms.k_block(job.steps, 0).size();
  const int64_t rows = std::clamp(kBlockABytes / (4 * std::max<int64_t>(k, 1)), int64_t{4} * job.be.max_rows, kMaxBlockRows);
  job.block_tiles = rows / job.be.max_rows;
  // A is read as it stands where it is in the operand's form already.
  const bool ready = job.forms.a == OperandForm::kF32 || (job.forms.a == OperandForm::kBF16 && g.a_bf16 && g.k % 2 == 0 && g.a_stride % 2 == 0);
  const bool prologue = g.a_rows != nullptr || g.norm_mean != nullptr || !ready;
  // A copy pays when it is read more than once and either its lines would evict each other or each is on a page of its own.
  const bool reread = ceil_div(job.panels.count(), job.n_parts) > 1;
  const int64_t a_stride_bytes = g.a_stride * (g.a_bf16 ? 2 : 4);
  job.stage_a = prologue || (reread && (g.a_transposed || a_stride_bytes % kConflictBytes == 0));
  if (!job.stage_a) return;
  const int64_t block_rows = std::min(job.block_tiles * job.be.max_rows, round_up(g.m, job.be.max_rows));
  job.stage_elements = job.order == AOrder::kRows ? block_rows * padded(k) : k * padded(block_rows);
  // Behind it the rows' scales and a row before it is converted; a conversion writes up to a whole vector more than the row.
  if (job.forms.a != OperandForm::kF32) job.stage_elements += padded(block_rows) + padded(k * elements_of_step(job.forms.a)) + kMaxWidth;
}

// A's block (rows, k) and how a tile finds it.
struct ABlock {
  const float* data;
  int64_t row_step, stride;  // elements: between rows; as GemmTile::a_stride
  const float* scale = nullptr;  // (rows) of integers
};

ABlock a_block(const Job& job, Range rows, Range k, float* stage) {
  const GemmArgs& g = job.g;
  const float* a = as_floats(g.a);
  if (g.k == 0) return {nullptr, 0, 0};
  if (job.order == AOrder::kColumns) {
    const float* first = a + k.begin * g.a_stride + rows.begin;
    if (!job.stage_a) return {first, 1, g.a_stride};
    const int64_t stride = padded(rows.size());
    for (int64_t i = 0; i < k.size(); ++i)
      std::memcpy(stage + i * stride, first + i * g.a_stride, static_cast<size_t>(rows.size()) * sizeof(float));
    return {stage, 1, stride};
  }
  if (!job.stage_a) {
    const int64_t stride = g.a_bf16 ? g.a_stride / 2 : g.a_stride;  // in units of four bytes
    return {a + rows.begin * stride + k.begin, stride, stride};
  }
  const int64_t of_step = elements_of_step(job.forms.a), stride = padded(k.size());
  GemmStage s;
  s.form = job.forms.a;
  s.rows = rows.size();
  s.k_begin = k.begin * of_step;
  s.k = std::min(k.end * of_step, g.k) - s.k_begin;
  s.a = a;
  s.a_bf16 = g.a_bf16;
  s.a_stride = g.a_stride;
  s.first_row = rows.begin;
  s.index = g.a_rows;
  s.mean = as_floats(g.norm_mean);
  s.rstd = as_floats(g.norm_rstd);
  s.gamma = as_floats(g.norm_gamma);
  s.beta = as_floats(g.norm_beta);
  s.out = stage;
  s.out_stride = stride;
  float* behind = stage + rows.size() * stride + kMaxWidth;
  if (job.forms.integers) s.scale = behind;
  s.row = behind + padded(rows.size());
  job.be.stage(s);
  return {stage, stride, stride, s.scale};
}

// One panel of B against the tiles of a block of rows.
struct PanelTask {
  const Job& job;
  ABlock a;
  Range rows;          // of the product
  int64_t tiles;       // that they are cut into
  int64_t panel;
  Range k;
  bool first, last;    // block of k
  const float* b;
  const float* next_b; // the next panel, or null
};

// The end of a tile that its kernel cannot do: rows `r` of the product, whose sums are in `buffer`.
void finish_tile(const PanelTask& t, const GemmTile& tile, Range r, const float* buffer) {
  const Job& job = t.job;
  const GemmArgs& g = job.g;
  const int64_t column = t.panel * job.panels.width;
  float* c = static_cast<float*>(g.c) + column;
  GemmFinish f;
  if (job.forms.integers && job.forms.tile == TileType::kF32) {
    f.row_scale = tile.row_scale;
    f.column_scale = tile.column_scale;
    f.bias = tile.bias;
  }
  f.rows = r.size();
  f.columns = tile.columns;
  f.tile = buffer;
  f.tile_stride = kMaxWidth;
  if (g.pre_activation != nullptr) f.pre = static_cast<float*>(g.pre_activation) + r.begin * g.n + column;
  f.pre_stride = g.n;
  f.activation = g.activation;
  const int64_t c_row = g.c_rows == nullptr ? r.begin : 0;
  if (g.c_rows != nullptr) f.c_rows = g.c_rows + r.begin;
  f.c_bf16 = g.c_bf16;
  f.c = g.c_bf16 ? reinterpret_cast<float*>(static_cast<uint16_t*>(g.c) + column + c_row * g.c_stride) : c + c_row * g.c_stride;
  f.c_stride = g.c_stride;
  if (g.accumulate) {
    f.addend = f.c;
    f.addend_stride = g.c_stride;
  } else if (g.residual != nullptr) {
    f.addend = as_floats(g.residual) + column + c_row * g.residual_stride;
    f.addend_stride = g.residual_stride;
  }
  job.be.finish(f);
}

template <class T>
T* moved(T* p, int64_t bytes) {
  return p == nullptr ? p : reinterpret_cast<T*>(reinterpret_cast<std::conditional_t<std::is_const_v<T>, const char*, char*>>(p) + bytes);
}

// Short k leave little to hide behind, so a tile differs from the one before in addresses alone.
void run_panel(const PanelTask& t) {
  const Job& job = t.job;
  const GemmArgs& g = job.g;
  const int64_t columns = job.panels.columns(t.panel), column = t.panel * job.panels.width, row = t.rows.begin;
  alignas(64) static constexpr float kZeros[kMaxWidth] = {};
  alignas(64) float bias[kMaxWidth] = {}, buffer[kGemmMaxRows * kMaxWidth];
  if (t.first && g.bias != nullptr) std::memcpy(bias, as_floats(g.bias) + column, static_cast<size_t>(columns) * sizeof(float));
  GemmTile tile;
  tile.a = t.a.data;
  tile.a_stride = t.a.stride * 4;
  tile.b = t.b;
  tile.k = t.k.size();
  tile.start = bias;
  tile.columns = columns;
  if (job.forms.integers) {
    tile.start = job.start != nullptr ? job.start + column : kZeros;
    tile.row_scale = t.a.scale;
    tile.column_scale = job.column_scale + column;
    tile.bias = bias;
  }
  // Each tile asks for its share of the next panel, two lines at most per four steps of k.
  tile.prefetch = t.b;
  int64_t prefetch_left = 0, prefetch_bytes = 0;  // of the next panel; of a tile
  if (t.next_b != nullptr) {
    const int64_t bytes_per_step = round_up(16 * columns, 64);
    tile.prefetch = t.next_b;
    tile.prefetch_step = std::min<int64_t>(128, round_up(ceil_div(bytes_per_step, t.tiles), 64));
    prefetch_bytes = t.k.size() / 4 * tile.prefetch_step;
    prefetch_left = t.k.size() * 4 * job.panels.width;
  }
  float* c = static_cast<float*>(g.c) + column;
  float* sums = job.partial != nullptr ? job.partial + row * job.partial_stride + column : c + row * g.c_stride;
  const int64_t sums_stride = job.partial != nullptr ? job.partial_stride : g.c_stride;
  if (!t.first) {
    tile.addend = sums;
    tile.addend_stride = sums_stride * 4;
  } else if (!job.finish && (g.accumulate || g.residual != nullptr)) {
    tile.addend = g.accumulate ? c + row * g.c_stride : as_floats(g.residual) + row * g.residual_stride + column;
    tile.addend_stride = (g.accumulate ? g.c_stride : g.residual_stride) * 4;
  }
  const bool finish = job.finish && t.last;
  tile.c = finish ? buffer : sums;
  tile.c_stride = (finish ? kMaxWidth : sums_stride) * 4;
  if (t.last && job.end.bf16) {
    tile.c = reinterpret_cast<float*>(static_cast<uint16_t*>(g.c) + column + row * g.c_stride);
    tile.c_stride = g.c_stride * 2;
  }
  if (t.last && !finish && g.pre_activation != nullptr) {
    tile.pre = static_cast<float*>(g.pre_activation) + row * g.n + column;
    tile.pre_stride = g.n * 4;
  }

  const int64_t rows = t.rows.size() / t.tiles, taller = t.rows.size() % t.tiles;  // the first tiles have a row more
  const auto kernel_of = [&](int64_t height) {
    return job.be.kernel(static_cast<int>(height), job.panels.vectors(t.panel), job.order, job.forms.tile, t.last ? job.end : TileEnd());
  };
  const GemmTileKernel kernel = rows > 0 ? kernel_of(rows) : nullptr, taller_kernel = taller > 0 ? kernel_of(rows + 1) : nullptr;
  int64_t done = 0;
  for (int64_t i = 0; i < t.tiles; ++i) {
    tile.rows = rows + (i < taller);
    (i < taller ? taller_kernel : kernel)(&tile);
    if (finish) finish_tile(t, tile, {row + done, row + done + tile.rows}, buffer);
    done += tile.rows;
    tile.a = moved(tile.a, tile.rows * t.a.row_step * 4);
    if (!finish) tile.c = moved(tile.c, tile.rows * tile.c_stride);
    tile.addend = moved(tile.addend, tile.rows * tile.addend_stride);
    tile.pre = moved(tile.pre, tile.rows * tile.pre_stride);
    if (tile.row_scale != nullptr) tile.row_scale += tile.rows;
    if (prefetch_left > prefetch_bytes) {
      prefetch_left -= prefetch_bytes;
      tile.prefetch = static_cast<const char*>(tile.prefetch) + prefetch_bytes;
    } else {
      tile.prefetch = t.b;
      tile.prefetch_step = 0;
    }
  }
}

// Blocks [first, last) of k for one thread's share of c: blocks of rows whose A stays in the second-level cache, then k,
// then the panels of B, then the tiles of the block, so a panel is read from far once and from near for the other tiles.
void run_part(const Job& job, int64_t part, int64_t first, int64_t last) {
  const GemmArgs& g = job.g;
  const Range rows = share({0, g.m}, part / job.n_parts, job.m_parts);
  const Range panels = share({0, job.panels.count()}, part % job.n_parts, job.n_parts);
  const int64_t tiles = ceil_div(rows.size(), job.be.max_rows), row_blocks = ceil_div(tiles, job.block_tiles);
  float* stage = job.stage_a ? job.stages + part * job.stage_elements : nullptr;
  for (int64_t rb = 0; rb < row_blocks; ++rb) {
    const Range block_tiles = share({0, tiles}, rb, row_blocks);
    const Range block{share(rows, block_tiles.begin, tiles).begin, share(rows, block_tiles.end, tiles).begin};
    for (int64_t kb = first; kb < last; ++kb) {
      const Range k = job.forms.k_block(job.steps, kb);
      const ABlock a = a_block(job, block, k, stage);
      for (int64_t p = panels.begin; p < panels.end; ++p) {
        auto panel_data = [&](int64_t i) {
          return job.b + i * job.panels.width * job.b_steps + (k.begin - job.b_begin) * job.panels.packed_width(i);
        };
        run_panel({job, a, block, block_tiles.size(), p, k, kb == 0, kb + 1 == job.blocks, panel_data(p),
                   p + 1 < panels.end ? panel_data(p + 1) : nullptr});
      }
    }
  }
}

// Packs rows [k.begin, k.end) of b; panel p starts at out + p * width * k.size().
void pack_floats(const GemmBackend& be, const Panels& panels, Range k, const float* b, int64_t b_stride, bool b_transposed,
                 float* out, Context& ctx) {
  constexpr int64_t kChunk = 256;  // steps of k that one unit of work packs
  const int64_t chunks = ceil_div(k.size(), kChunk);
  auto unit = [&](int64_t i) {
    const int64_t p = i / chunks;
    const Range steps = share(k, i % chunks, chunks);
    GemmPack pack;
    pack.k = steps.size();
    pack.columns = panels.columns(p);
    pack.width = panels.packed_width(p);
    pack.b = b + (b_transposed ? p * panels.width * b_stride + steps.begin : steps.begin * b_stride + p * panels.width);
    pack.b_stride = b_stride;
    pack.b_transposed = b_transposed;
    pack.out = out + p * panels.width * k.size() + (steps.begin - k.begin) * pack.width;
    be.pack(pack);
  };
  const int64_t units = panels.count() * chunks;
  if (panels.n * k.size() < kSerialWork) {
    for (int64_t i = 0; i < units; ++i) unit(i);
  } else {
    ctx.pool().for_each(units, unit);
  }
}

void check_arguments(const GemmArgs& g) {
  check(g.k >= 0, "a matrix product with k = {}", g.k);
  check(!g.accumulate || (g.bias == nullptr && g.pre_activation == nullptr && g.residual == nullptr &&
                          g.activation == Activation::kNone),
        "a matrix product that accumulates has no bias, activation or residual");
  check(!g.a_transposed || (g.a_rows == nullptr && g.norm_mean == nullptr),
        "a matrix product with a transposed a gathers and normalises nothing");
  check(g.type == ProductType::kOwn || (g.b_packed != nullptr && !g.a_transposed && g.k > 0),
        "a product in bf16 or int8 needs packed weights and rows of a");
  check(!g.a_bf16 || (g.type != ProductType::kOwn && g.a_rows == nullptr && g.norm_mean == nullptr),
        "a matrix product reads a in bfloat16 as it is, and multiplies in bf16 or int8");
  check(!g.c_bf16 || (g.type != ProductType::kOwn && !g.accumulate && g.residual == nullptr),
        "a matrix product in bf16 or int8 alone writes bfloat16, and adds nothing to it");
  check((g.norm_mean == nullptr) == (g.norm_rstd == nullptr), "norm_mean and norm_rstd of a matrix product go together");
}

}  // namespace

void run_gemm(const GemmBackend& be, const GemmArgs& g, Context& ctx) {
  if (g.m <= 0 || g.n <= 0) return;
  check_arguments(g);
  Arena& scratch = ctx.scratch();
  const ArenaScope scope(scratch);
  const Forms forms(be, g.type);
  const int64_t steps = forms.steps(g.k);
  Job job{be, g, forms, Panels(be, g.n), steps, forms.k_blocks(steps), 1, 1};
  choose_parts(job, ctx.pool().threads());
  choose_blocks(job);
  const int64_t parts = job.m_parts * job.n_parts;
  if (job.stage_a) job.stages = scratch.take<float>(parts * job.stage_elements);
  // Kernels end tiles themselves where all of k is in them and rows stay where they are.
  const TileEnd end{g.activation, g.c_bf16};
  const bool plain_end = g.activation == Activation::kNone && !g.c_bf16 && g.pre_activation == nullptr;
  const bool scaled = !forms.integers || forms.tile == TileType::kInt8;
  const bool by_kernel = job.blocks == 1 && g.c_rows == nullptr && scaled && (g.pre_activation == nullptr || g.activation != Activation::kNone) &&
                         be.ends(job.order, forms.tile, end);
  if (by_kernel) job.end = end;
  job.finish = !by_kernel && (!plain_end || g.c_rows != nullptr || !scaled);
  if (job.finish && job.blocks > 1 && (g.c_rows != nullptr || g.residual != nullptr || g.c_bf16)) {
    job.partial_stride = job.panels.count() * job.panels.width;
    job.partial = scratch.take<float>(g.m * job.partial_stride);
  }
  auto run_blocks = [&](int64_t first, int64_t last) {
    if (parts == 1) return run_part(job, 0, first, last);
    ctx.pool().for_each(parts, [&](int64_t part) { run_part(job, part, first, last); });
  };
  if (g.b_packed != nullptr || g.k == 0) {
    job.b = as_floats(g.b_packed);
    job.b_steps = steps;
    if (forms.integers) {
      job.column_scale = job.b;
      if (forms.tile == TileType::kInt8) job.start = job.b + job.panels.whole_columns();
      job.b += 2 * job.panels.whole_columns();
    }
    return run_blocks(0, job.blocks);
  }
  float* b = scratch.take<float>(job.panels.packed_elements(forms.k_block(steps, 0).size()));
  for (int64_t kb = 0; kb < job.blocks; ++kb) {
    const Range k = forms.k_block(steps, kb);
    pack_floats(be, job.panels, k, as_floats(g.b), g.b_stride, g.b_transposed, b, ctx);
    job.b = b;
    job.b_steps = k.size();
    job.b_begin = k.begin;
    run_blocks(kb, kb + 1);
  }
}

size_t gemm_packed_size(const GemmBackend& be, ProductType type, int64_t k, int64_t n) {
  if (k <= 0 || n <= 0) return 0;
  const Forms forms(be, type);
  const Panels panels(be, n);
  return static_cast<size_t>(panels.packed_elements(forms.steps(k)) + (forms.integers ? 2 * panels.whole_columns() : 0)) * sizeof(float);
}

void run_gemm_pack(const GemmBackend& be, ProductType type, int64_t k, int64_t n, const float* b, int64_t b_stride, bool b_transposed,
                   float* packed, Context& ctx) {
  if (k <= 0 || n <= 0) return;
  const Forms forms(be, type);
  const Panels panels(be, n);
  if (type == ProductType::kOwn) return pack_floats(be, panels, {0, k}, b, b_stride, b_transposed, packed, ctx);
  const int64_t steps = forms.steps(k), scratch = panels.width * (steps + panels.lanes) + k + panels.lanes;
  float* data = packed;
  if (forms.integers) {
    data += 2 * panels.whole_columns();
    std::memset(packed, 0, static_cast<size_t>(2 * panels.whole_columns()) * sizeof(float));
  }
  const ArenaScope scope(ctx.scratch());
  float* memory = ctx.scratch().take<float>(scratch * ctx.pool().threads());
  ctx.pool().for_ranges(panels.count(), [&](int64_t first, int64_t last, int thread) {
    for (int64_t p = first; p < last; ++p) {
      GemmPack pack;
      pack.form = forms.b;
      pack.k = k;
      pack.columns = panels.columns(p);
      pack.width = panels.packed_width(p);
      pack.b = b + (b_transposed ? p * panels.width * b_stride : p * panels.width);
      pack.b_stride = b_stride;
      pack.b_transposed = b_transposed;
      pack.out = data + p * panels.width * steps;
      pack.columns_scratch = memory + thread * scratch;
      if (forms.integers) {
        pack.column_scale = packed + p * panels.width;
        pack.start = reinterpret_cast<int32_t*>(packed + panels.whole_columns() + p * panels.width);
      }
      be.pack(pack);
    }
  });
}

}  // namespace fovea
