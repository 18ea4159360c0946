// A table of relative position biases, learned for one window, at the offsets of another: Swin's checkpoints at other sizes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/context.h"

namespace fovea {

enum class TableResampling : uint8_t {
  kCrop,       // an offset keeps its row: exact for a model that was trained so, and only for smaller windows
  kBicubic,    // plain cubic convolution, a = -0.75, half-pixel centres (Microsoft's and mmdet's code)
  kGeometric,  // linear between offsets that stand apart in a geometric progression (timm.layers.resize_rel_pos_bias_table; BEiT)
};

// Windows, in tokens, that a table is for and at whose offsets it is wanted.
struct TableSizes {
  int64_t from_h = 1, from_w = 1, to_h = 1, to_w = 1;
  bool equal() const { return from_h == to_h && from_w == to_w; }
  int64_t from_rows() const { return (2 * from_h - 1) * (2 * from_w - 1); }
  int64_t to_rows() const { return (2 * to_h - 1) * (2 * to_w - 1); }
};

// Weights (2 to - 1, 2 from - 1), row-major, of one axis; not for kCrop.
std::vector<double> offset_weights(int64_t from, int64_t to, TableResampling how);

// y (to_rows, H) from x (from_rows, H) and its transpose, dx += ...; not for kCrop. timm moves both axes where either changes.
void resample_bias_table(const TableSizes& sizes, TableResampling how, ConstTensor x, Tensor y, Context& ctx);
void resample_bias_table_backward(const TableSizes& sizes, TableResampling how, ConstTensor dy, Tensor dx, Context& ctx);

}  // namespace fovea
