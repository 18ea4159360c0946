// How the driver cuts a product: blocks of k, panels of B, the threads' shares of C and the blocks of A's rows.
#pragma once

#include <algorithm>

#include "kernels/cpu/gemm.h"

namespace fovea::gemm_plan {

constexpr int64_t kMaxWidth = 32;              // of a panel
constexpr int64_t kSerialWork = 32 << 10;      // multiply-adds below which waking a thread costs more than it brings

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Elements between staged rows of `count`: an odd number of lines, so that consecutive rows fall into different cache sets.
constexpr int64_t padded(int64_t count) { return (ceil_div(count, 16) | 1) * 16; }

// The part of a range that block i of `blocks` gets.
struct Range {
  int64_t begin = 0, end = 0;
  constexpr int64_t size() const { return end - begin; }
};
constexpr Range share(Range r, int64_t i, int64_t blocks) {
  return {r.begin + r.size() * i / blocks, r.begin + r.size() * (i + 1) / blocks};
}

// Bytes of an element of A as it is stored.
constexpr int64_t a_element(const GemmArgs& g) { return g.a_uint8 ? 1 : g.a_bf16 ? 2 : 4; }

// What tiles multiply, and the operands' forms for it.
struct Forms {
  TileType tile = TileType::kF32;
  OperandForm a = OperandForm::kF32, b = OperandForm::kF32;
  bool integers = false;
  int64_t longest = 0;  // block of k in steps

  Forms(const GemmBackend& be, ProductType type, bool a_transposed);
  int64_t of_step() const { return elements_of_step(b); }
  int64_t steps(int64_t k) const { return ceil_div(k, of_step()); }
  // Blocks of k; depends on k alone, so that the order of every sum does. A row of integers has one scale, and so one block.
  int64_t k_blocks(int64_t steps) const { return integers ? 1 : std::max<int64_t>(1, ceil_div(steps, longest)); }
  Range k_block(int64_t steps, int64_t i) const {
    const int64_t step = round_up(ceil_div(steps, k_blocks(steps)), 4);
    return {std::min(steps, i * step), std::min(steps, (i + 1) * step)};
  }
};

// Columns of B, and how they are packed.
struct Panels {
  int64_t n, lanes, width;
  int64_t header;  // of a packed panel, in elements: scales and start values of integers
  Panels(const GemmBackend& be, const Forms& forms, int64_t columns) : n(columns), lanes(be.lanes), width(2 * be.lanes), header(forms.integers ? 2 * width : 0) {}
  int64_t count() const { return ceil_div(n, width); }
  int64_t columns(int64_t p) const { return std::min(width, n - p * width); }
  int vectors(int64_t p) const { return columns(p) > lanes ? 2 : 1; }
  int64_t packed_width(int64_t p) const { return vectors(p) * lanes; }
  int64_t packed_stride(int64_t steps) const { return header + steps * width; }  // between panels of all steps
  int64_t packed_elements(int64_t steps) const { return (count() - 1) * packed_stride(steps) + header + steps * packed_width(count() - 1); }
  int64_t whole_columns() const { return count() * width; }
};

// One product with everything that its threads share.
struct Job {
  const GemmBackend& be;
  const GemmArgs& g;
  Forms forms;
  Panels panels;
  int64_t steps;   // of k
  int64_t blocks;  // of steps
  AOrder order;
  int64_t m_parts = 1, n_parts = 1;  // the threads' shares of c

  // A: rows come in blocks, so many tiles each, that stay in the second-level cache.
  bool stage_a = false;
  int64_t block_tiles = 1, stage_elements = 0;
  float* stages = nullptr;  // stage_elements per part

  // B: packed before, or each part packs its panels, group by group.
  bool pack_in_parts = false, keep_panels = false;  // the latter: a group's, for the other blocks of rows
  int64_t group_panels = 1;
  int64_t part_elements = 0;   // of packed panels, and scratch for packing
  float* part_memory = nullptr;
  const float* b = nullptr;    // packed before

  TileEnd end = {};           // of tiles of the last block of k
  bool finish = false;        // a tile's end is more than its kernel can do
  float* partial = nullptr;   // (m, panels * width): sums over the blocks of k so far, where c cannot hold them
  int64_t partial_stride = 0;

  Job(const GemmBackend&, const GemmArgs&, int64_t threads);
  int64_t parts() const { return m_parts * n_parts; }
  Range part_rows(int64_t part) const { return share({0, g.m}, part / n_parts, m_parts); }
  Range part_panels(int64_t part) const { return share({0, panels.count()}, part % n_parts, n_parts); }
  int64_t pack_scratch() const;  // floats

 private:
  bool converts_a() const;
  void choose_parts(int64_t threads);
  void choose_a();
  void choose_b();
};

// Steps `steps` of panel p of an unpacked B into out (steps, packed width); `scratch` of Job::pack_scratch().
void pack_panel(const Job&, int64_t p, Range steps, float* out, float* scratch);

}  // namespace fovea::gemm_plan
