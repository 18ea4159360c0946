// The reference tables against numbers worked out by hand or by other means, and every backward entry against its forward
// on dual numbers.
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "harness/expect.h"
#include "kernels/kernel_table.h"

namespace fovea {
namespace {

using harness::copy_of;
using harness::expect_adjoint;
using harness::expect_close;
using harness::expect_jacobian;
using harness::HostTensor;
using harness::layer_of;
using harness::Operation;
using harness::random_tensor;
using harness::tensor_of;
using harness::Tolerance;

constexpr DType kF64 = DType::kF64;

const KernelTable& table() { return kernel_table("reference"); }

Context& context() {
  static Context ctx(table(), kF64, 1);
  return ctx;
}

void expect_values(const Tensor& actual, std::initializer_list<double> expected, double bound = 1e-12) {
  expect_close(actual, tensor_of(actual.shape, kF64, expected), Tolerance::absolute(bound), "values");
}

void expect_gradients(const Operation& operation) {
  expect_adjoint(layer_of(operation));
  expect_jacobian(layer_of(operation));
}

// ---- matrix product ---------------------------------------------------------------------------------------------------

TEST(Reference, GemmByHand) {
  const HostTensor a = tensor_of({2, 3}, kF64, {1, 2, 3, 4, 5, 6}), b = tensor_of({3, 2}, kF64, {1, 0, 2, 1, 0, 3});
  const HostTensor bias = tensor_of({2}, kF64, {10, -20}), residual = tensor_of({2, 2}, kF64, {1, 2, 3, 4});
  HostTensor c({2, 2}, kF64), pre({2, 2}, kF64);
  GemmArgs g;
  g.m = 2;
  g.n = 2;
  g.k = 3;
  g.a = a.data;
  g.a_stride = 3;
  g.b = b.data;
  g.b_stride = 2;
  g.c = c.data;
  g.c_stride = 2;
  table().gemm(g, context());
  expect_values(c, {5, 11, 14, 23});

  g.accumulate = true;
  table().gemm(g, context());
  expect_values(c, {10, 22, 28, 46});

  g.accumulate = false;
  g.bias = bias.data;
  g.pre_activation = pre.data;
  g.activation = Activation::kRelu;
  g.residual = residual.data;
  g.residual_stride = 2;
  table().gemm(g, context());
  expect_values(pre, {15, -9, 24, 3});
  expect_values(c, {16, 2, 27, 7});
}

TEST(Reference, GemmOperandFormsAgree) {
  const int64_t m = 3, n = 4, k = 5;
  const HostTensor a = random_tensor({m, k}, Rng(1), kF64), b = random_tensor({k, n}, Rng(2), kF64);
  HostTensor at({k, m}, kF64), bt({n, k}, kF64), expected({m, n}, kF64), packed({k * n}, kF64);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t l = 0; l < k; ++l) at.as<double>()[l * m + i] = a.as<double>()[i * k + l];
  for (int64_t l = 0; l < k; ++l)
    for (int64_t j = 0; j < n; ++j) bt.as<double>()[j * k + l] = b.as<double>()[l * n + j];
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j)
      for (int64_t l = 0; l < k; ++l)
        expected.as<double>()[i * n + j] += a.as<double>()[i * k + l] * b.as<double>()[l * n + j];
  for (const bool a_transposed : {false, true})
    for (const int b_form : {0, 1, 2, 3}) {  // plain, transposed, packed, packed from the transposed
      HostTensor c({m, n}, kF64);
      GemmArgs g;
      g.m = m;
      g.n = n;
      g.k = k;
      g.a = a_transposed ? at.data : a.data;
      g.a_stride = a_transposed ? m : k;
      g.a_transposed = a_transposed;
      g.b_transposed = b_form % 2 == 1;
      g.b = g.b_transposed ? bt.data : b.data;
      g.b_stride = g.b_transposed ? k : n;
      if (b_form >= 2) {
        ASSERT_EQ(table().gemm_packed_bytes(ProductType::kOwn, k, n), packed.bytes());
        table().gemm_pack(ProductType::kOwn, k, n, g.b, g.b_stride, g.b_transposed, packed.data, context());
        g.b_packed = packed.data;
        g.b = nullptr;
      }
      g.c = c.data;
      g.c_stride = n;
      table().gemm(g, context());
      expect_close(c, expected, Tolerance::relative(1e-14), "form " + std::to_string(b_form));
    }
}

TEST(Reference, GemmGathersNormalisesAndScatters) {
  const HostTensor a = tensor_of({3, 2}, kF64, {1, 3, 10, 20, 5, 5}), b = tensor_of({2, 1}, kF64, {1, 2});
  const HostTensor mean = tensor_of({3}, kF64, {2, 15, 5}), rstd = tensor_of({3}, kF64, {1, 0.2, 0});
  const HostTensor gamma = tensor_of({2}, kF64, {2, 3}), beta = tensor_of({2}, kF64, {0.5, -0.5});
  const HostTensor residual = tensor_of({4, 1}, kF64, {100, 200, 300, 400});
  HostTensor c = tensor_of({4, 1}, kF64, {-1, -1, -1, -1});
  const int32_t a_rows[] = {1, -1, 0, 2}, c_rows[] = {3, 0, -1, 1};
  GemmArgs g;
  g.m = 4;
  g.n = 1;
  g.k = 2;
  g.a = a.data;
  g.a_stride = 2;
  g.a_rows = a_rows;
  g.norm_mean = mean.data;
  g.norm_rstd = rstd.data;
  g.norm_gamma = gamma.data;
  g.norm_beta = beta.data;
  g.b = b.data;
  g.b_stride = 1;
  g.c = c.data;
  g.c_stride = 1;
  g.c_rows = c_rows;
  g.residual = residual.data;
  g.residual_stride = 1;
  table().gemm(g, context());
  // Row 1 of a: ((-5, 5) * 0.2 * (2, 3) + (0.5, -0.5)) · (1, 2) = -1.5 + 5; a zero row; dropped; (0.5, -0.5) · (1, 2).
  expect_values(c, {100, 199.5, -1, 403.5});
}

// ---- normalisation, activation, loss ----------------------------------------------------------------------------------

TEST(Reference, LayerNormByHand) {
  const HostTensor x = tensor_of({1, 4}, kF64, {1, 2, 3, 6}), gamma = tensor_of({4}, kF64, {1, 1, 2, 1});
  HostTensor y({1, 4}, kF64), mean({1}, kF64), rstd({1}, kF64);
  LayerNormArgs a;
  a.channels = 4;
  a.epsilon = 0.5;  // variance (4 + 1 + 0 + 9) / 4 = 3.5, so that rstd = 1/2
  a.x_rows = a.y_rows = RowLayout::contiguous(1, 4);
  a.x = x.data;
  a.gamma = gamma.data;
  a.y = y.data;
  a.mean = mean.data;
  a.rstd = rstd.data;
  table().layer_norm(a, context());
  expect_values(y, {-1, -0.5, 0, 1.5});
  expect_values(mean, {3});
  expect_values(rstd, {0.5});
}

Operation layer_norm_operation(bool affine) {
  // Rows of 5 channels, two of which lie in every outer row of 11.
  Operation o;
  o.inputs = {{Shape{3, 11}}};
  if (affine) o.inputs.insert(o.inputs.end(), {{Shape{5}}, {Shape{5}}});
  o.outputs = {{Shape{6, 5}}, {Shape{6}, false}, {Shape{6}, false}};
  const RowLayout strided{3, 2, 11, 5};
  o.forward = [=](auto in, auto out, Context& ctx) {
    LayerNormArgs a;
    a.channels = 5;
    a.x_rows = strided;
    a.y_rows = RowLayout::contiguous(6, 5);
    a.x = in[0].data;
    a.gamma = affine ? in[1].data : nullptr;
    a.beta = affine ? in[2].data : nullptr;
    a.y = out[0].data;
    a.mean = out[1].data;
    a.rstd = out[2].data;
    ctx.kernels().layer_norm(a, ctx);
  };
  o.backward = [=](auto in, auto out, auto dout, auto din, Context& ctx) {
    for (const Tensor& d : din) d.zero();
    LayerNormBackwardArgs a;
    a.channels = 5;
    a.x_rows = a.dx_rows = strided;
    a.dy_rows = RowLayout::contiguous(6, 5);
    a.x = in[0].data;
    a.mean = out[1].data;
    a.rstd = out[2].data;
    a.dy = dout[0].data;
    a.dx = din[0].data;
    if (affine) {
      a.gamma = in[1].data;
      a.dgamma = din[1].data;
      a.dbeta = din[2].data;
    }
    ctx.kernels().layer_norm_backward(a, ctx);
  };
  return o;
}

TEST(Reference, LayerNormGradients) {
  expect_gradients(layer_norm_operation(true));
  expect_gradients(layer_norm_operation(false));
}

TEST(Reference, LayerNormBackwardAccumulatesWhenAsked) {
  const HostTensor x = random_tensor({2, 4}, Rng(1), kF64), dy = random_tensor({2, 4}, Rng(2), kF64);
  const HostTensor mean = random_tensor({2}, Rng(3), kF64), rstd = tensor_of({2}, kF64, {1, 2});
  HostTensor written({2, 4}, kF64), added = tensor_of({2, 4}, kF64, {1, 1, 1, 1, 1, 1, 1, 1}), dgamma = tensor_of({4}, kF64, {1, 1, 1, 1});
  LayerNormBackwardArgs a;
  a.channels = 4;
  a.x_rows = a.dy_rows = a.dx_rows = RowLayout::contiguous(2, 4);
  a.x = x.data;
  a.mean = mean.data;
  a.rstd = rstd.data;
  a.dy = dy.data;
  a.dx = written.data;
  a.dgamma = dgamma.data;
  table().layer_norm_backward(a, context());
  a.dx = added.data;
  a.accumulate_dx = true;
  const HostTensor once = copy_of(dgamma);
  table().layer_norm_backward(a, context());
  for (int i = 0; i < 8; ++i) EXPECT_NEAR(added.as<double>()[i], written.as<double>()[i] + 1, 1e-12);
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(dgamma.as<double>()[i] - 1, 2 * (once.as<double>()[i] - 1), 1e-12);
}

TEST(Reference, ActivationByHand) {
  const HostTensor x = tensor_of({4}, kF64, {-1, 0, 1, 3});
  HostTensor y({4}, kF64);
  table().activation(Activation::kRelu, 4, x.data, y.data, context());
  expect_values(y, {0, 0, 1, 3});
  table().activation(Activation::kNone, 4, x.data, y.data, context());
  expect_values(y, {-1, 0, 1, 3});
  table().activation(Activation::kGelu, 4, x.data, y.data, context());
  expect_values(y, {-0.158655253931457, 0, 0.841344746068543, 2.99595030590511}, 1e-13);  // x times the normal CDF
  table().activation(Activation::kGeluTanh, 4, x.data, y.data, context());
  const auto tanh_form = [](double v) {
    return v / (1 + std::exp(-2 * std::sqrt(2 / std::numbers::pi) * (v + 0.044715 * v * v * v)));
  };
  expect_values(y, {tanh_form(-1), 0, tanh_form(1), tanh_form(3)}, 1e-13);
  table().activation(Activation::kSilu, 4, x.data, y.data, context());
  expect_values(y, {-0.268941421369995, 0, 0.731058578630005, 2.8577223804673}, 1e-13);  // x times the logistic function
  table().activation(Activation::kQuickGelu, 4, x.data, y.data, context());
  expect_values(y, {-1 / (1 + std::exp(1.702)), 0, 1 / (1 + std::exp(-1.702)), 3 / (1 + std::exp(-5.106))}, 1e-13);
  table().activation(Activation::kTanh, 4, x.data, y.data, context());
  expect_values(y, {-std::tanh(1.0), 0, std::tanh(1.0), std::tanh(3.0)}, 1e-13);
}

TEST(Reference, ActivationGradients) {
  for (const Activation kind : {Activation::kNone, Activation::kGelu, Activation::kGeluTanh, Activation::kRelu, Activation::kQuickGelu,
                                Activation::kSilu, Activation::kTanh}) {
    Operation o;
    o.inputs = {{Shape{23}}};
    o.outputs = {{Shape{23}}};
    o.forward = [=](auto in, auto out, Context& ctx) { ctx.kernels().activation(kind, 23, in[0].data, out[0].data, ctx); };
    o.backward = [=](auto in, auto, auto dout, auto din, Context& ctx) {
      ctx.kernels().activation_backward(kind, 23, in[0].data, dout[0].data, din[0].data, ctx);
    };
    expect_gradients(o);

    Operation gated;
    gated.inputs = {{Shape{3, 10}}};
    gated.outputs = {{Shape{3, 5}}};
    gated.forward = [=](auto in, auto out, Context& ctx) { ctx.kernels().gate(kind, 3, 5, in[0].data, out[0].data, ctx); };
    gated.backward = [=](auto in, auto, auto dout, auto din, Context& ctx) {
      ctx.kernels().gate_backward(kind, 3, 5, in[0].data, dout[0].data, din[0].data, ctx);
    };
    expect_gradients(gated);
  }
}

TEST(Reference, GateByHand) {
  const HostTensor x = tensor_of({2, 4}, kF64, {1, -1, 3, 5, 2, 4, -1, 0.5});
  HostTensor y({2, 2}, kF64);
  table().gate(Activation::kRelu, 2, 2, x.data, y.data, context());
  expect_values(y, {3, 0, -2, 2});
}

TEST(Reference, CrossEntropyByHand) {
  // Logits whose softmax is (1/6, 2/6, 3/6).
  const HostTensor logits = tensor_of({2, 3}, kF64, {0, std::log(2.0), std::log(3.0), 1000, 1000, 1000});
  HostTensor loss({2}, kF64);
  const int32_t labels[] = {1, 2};
  CrossEntropyArgs a;
  a.rows = 2;
  a.classes = 3;
  a.logits = logits.data;
  a.labels = labels;
  a.loss = loss.data;
  table().cross_entropy(a, context());
  expect_values(loss, {std::log(3.0), std::log(3.0)});
  a.smoothing = 0.3;
  table().cross_entropy(a, context());
  expect_values(loss, {0.8 * std::log(3.0) + 0.1 * std::log(6.0) + 0.1 * std::log(2.0), std::log(3.0)});
  const HostTensor soft = tensor_of({2, 3}, kF64, {0.5, 0, 0.5, 0, 1, 0});
  a.smoothing = 0;
  a.labels = nullptr;
  a.soft_targets = soft.data;
  table().cross_entropy(a, context());
  expect_values(loss, {0.5 * std::log(6.0) + 0.5 * std::log(2.0), std::log(3.0)});
  const int32_t foreign[] = {1, 3};
  a.labels = foreign;
  a.soft_targets = nullptr;
  EXPECT_THROW(table().cross_entropy(a, context()), InternalError);
}

TEST(Reference, CrossEntropyGradients) {
  static const int32_t labels[] = {3, 0, 2, 2};
  for (const bool soft : {false, true})
    for (const double smoothing : {0.0, 0.1}) {
      const auto args = [=](std::span<const ConstTensor> in) {
        CrossEntropyArgs a;
        a.rows = 4;
        a.classes = 5;
        a.logits = in[0].data;
        a.labels = soft ? nullptr : labels;
        a.soft_targets = soft ? in[1].data : nullptr;
        a.smoothing = smoothing;
        return a;
      };
      Operation o;
      o.inputs = {{Shape{4, 5}}, {Shape{4, 5}, false}};
      o.outputs = {{Shape{1}}};  // 0.3 times the sum of the rows' losses: dloss is one number
      o.forward = [=](auto in, auto out, Context& ctx) {
        ArenaScope scope(ctx.scratch());
        CrossEntropyArgs a = args(in);
        const Tensor loss = ctx.scratch().take(Shape{4}, ctx.dtype());
        a.loss = loss.data;
        ctx.kernels().cross_entropy(a, ctx);
        out[0].zero();
        for (int r = 0; r < 4; ++r) ctx.kernels().scale_add(1, 0.3, loss.slice(r, 1).data, out[0].data, ctx);
      };
      o.backward = [=](auto in, auto, auto dout, auto din, Context& ctx) {
        CrossEntropyArgs a = args(in);
        a.dloss = 0.3 * harness::value_at(dout[0], 0);
        a.dlogits = din[0].data;
        ctx.kernels().cross_entropy_backward(a, ctx);
      };
      expect_gradients(o);
    }
}

// ---- rows ---------------------------------------------------------------------------------------------------------------

TEST(Reference, RowsByHand) {
  const HostTensor guarded = tensor_of({4, 2}, kF64, {-7, -7, 1, 2, 3, 4, 5, 6});
  const Tensor x = guarded.slice(1, 3);  // what lies before it is no row -1
  const int32_t index[] = {2, -1, 0, 2};
  HostTensor gathered({4, 2}, kF64), bias({2, 4}, kF64);
  table().gather_rows(4, 2, x.data, index, gathered.data, context());
  expect_values(gathered, {5, 6, 0, 0, 1, 2, 5, 6});
  table().table_bias(4, 2, x.data, index, bias.data, context());
  expect_values(bias, {5, 0, 1, 5, 6, 0, 2, 6});
  HostTensor collected = tensor_of({3, 2}, kF64, {1, 1, 1, 1, 1, 1});
  table().scatter_add_rows(4, 2, gathered.data, index, collected.data, context());
  expect_values(collected, {2, 3, 1, 1, 11, 13});
  HostTensor sum = tensor_of({2}, kF64, {100, 200});
  table().column_sum(3, 2, 2, x.data, sum.data, context());
  expect_values(sum, {109, 212});
  HostTensor mean({1, 2}, kF64);
  table().mean_tokens(1, 3, 1, 2, x.data, mean.data, context());
  expect_values(mean, {4, 5});
  const HostTensor scale = tensor_of({2}, kF64, {2, 0});
  HostTensor scaled({3, 2}, kF64);
  table().scale_rows(3, 2, 2, scale.data, x.data, nullptr, scaled.data, context());
  expect_values(scaled, {2, 4, 6, 8, 0, 0});
  table().scale_rows(3, 2, 2, scale.data, x.data, x.data, scaled.data, context());
  expect_values(scaled, {3, 6, 9, 12, 5, 6});
  table().scale_columns(3, 2, scale.data, x.data, x.data, scaled.data, context());
  expect_values(scaled, {3, 2, 9, 4, 15, 6});
  table().add(6, x.data, scaled.data, scaled.data, context());
  expect_values(scaled, {4, 4, 12, 8, 20, 12});
}

TEST(Reference, RowGradients) {
  static const int32_t index[] = {2, -1, 0, 2, 1};
  Operation gather;
  gather.inputs = {{Shape{3, 4}}};
  gather.outputs = {{Shape{5, 4}}};
  gather.forward = [](auto in, auto out, Context& ctx) {
    ctx.kernels().gather_rows(5, 4, in[0].data, index, out[0].data, ctx);
  };
  gather.backward = [](auto, auto, auto dout, auto din, Context& ctx) {
    din[0].zero();
    ctx.kernels().scatter_add_rows(5, 4, dout[0].data, index, din[0].data, ctx);
  };
  expect_gradients(gather);

  Operation bias;
  bias.inputs = {{Shape{3, 2}}};
  bias.outputs = {{Shape{2, 5}}};
  bias.forward = [](auto in, auto out, Context& ctx) {
    ctx.kernels().table_bias(5, 2, in[0].data, index, out[0].data, ctx);
  };
  bias.backward = [](auto, auto, auto dout, auto din, Context& ctx) {
    din[0].zero();
    ctx.kernels().table_bias_backward(5, 2, dout[0].data, index, din[0].data, ctx);
  };
  expect_gradients(bias);

  Operation columns;
  columns.inputs = {{Shape{6, 3}}, {Shape{3}}};
  columns.outputs = {{Shape{6, 3}}};
  columns.forward = [](auto in, auto out, Context& ctx) {
    ctx.kernels().scale_columns(6, 3, in[1].data, in[0].data, nullptr, out[0].data, ctx);
  };
  columns.backward = [](auto in, auto, auto dout, auto din, Context& ctx) {
    din[1].zero();
    ctx.kernels().scale_columns_backward(6, 3, in[1].data, in[0].data, dout[0].data, din[0].data, din[1].data, ctx);
  };
  expect_gradients(columns);

  Operation mean;
  mean.inputs = {{Shape{2, 5, 3}}};
  mean.outputs = {{Shape{2, 3}}};
  mean.forward = [](auto in, auto out, Context& ctx) {
    ctx.kernels().mean_tokens(2, 5, 2, 3, in[0].data, out[0].data, ctx);
  };
  mean.backward = [](auto, auto, auto dout, auto din, Context& ctx) {
    ctx.kernels().mean_tokens_backward(2, 5, 2, 3, dout[0].data, din[0].data, ctx);
  };
  expect_gradients(mean);
}

// ---- patches, dropout, optimizer ----------------------------------------------------------------------------------------

TEST(Reference, PatchesByHand) {
  // A 2x3 map of one channel, 2x2 patches with stride 2 and one row and column of zeros before it.
  const HostTensor x = tensor_of({2, 3}, kF64, {1, 2, 3, 4, 5, 6});
  HostTensor out({4, 4}, kF64);
  PatchesArgs a;
  a.batch = a.channels = 1;
  a.height = 2;
  a.width = 3;
  a.x_row_stride = 3;
  a.x_column_stride = 1;
  a.kernel_h = a.kernel_w = a.stride_h = a.stride_w = 2;
  a.pad_top = a.pad_left = 1;
  a.out_height = a.out_width = 2;
  table().patches(a, x.data, out.data, context());
  expect_values(out, {0, 0, 0, 1, 0, 0, 2, 3, 0, 4, 0, 0, 5, 6, 0, 0});
}

TEST(Reference, PatchesGradients) {
  for (const bool channels_last : {false, true}) {
    PatchesArgs a;
    a.batch = 2;
    a.channels = 3;
    a.height = 5;
    a.width = 4;
    a.x_batch_stride = 60;
    a.x_channel_stride = channels_last ? 1 : 20;
    a.x_row_stride = channels_last ? 12 : 4;
    a.x_column_stride = channels_last ? 3 : 1;
    a.kernel_h = 3;
    a.kernel_w = 2;
    a.stride_h = 2;
    a.pad_top = a.pad_left = 1;
    a.out_height = 3;
    a.out_width = 5;
    Operation o;
    o.inputs = {{Shape{2, 60}}};
    o.outputs = {{Shape{30, 18}}};
    o.forward = [=](auto in, auto out, Context& ctx) { ctx.kernels().patches(a, in[0].data, out[0].data, ctx); };
    o.backward = [=](auto, auto, auto dout, auto din, Context& ctx) {
      ctx.kernels().patches_backward(a, dout[0].data, din[0].data, ctx);
    };
    expect_gradients(o);
  }
}

TEST(Reference, DropoutFollowsTheGenerator) {
  const int64_t n = 1000;
  const HostTensor x = random_tensor({n}, Rng(1), kF64);
  HostTensor y({n}, kF64);
  const DropoutArgs a{n, 0.25, Rng(3, 9), x.data, y.data};
  table().dropout(a, context());
  int dropped = 0;
  for (int64_t i = 0; i < n; ++i) {
    const bool drop = Rng(3, 9).uniform(static_cast<uint64_t>(i)) < 0.25;
    dropped += drop;
    ASSERT_NEAR(y.as<double>()[i], drop ? 0 : x.as<double>()[i] / 0.75, 1e-15);
  }
  EXPECT_NEAR(dropped, 250, 60);
}

TEST(Reference, AdamWByHand) {
  HostTensor value = tensor_of({1}, kF64, {2}), m({1}, kF64), v({1}, kF64);
  const HostTensor grad = tensor_of({1}, kF64, {4});
  AdamWArgs a;
  a.count = 1;
  a.value = value.data;
  a.grad = grad.data;
  a.m = m.data;
  a.v = v.data;
  a.grad_scale = 0.5;
  a.lr = 0.1;
  a.weight_decay = 0.5;
  a.epsilon = 0;
  table().adamw(a, context());
  // In the first step the bias corrections undo the averages: m̂ = g, v̂ = g², so that the step is lr (1 + 0.5 · 2).
  expect_values(value, {1.8});
  expect_values(m, {0.1 * 2});
  expect_values(v, {0.001 * 4});
  a.step = 2;
  table().adamw(a, context());
  // The gradient stays the same, and so do the corrected moments.
  expect_values(value, {1.8 - 0.1 * (1 + 0.5 * 1.8)});
  expect_values(m, {0.38});
}

TEST(Reference, SumOfSquares) {
  const HostTensor x = tensor_of({3}, kF64, {1, -2, 3});
  EXPECT_EQ(table().sum_of_squares(3, x.data, context()), 14);
  EXPECT_EQ(table().sum_of_squares(0, nullptr, context()), 0);
  x.as<double>()[1] = std::nan("");
  EXPECT_TRUE(std::isnan(table().sum_of_squares(3, x.data, context())));
}

TEST(Reference, DualTableCarriesTheSameValues) {
  const KernelTable& dual = kernel_table("reference.dual");
  EXPECT_EQ(dual.dtype, DType::kDual);
  Context ctx(dual, DType::kDual, 1);
  const HostTensor x = random_tensor({7}, Rng(1), kF64), xd = harness::converted(x, DType::kDual);
  HostTensor y({7}, kF64), yd({7}, DType::kDual);
  table().activation(Activation::kGelu, 7, x.data, y.data, context());
  dual.activation(Activation::kGelu, 7, xd.data, yd.data, ctx);
  expect_close(yd, y, Tolerance::absolute(0), "dual values");
}

}  // namespace
}  // namespace fovea
