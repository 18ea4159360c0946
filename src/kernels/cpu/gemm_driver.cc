#include <algorithm>
#include <cstring>
#include <type_traits>

#include "core/check.h"
#include "kernels/cpu/gemm_plan.h"

namespace fovea {

namespace {

using namespace gemm_plan;  // NOLINT: one driver, several files

const float* as_floats(const void* p) { return static_cast<const float*>(p); }

// Memory that will be read soon, which tiles bring to the second-level cache meanwhile: `rows` pieces of `row_bytes`, cut into strips of
// kPrefetchLines. A tile asks for one strip of as many rows as it has fours of steps.
class Ahead {
 public:
  Ahead() = default;
  Ahead(const void* first, int64_t rows, int64_t row_bytes, int64_t stride, int64_t tile_steps)
      : strip_(static_cast<const char*>(first)), at_(strip_), stride_(stride) {
    if (stride == row_bytes) {  // one piece
      rows = ceil_div(rows * row_bytes, kStripBytes);
      row_bytes = stride_ = kStripBytes;
    }
    const int64_t of_tile = std::max<int64_t>(1, tile_steps / 4);
    strips_ = ceil_div(row_bytes, kStripBytes);
    left_ = of_strip_ = ceil_div(rows, of_tile);
    tile_bytes_ = of_tile * stride_;
    if (rows <= 0) strips_ = 0;
  }
  bool give(GemmTile& tile) {
    if (strips_ == 0) return false;
    tile.prefetch = at_;
    tile.prefetch_step = stride_;
    at_ += tile_bytes_;
    if (--left_ == 0) {
      at_ = strip_ += kStripBytes;
      left_ = of_strip_;
      --strips_;
    }
    return true;
  }

 private:
  static constexpr int64_t kStripBytes = 64 * kPrefetchLines;
  const char *strip_ = nullptr, *at_ = nullptr;
  int64_t stride_ = 0, strips_ = 0, of_strip_ = 0, left_ = 0, tile_bytes_ = 0;  // left_, of_strip_: tiles
};

// A's block (rows, k) and how a tile finds it.
struct ABlock {
  const float* data;
  int64_t row_step, stride;  // elements: between rows; as GemmTile::a_stride
  const float* scale = nullptr;  // (rows) of integers
};

// Such a block of a transposed A as rows over k.
GemmPack columns_of(const Job& job, Range rows, Range k) {
  const GemmArgs& g = job.g;
  const int64_t first = k.begin * job.forms.of_step(), offset = first * g.a_stride + rows.begin;
  GemmPack p;
  p.form = job.forms.a;
  p.k = std::min(k.end * job.forms.of_step(), g.k) - first;
  p.columns = rows.size();
  p.b = g.a_bf16 ? reinterpret_cast<const float*>(static_cast<const uint16_t*>(g.a) + offset) : as_floats(g.a) + offset;
  p.b_stride = g.a_stride;
  p.b_bf16 = g.a_bf16;
  return p;
}

// With `sums` (m) not null sums of a transposed A over k are added to it.
ABlock a_block(const Job& job, Range rows, Range k, float* sums, float* stage) {
  const GemmArgs& g = job.g;
  const float* a = as_floats(g.a);
  if (g.k == 0) return {nullptr, 0, 0};
  if (job.order == AOrder::kColumns) {
    GemmPack columns = columns_of(job, rows, k);
    if (sums != nullptr) columns.sums = sums + rows.begin;
    const bool in_pairs = job.forms.a == OperandForm::kBF16;
    if (sums != nullptr && !in_pairs) job.be.add_rows(columns);
    if (!job.stage_a) return {a + k.begin * g.a_stride + rows.begin, 1, g.a_stride};
    columns.width = padded(rows.size());
    columns.out = stage;
    job.be.pack(columns);
    return {stage, 1, columns.width};
  }
  if (!job.stage_a) {
    const int64_t stride = g.a_stride * a_element(g) / 4;  // in units of four bytes
    return {a + rows.begin * stride + k.begin, stride, stride, g.a_uint8 ? as_floats(g.a_scale) + rows.begin : nullptr};
  }
  const int64_t of_step = elements_of_step(job.forms.a), stride = padded(k.size());
  GemmStage s;
  s.form = job.forms.a;
  s.rows = rows.size();
  s.k_begin = k.begin * of_step;
  s.k = std::min(k.end * of_step, g.k) - s.k_begin;
  s.a = a;
  s.a_bf16 = g.a_bf16;
  s.a_uint8 = g.a_uint8;
  s.a_scale = as_floats(g.a_scale);
  s.a_stride = g.a_stride;
  s.first_row = rows.begin;
  s.index = g.a_rows;
  s.mean = as_floats(g.norm_mean);
  s.rstd = as_floats(g.norm_rstd);
  s.gamma = as_floats(g.norm_gamma);
  s.beta = as_floats(g.norm_beta);
  s.row_k = g.k;
  s.epsilon = static_cast<float>(g.norm_epsilon);
  s.out = stage;
  s.out_stride = stride;
  float* behind = stage + rows.size() * stride + kMaxWidth;
  if (job.forms.integers) s.scale = behind;
  s.row = behind + padded(rows.size());
  job.be.stage(s);
  return {stage, stride, stride, s.scale};
}

// The memory of such a block.
Ahead a_ahead(const Job& job, Range rows, Range k, int64_t tile_steps) {
  const GemmArgs& g = job.g;
  if (g.a_rows != nullptr || g.k == 0) return {};
  const int64_t element = a_element(g);
  const Range elements{k.begin * job.forms.of_step(), std::min(k.end * job.forms.of_step(), g.k)};
  const Range &outer = g.a_transposed ? elements : rows, &inner = g.a_transposed ? rows : elements;
  return {static_cast<const char*>(g.a) + (outer.begin * g.a_stride + inner.begin) * element, outer.size(), inner.size() * element,
          g.a_stride * element, tile_steps};
}

// Steps k of panel p as they stand in an unpacked B.
Ahead b_ahead(const Job& job, int64_t p, Range k, int64_t tile_steps) {
  const GemmArgs& g = job.g;
  const int64_t element = g.b_bf16 ? 2 : 4, column = p * job.panels.width;
  const Range elements{k.begin * job.forms.of_step(), std::min(k.end * job.forms.of_step(), g.k)}, columns{column, column + job.panels.columns(p)};
  const Range &outer = g.b_transposed ? columns : elements, &inner = g.b_transposed ? elements : columns;
  return {static_cast<const char*>(g.b) + (outer.begin * g.b_stride + inner.begin) * element, outer.size(), inner.size() * element,
          g.b_stride * element, tile_steps};
}

// Steps k of a packed panel, which begin at `data`, and what stands before them.
Ahead packed_ahead(const Panels& panels, const float* data, int64_t p, Range k, int64_t tile_steps) {
  const int64_t bytes = (panels.header + k.size() * panels.packed_width(p)) * 4;
  return {data - panels.header, 1, bytes, bytes, tile_steps};
}

// The first panel of the next product's weights that this part will multiply, if that is shared out as this one is.
Ahead next_weights_ahead(const Job& job, int64_t part, int64_t tile_steps) {
  const PackedMatrix& w = job.g.next;
  if (w.data == nullptr) return {};
  const Forms forms(job.be, w.type, false);
  const Panels panels(job.be, forms, w.n);
  const int64_t steps = forms.steps(w.k), p = share({0, panels.count()}, part % job.n_parts, job.n_parts).begin;
  return packed_ahead(panels, as_floats(w.data) + p * panels.packed_stride(steps) + panels.header, p, forms.k_block(steps, 0), tile_steps);
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
  Ahead next_b;        // the next panel
  Ahead& next_a;       // the next block of A
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
void run_panel(PanelTask& t) {
  const Job& job = t.job;
  const GemmArgs& g = job.g;
  const int64_t columns = job.panels.columns(t.panel), column = t.panel * job.panels.width, row = t.rows.begin;
  alignas(64) static constexpr float kZeros[kMaxWidth] = {};
  alignas(64) float last_bias[kMaxWidth], buffer[kGemmMaxRows * kMaxWidth];
  const float* bias = kZeros;
  if (t.first && g.bias != nullptr) {
    bias = as_floats(g.bias) + column;
    if (columns < job.panels.width) {
      std::fill_n(std::copy_n(bias, columns, last_bias), kMaxWidth - columns, 0.0f);
      bias = last_bias;
    }
  }
  GemmTile tile;
  tile.a = t.a.data;
  tile.a_stride = t.a.stride * 4;
  tile.b = t.b;
  tile.k = t.k.size();
  tile.run = g.fine_sums ? kFineSumRun : kSumRun;
  tile.start = bias;
  tile.columns = columns;
  if (job.forms.integers) {
    tile.column_scale = t.b - job.panels.header;
    tile.start = job.forms.tile == TileType::kInt8 ? tile.column_scale + job.panels.width : kZeros;
    tile.row_scale = t.a.scale;
    tile.bias = bias;
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
    if (!t.next_b.give(tile) && !t.next_a.give(tile)) {
      tile.prefetch = t.b;
      tile.prefetch_step = 0;
    }
    (i < taller ? taller_kernel : kernel)(&tile);
    if (finish) finish_tile(t, tile, {row + done, row + done + tile.rows}, buffer);
    done += tile.rows;
    tile.a = moved(tile.a, tile.rows * t.a.row_step * 4);
    if (!finish) tile.c = moved(tile.c, tile.rows * tile.c_stride);
    tile.addend = moved(tile.addend, tile.rows * tile.addend_stride);
    tile.pre = moved(tile.pre, tile.rows * tile.pre_stride);
    if (tile.row_scale != nullptr) tile.row_scale += tile.rows;
  }
}

// The order in which a part goes over its blocks. Panels packed before: blocks of rows, whose A stays in the second-level cache, then
// blocks of k, with all panels each. Panels that the part packs itself: blocks of k, groups of panels, whose packed form stays there
// beside A, then blocks of rows; so each panel is packed once.
struct Walk {
  const Job& job;
  Range rows, panels;
  int64_t tiles, row_blocks, groups;

  Walk(const Job& j, int64_t part)
      : job(j),
        rows(j.part_rows(part)),
        panels(j.part_panels(part)),
        tiles(ceil_div(rows.size(), j.be.max_rows)),
        row_blocks(ceil_div(tiles, j.block_tiles)),
        groups(j.keep_panels ? ceil_div(panels.size(), j.group_panels) : 1) {}
  int64_t count() const { return job.blocks * groups * row_blocks; }

  struct Block {
    int64_t k_index, tiles;
    Range k, rows, panels;
    bool packs;
  };
  Block operator[](int64_t i) const {
    const int64_t rb = job.pack_in_parts ? i % row_blocks : i / job.blocks, group = i / row_blocks % groups;
    Block b;
    b.k_index = job.pack_in_parts ? i / (row_blocks * groups) : i % job.blocks;
    b.k = job.forms.k_block(job.steps, b.k_index);
    const Range of = share({0, tiles}, rb, row_blocks);
    b.tiles = of.size();
    b.rows = {share(rows, of.begin, tiles).begin, share(rows, of.end, tiles).begin};
    b.panels = job.pack_in_parts ? share(panels, group, groups) : panels;
    b.packs = job.pack_in_parts && rb == 0;
    return b;
  }
};

// One thread's share of c. Tiles are innermost, so a panel is read from far once and from near for the other tiles.
void run_part(const Job& job, int64_t part) {
  const Walk walk(job, part);
  float* stage = job.stage_a ? job.stages + part * job.stage_elements : nullptr;
  float* packed = job.pack_in_parts ? job.part_memory + part * job.part_elements : nullptr;
  const auto data = [&](const Walk::Block& block, int64_t p) {
    if (job.pack_in_parts) return static_cast<const float*>(packed) + (job.keep_panels ? (p - block.panels.begin) * job.panels.width * block.k.size() : 0);
    return job.b + p * job.panels.packed_stride(job.steps) + job.panels.header + block.k.begin * job.panels.packed_width(p);
  };
  const auto ahead = [&](const Walk::Block& block, int64_t p, int64_t tile_steps) {
    return block.packs ? b_ahead(job, p, block.k, tile_steps) : packed_ahead(job.panels, data(block, p), p, block.k, tile_steps);
  };
  for (int64_t i = 0; i < walk.count(); ++i) {
    const bool more = i + 1 < walk.count();
    const Walk::Block block = walk[i], next = walk[more ? i + 1 : i];
    const int64_t steps = block.k.size();
    float* sums = block.panels.begin == 0 && block.k.size() > 0 ? static_cast<float*>(job.g.a_sums) : nullptr;
    const ABlock a = a_block(job, block.rows, block.k, sums, stage);
    Ahead next_a = more ? a_ahead(job, next.rows, next.k, steps) : Ahead();
    for (int64_t p = block.panels.begin; p < block.panels.end; ++p) {
      if (block.packs) pack_panel(job, p, block.k, packed + (data(block, p) - packed), packed + job.part_elements - job.pack_scratch());
      const Ahead next_b = p + 1 < block.panels.end ? ahead(block, p + 1, steps) : more ? ahead(next, next.panels.begin, steps) : next_weights_ahead(job, part, steps);
      PanelTask task{job, a, block.rows, block.tiles, p, block.k, block.k_index == 0, block.k_index + 1 == job.blocks, data(block, p), next_b, next_a};
      run_panel(task);
    }
  }
}

void check_arguments(const GemmArgs& g) {
  check(g.k >= 0, "a matrix product with k = {}", g.k);
  check(!g.accumulate || (g.bias == nullptr && g.pre_activation == nullptr && g.residual == nullptr &&
                          g.activation == Activation::kNone),
        "a matrix product that accumulates has no bias, activation or residual");
  check(!g.a_transposed || (g.a_rows == nullptr && g.norm_gamma == nullptr),
        "a matrix product with a transposed a gathers and normalises nothing");
  check(g.type != ProductType::kInt8 || (g.b_packed != nullptr && !g.a_transposed && g.k > 0),
        "a product in int8 needs packed weights and rows of a");
  check(!g.b_bf16 || (g.type == ProductType::kBF16 && !g.b_transposed), "a matrix product in bf16 alone reads b in bfloat16, as rows");
  check(!g.a_bf16 || (g.type != ProductType::kOwn && g.a_rows == nullptr && g.norm_gamma == nullptr),
        "a matrix product reads a in bfloat16 as it is, and multiplies in bf16 or int8");
  check(!g.a_uint8 || (g.type == ProductType::kInt8 && g.a_scale != nullptr && !g.a_bf16 && g.norm_gamma == nullptr),
        "a matrix product reads bytes, which have scales, as they are, and multiplies in int8");
  check(!g.c_bf16 || (g.type != ProductType::kOwn && !g.accumulate && g.residual == nullptr),
        "a matrix product in bf16 or int8 alone writes bfloat16, and adds nothing to it");
  check(g.a_sums == nullptr || g.a_transposed, "a matrix product sums a over k where a is transposed");
  check((g.norm_mean == nullptr) == (g.norm_rstd == nullptr), "norm_mean and norm_rstd of a matrix product go together");
  check((g.norm_gamma == nullptr) == (g.norm_beta == nullptr) && (g.norm_mean == nullptr || g.norm_gamma != nullptr),
        "the norm of a matrix product has a gamma and a beta");
}

}  // namespace

void run_gemm(const GemmBackend& be, const GemmArgs& g, Context& ctx) {
  if (g.m <= 0 || g.n <= 0) return;
  check_arguments(g);
  Arena& scratch = ctx.scratch();
  const ArenaScope scope(scratch);
  Job job(be, g, ctx.pool().threads());
  if (job.stage_a) job.stages = scratch.take<float>(job.parts() * job.stage_elements);
  if (job.pack_in_parts) job.part_memory = scratch.take<float>(job.parts() * job.part_elements);
  // Kernels end tiles themselves where all of k is in them and rows stay where they are.
  const TileEnd end{g.activation, g.c_bf16};
  const bool plain_end = g.activation == Activation::kNone && !g.c_bf16 && g.pre_activation == nullptr;
  const bool scaled = !job.forms.integers || job.forms.tile == TileType::kInt8;
  const bool by_kernel = job.blocks == 1 && g.c_rows == nullptr && scaled && (g.pre_activation == nullptr || g.activation != Activation::kNone) &&
                         (g.residual == nullptr || g.activation == Activation::kNone) &&
                         be.ends(job.order, job.forms.tile, end);
  if (by_kernel) job.end = end;
  job.finish = !by_kernel && (!plain_end || g.c_rows != nullptr || !scaled);
  if (job.finish && job.blocks > 1 && (g.c_rows != nullptr || g.residual != nullptr || g.c_bf16)) {
    job.partial_stride = job.panels.whole_columns();
    job.partial = scratch.take<float>(g.m * job.partial_stride);
  }
  job.b = as_floats(g.b_packed);
  if (job.parts() == 1) return run_part(job, 0);
  ctx.pool().for_each(job.parts(), [&](int64_t part) { run_part(job, part); });
}

}  // namespace fovea
