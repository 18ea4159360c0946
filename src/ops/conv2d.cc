#include "ops/conv2d.h"

#include <algorithm>
#include <cmath>

#include "ops/pack_weights.h"

namespace fovea {

namespace {

struct Conv2dRecord {
  ConstTensor x;
};

int64_t out_length(int64_t length, int64_t kernel, int64_t stride, const Conv2dShape& s) {
  const int64_t span = length + 2 * s.pad - kernel;
  if (span < 0) return (s.cover_rest || s.at_least_one) && length > 0 ? 1 : 0;
  return (s.cover_rest ? (span + stride - 1) / stride : span / stride) + 1;
}

}  // namespace

Conv2d::Conv2d(const Scope& scope, const Conv2dShape& s, Bias bias, MapLayout layout)
    : shape_(s),
      layout_(layout),
      weight_(scope.param("weight", Shape{s.out, s.in, s.kernel_h, s.kernel_w},
                          Init::truncated_normal(std::sqrt(1.0 / static_cast<double>(s.in * s.kernel_h * s.kernel_w))), Decay::kYes)) {
  weight_->packable = true;
  if (bias == Bias::kYes) bias_ = scope.param("bias", Shape{s.out}, Init::zeros(), Decay::kNo);
}

int64_t Conv2d::out_height(int64_t height) const {
  return out_length(height, shape_.kernel_h, shape_.stride_h, shape_);
}

int64_t Conv2d::out_width(int64_t width) const {
  return out_length(width, shape_.kernel_w, shape_.stride_w, shape_);
}

PatchesArgs Conv2d::patches_of(const Shape& x) const {
  const bool first = layout_ == MapLayout::kChannelsFirst;
  PatchesArgs p;
  p.batch = x[0];
  p.channels = first ? x[1] : x[3];
  p.height = first ? x[2] : x[1];
  p.width = first ? x[3] : x[2];
  p.x_batch_stride = p.channels * p.height * p.width;
  p.x_channel_stride = first ? p.height * p.width : 1;
  p.x_row_stride = first ? p.width : p.width * p.channels;
  p.x_column_stride = first ? 1 : p.channels;
  p.kernel_h = shape_.kernel_h;
  p.kernel_w = shape_.kernel_w;
  p.stride_h = shape_.stride_h;
  p.stride_w = shape_.stride_w;
  p.pad_top = p.pad_left = shape_.pad;
  p.out_height = out_height(p.height);
  p.out_width = out_width(p.width);
  require(p.channels == shape_.in, "{}: got {} input channels, expected {}", weight_->name, p.channels, shape_.in);
  require(p.out_height > 0 && p.out_width > 0, "{}: a {}x{} map is smaller than the {}x{} kernel", weight_->name, p.height, p.width,
          shape_.kernel_h, shape_.kernel_w);
  return p;
}

void Conv2d::multiply(const PatchesArgs& p, const void* x, void* y, Context& ctx) const {
  ArenaScope scope(ctx.scratch());
  const int64_t rows = p.batch * p.out_height * p.out_width, k = shape_.in * shape_.kernel_h * shape_.kernel_w;
  const Tensor columns = ctx.scratch().take(Shape{rows, k}, ctx.dtype());
  ctx.kernels().patches(p, x, columns.data, ctx);
  GemmArgs g;
  g.m = rows;
  g.n = shape_.out;
  g.k = g.a_stride = g.b_stride = k;
  g.a = columns.data;
  g.b = weight_->value.data;
  g.b_transposed = true;
  g.b_packed = weight_->packed;
  g.next = weights_after(*weight_);
  g.type = g.b_packed != nullptr ? weight_->packed_type : ctx.products();
  g.c = y;
  g.c_stride = shape_.out;
  if (bias_) g.bias = bias_->value.data;
  ctx.kernels().gemm(g, ctx);
}

void Conv2d::forward(ConstTensor x, Tensor y, Tape* tape, Context& ctx) const {
  multiply(patches_of(x.shape), x.data, y.data, ctx);
  if (tape) tape->push(Conv2dRecord{x});
}

void Conv2d::infer(ConstTensor x, const LayerNorm* norm, Tensor y, Context& ctx) const {
  constexpr int64_t kRows = 224;  // of a band: its patches stay in the second-level cache
  const PatchesArgs map = patches_of(x.shape);
  if (map.batch * map.out_height * map.out_width < ctx.pool().threads() * kLeastRowsAlone) {
    multiply(map, x.data, y.data, ctx);
    if (norm) norm->apply(y, y, ctx);
    return;
  }
  const int64_t most = std::max<int64_t>(1, kRows / map.out_width);
  ctx.share_out(map.batch * map.out_height, [&](int64_t line, int64_t end, Context& own) {
    while (line < end) {
      const int64_t image = line / map.out_height, first = line % map.out_height, lines = std::min({most, end - line, map.out_height - first});
      PatchesArgs band = map;
      band.batch = 1;
      band.pad_top -= first * band.stride_h;
      band.out_height = lines;
      const Tensor to(elements_from(y, line * map.out_width * shape_.out).data, Shape{lines * map.out_width, shape_.out}, y.dtype);
      multiply(band, elements_from(x, image * map.x_batch_stride).data, to.data, own);
      if (norm) norm->apply(to, to, own);
      line += lines;
    }
  });
}

// dW += dyᵀ patches(x), db += column sums of dy, dx = patchesᵀ(dy W).
void Conv2d::backward(ConstTensor dy, Tensor dx, Tape& tape, Context& ctx) const {
  const auto record = tape.pop<Conv2dRecord>();
  const PatchesArgs p = patches_of(record.x.shape);
  ArenaScope scope(ctx.scratch());
  const int64_t rows = p.batch * p.out_height * p.out_width, k = shape_.in * shape_.kernel_h * shape_.kernel_w;
  const Tensor columns = ctx.scratch().take(Shape{rows, k}, ctx.dtype());
  ctx.kernels().patches(p, record.x.data, columns.data, ctx);
  GemmArgs g;
  g.m = shape_.out;
  g.n = g.b_stride = g.c_stride = k;
  g.k = rows;
  g.a = dy.data;
  g.a_stride = shape_.out;
  g.a_transposed = true;
  g.b = columns.data;
  g.c = weight_->grad.data;
  g.accumulate = true;
  g.type = ctx.products();
  if (bias_) g.a_sums = bias_->grad.data;
  ctx.kernels().gemm(g, ctx);
  if (dx.empty()) return;
  GemmArgs d;
  d.m = rows;
  d.n = d.b_stride = d.c_stride = k;
  d.k = d.a_stride = shape_.out;
  d.a = dy.data;
  d.b = weight_->value.data;
  d.c = columns.data;
  d.type = ctx.products();
  ctx.kernels().gemm(d, ctx);
  ctx.kernels().patches_backward(p, columns.data, dx.data, ctx);
}

}  // namespace fovea
