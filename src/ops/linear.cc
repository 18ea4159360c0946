#include "ops/linear.h"

#include <cmath>

#include "ops/layer_norm.h"
#include "ops/pack_weights.h"

namespace fovea {

namespace {

struct LinearRecord {
  ConstTensor x;
};

}  // namespace

Linear::Linear(const Scope& scope, int64_t in, int64_t out, Bias bias)
    : Linear(scope, in, out, bias, Init::truncated_normal(0.02 * std::sqrt(768.0 / static_cast<double>(in))), Decay::kYes) {}

Linear::Linear(const Scope& scope, int64_t in, int64_t out, Bias bias, const Init& weight, Decay decay)
    : in_(in), out_(out), weight_(scope.param("weight", Shape{out, in}, weight, decay)) {
  weight_->packable = true;
  if (bias == Bias::kYes) bias_ = scope.param("bias", Shape{out}, Init::zeros(), Decay::kNo);
}

void Linear::forward(ConstTensor x, Tensor y, Tape* tape, Context& ctx) const {
  apply(x, y, {}, ctx);
  if (tape) tape->push(LinearRecord{x});
}

// dx = dy W, dW += dyᵀ x, db += column sums of dy.
void Linear::backward(ConstTensor dy, Tensor dx, Accumulate dx_mode, Tape& tape, Context& ctx) const {
  const auto record = tape.pop<LinearRecord>();
  backward_parameters(record.x, dy, ctx);
  if (!dx.empty()) backward_input(dy, dx, dx_mode, ctx);
}

void Linear::apply(ConstTensor x, Tensor y, const LinearFusion& fusion, Context& ctx) const {
  require(x.last() == in_, "{}: got {} input channels, expected {}", weight_->name, x.last(), in_);
  check(y.elements() == x.rows() * out_, "{}: output shape {}", weight_->name, y.shape);
  GemmArgs g;
  g.m = x.rows();
  g.n = out_;
  g.k = in_;
  g.a = x.data;
  g.a_stride = in_;
  g.b = weight_->value.data;
  g.b_stride = in_;
  g.b_transposed = true;
  g.b_packed = weight_->packed;
  g.next = weights_after(*weight_);
  g.type = type(ctx);
  g.c = y.data;
  g.c_stride = out_;
  g.a_bf16 = x.dtype == DType::kBF16;
  g.c_bf16 = y.dtype == DType::kBF16;
  g.fine_sums = weight_->outermost;  // a head's: one row an image, and nothing after it averages its rounding
  if (bias_) g.bias = bias_->value.data;
  if (!fusion.bias.empty()) g.bias = fusion.bias.data;
  if (fusion.norm) {
    g.norm_mean = fusion.mean.data;
    g.norm_rstd = fusion.rstd.data;
    g.norm_gamma = fusion.norm->gamma().value.data;
    g.norm_beta = fusion.norm->beta().value.data;
    g.norm_epsilon = fusion.norm->epsilon();
  }
  g.activation = fusion.activation;
  g.pre_activation = fusion.pre_activation.data;
  g.residual = fusion.residual.data;
  g.residual_stride = out_;
  ctx.kernels().gemm(g, ctx);
}

void Linear::backward_input(ConstTensor dy, Tensor dx, Accumulate mode, Context& ctx) const {
  GemmArgs g;
  g.m = dy.rows();
  g.n = in_;
  g.k = out_;
  g.a = dy.data;
  g.a_stride = out_;
  g.b = weight_->value.data;
  g.b_stride = in_;
  g.c = dx.data;
  g.c_stride = in_;
  g.accumulate = mode == Accumulate::kYes;
  g.type = ctx.products();
  g.a_bf16 = dy.dtype == DType::kBF16;
  ctx.kernels().gemm(g, ctx);
}

void Linear::backward_parameters(ConstTensor x, ConstTensor dy, Outputs without_bias, Context& ctx) const {
  if (weight_->frozen) return;
  if (without_bias.count == 0 || !bias_) return add_gradients(x, 0, out_, dy, bias_ ? bias_->grad.data : nullptr, ctx);
  ArenaScope scope(ctx.scratch());
  const Tensor sums = ctx.scratch().take(Shape{out_}, ctx.dtype());
  sums.zero();
  add_gradients(x, 0, out_, dy, sums.data, ctx);
  const auto add = [&](int64_t begin, int64_t end) {
    if (begin < end) ctx.kernels().scale_add(end - begin, 1.0, sums.slice(begin, end - begin).data, bias_->grad.slice(begin, end - begin).data, ctx);
  };
  add(0, without_bias.first);
  add(without_bias.first + without_bias.count, out_);
}

namespace {

// The elements of a row-major tensor from column `first` on, for the eyes of a product with its own strides.
char* from_column(void* data, int64_t first, DType dtype) { return static_cast<char*>(data) + first * static_cast<int64_t>(size_of(dtype)); }

}  // namespace

void Linear::apply_part(ConstTensor x, int64_t first, int64_t count, ConstTensor bias, Tensor y, Context& ctx) const {
  require(x.last() == in_, "{}: got {} input channels, expected {}", weight_->name, x.last(), in_);
  check(first >= 0 && first + count <= out_ && y.elements() == x.rows() * out_, "{}: output shape {}", weight_->name, y.shape);
  check(!weight_->value.empty(), "{}: a part of the product needs the plain weight; ask for it with read_plain()", weight_->name);
  GemmArgs g;
  g.m = x.rows();
  g.n = count;
  g.k = in_;
  g.a = x.data;
  g.a_stride = in_;
  g.b = weight_->value.slice(first, count).data;
  g.b_stride = in_;
  g.b_transposed = true;
  g.type = ctx.products();
  g.c = from_column(y.data, first, y.dtype);
  g.c_stride = out_;
  if (bias_) g.bias = bias_->value.slice(first, count).data;
  if (!bias.empty()) g.bias = bias.reshaped(Shape{out_}).slice(first, count).data;
  ctx.kernels().gemm(g, ctx);
}

void Linear::backward_parameters_part(ConstTensor x, int64_t first, int64_t count, ConstTensor dy, Context& ctx) const {
  if (weight_->frozen) return;
  add_gradients(x, first, count, dy, bias_ ? bias_->grad.slice(first, count).data : nullptr, ctx);
}

// dW rows [first, first + count) += dyᵀ x of the same columns of dy, whose sums are added to `bias` where it is not null.
void Linear::add_gradients(ConstTensor x, int64_t first, int64_t count, ConstTensor dy, void* bias, Context& ctx) const {
  GemmArgs g;
  g.m = count;
  g.n = in_;
  g.k = dy.rows();
  g.a = from_column(const_cast<void*>(dy.data), first, dy.dtype);
  g.a_stride = out_;
  g.a_transposed = true;
  g.a_bf16 = dy.dtype == DType::kBF16;
  g.a_sums = bias;
  g.b = x.data;
  g.b_stride = in_;
  g.b_bf16 = x.dtype == DType::kBF16;
  g.type = ctx.products();
  g.c = weight_->grad.slice(first, count).data;
  g.c_stride = in_;
  g.accumulate = true;
  ctx.kernels().gemm(g, ctx);
}

}  // namespace fovea
