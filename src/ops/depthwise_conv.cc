#include "ops/depthwise_conv.h"

namespace fovea {

DepthwiseConv3x3::DepthwiseConv3x3(const Scope& scope, int64_t channels)
    : channels_(channels),
      weight_(scope.param("weight", Shape{channels, 1, 3, 3}, Init::uniform(1.0 / 3), Decay::kYes)),  // 1 / sqrt(9 inputs)
      bias_(scope.param("bias", Shape{channels}, Init::zeros(), Decay::kNo)) {}

Depthwise3x3Args DepthwiseConv3x3::kernel_args(const DepthwiseMap& map, const ConstHeadsView& x) const {
  check(map.blocks.height > 0 && map.blocks.width > 0, "{}: blocks of {}x{}", weight_->name, map.blocks.height, map.blocks.width);
  Depthwise3x3Args a;
  a.batch = map.batch;
  a.channels = channels_;
  a.height = map.height;
  a.width = map.width;
  a.block_h = map.blocks.height;
  a.block_w = map.blocks.width;
  a.block_top = map.blocks.top;
  a.block_left = map.blocks.left;
  a.x = x;
  a.weight = weight_->value.data;
  a.bias = bias_->value.data;
  a.skip = map.skip;
  a.skip_batch_stride = map.skip_batch_stride;
  return a;
}

void DepthwiseConv3x3::forward(const DepthwiseMap& map, const ConstHeadsView& x, DType x_dtype, const ConstHeadsView& residual, const HeadsView& y,
                               Context& ctx) const {
  Depthwise3x3Args a = kernel_args(map, x);
  a.x_bf16 = x_dtype == DType::kBF16;
  a.residual = residual;
  a.y = y;
  ctx.kernels().depthwise3x3(a, ctx);
}

// dx(n) += sum over tap of w[tap] dy(n - tap), dw[tap] += sum over t of dy(t) x(t + tap), db += sum of dy; the residual's is dy.
void DepthwiseConv3x3::backward(const DepthwiseMap& map, const ConstHeadsView& x, const ConstHeadsView& dy, const HeadsView& dx,
                                Context& ctx) const {
  Depthwise3x3BackwardArgs b;
  b.forward = kernel_args(map, x);
  b.dy = dy;
  b.dx = dx;
  b.dweight = weight_->grad.data;
  b.dbias = bias_->grad.data;
  ctx.kernels().depthwise3x3_backward(b, ctx);
}

}  // namespace fovea
