// Rows of length one, temperatures and bounded biases: the reference by hand and on dual numbers, every f32 table against it.
#include "kernels/small_kernels.h"

#include "harness/expect.h"

namespace fovea::test {
namespace {

using harness::expect_adjoint;
using harness::expect_jacobian;
using harness::layer_of;
using harness::Operation;

const double kLimit = std::log(100.0);

double smallest(const Data& d) {
  double m = std::numeric_limits<double>::infinity();
  for (int64_t i = 0; i < d.count(); ++i) m = std::min(m, std::fabs(d.get(i)));
  return m;
}

void set_layout(UnitRowsArgs& a, const RowLayout& rows, int64_t channels, Data& x, Data& y, Data& norm) {
  a.channels = channels;
  a.x_rows = a.y_rows = rows;
  a.x = x.p();
  a.y = y.p();
  a.norm = norm.p();
}

void set_layout(UnitRowsBackwardArgs& a, const RowLayout& rows, int64_t channels, const Data& y, const Data& norm, Data& dy, Data& dx) {
  a.channels = channels;
  a.y_rows = a.dy_rows = a.dx_rows = rows;
  a.y = y.p();
  a.norm = norm.p();
  a.dy = dy.p();
  a.dx = dx.p();
}

TEST(UnitRows, MatchesReference) {
  for (const int64_t channels : kChannelSweep)
    for (const int64_t rows : kRowSweep)
      for (const bool in_place : {false, true})
        expect_like_reference(fmt::format("unit rows {} x {} in place {}", rows, channels, in_place), [&](const KernelTable& t, Context& context) {
          Data x = random_data(t.dtype, rows * channels, 1, 2.0), y(t.dtype, rows * channels), norm(t.dtype, rows);
          Data dy = random_data(t.dtype, rows * channels, 2), dx(t.dtype, rows * channels);
          Data &result = in_place ? x : y, &gradient = in_place ? dy : dx;
          // The sums' error, about sqrt(C) eps of their terms; a row's gradient is divided by its length.
          const double root = std::sqrt(static_cast<double>(channels)), error = (6 + root) * kEps, largest = dy.largest();
          UnitRowsArgs a;
          set_layout(a, RowLayout::contiguous(rows, channels), channels, x, result, norm);
          t.unit_rows(a, context);
          UnitRowsBackwardArgs b;
          set_layout(b, RowLayout::contiguous(rows, channels), channels, result, norm, dy, gradient);
          t.unit_rows_backward(b, context);
          return Outputs{{result, error}, {norm, error * norm.largest()}, {gradient, 2 * error * root * largest / smallest(norm)}};
        });
  expect_like_reference("no rows", [](const KernelTable& t, Context& context) {
    Data nothing(t.dtype, 0);
    UnitRowsArgs a;
    set_layout(a, RowLayout::contiguous(0, 32), 32, nothing, nothing, nothing);
    t.unit_rows(a, context);
    UnitRowsBackwardArgs b;
    set_layout(b, RowLayout::contiguous(0, 32), 32, nothing, nothing, nothing, nothing);
    t.unit_rows_backward(b, context);
    return Outputs{{nothing, 0}};
  });
}

// The heads of q and k in a fused (B N, 3, H, D) buffer, in place: v stays as it is.
TEST(UnitRows, FollowsStrides) {
  for (const int64_t head_dim : {5, 24, 32})
    expect_like_reference(fmt::format("heads of {}", head_dim), [&](const KernelTable& t, Context& context) {
      const int64_t tokens = 31, heads = 3, all = tokens * 3 * heads * head_dim;
      const RowLayout rows{tokens, 2 * heads, 3 * heads * head_dim, head_dim};
      Data qkv = random_data(t.dtype, all, 1), norm(t.dtype, rows.rows()), d = random_data(t.dtype, all, 2);
      const double largest = d.largest();
      UnitRowsArgs a;
      set_layout(a, rows, head_dim, qkv, qkv, norm);
      t.unit_rows(a, context);
      UnitRowsBackwardArgs b;
      set_layout(b, rows, head_dim, qkv, norm, d, d);
      t.unit_rows_backward(b, context);
      const double root = std::sqrt(static_cast<double>(head_dim)), error = (6 + root) * kEps;
      return Outputs{{qkv, error}, {d, 2 * error * root * largest / smallest(norm)}};
    });
}

TEST(UnitRows, GradientsAddToWhatIsThere) {
  for (const int64_t channels : {5, 32})
    expect_like_reference(fmt::format("{} channels", channels), [&](const KernelTable& t, Context& context) {
      const int64_t rows = 7;
      Data x = random_data(t.dtype, rows * channels, 1), y(t.dtype, rows * channels), norm(t.dtype, rows);
      Data dy = random_data(t.dtype, rows * channels, 2), dx = random_data(t.dtype, rows * channels, 3), alone(t.dtype, rows * channels);
      UnitRowsArgs a;
      set_layout(a, RowLayout::contiguous(rows, channels), channels, x, y, norm);
      t.unit_rows(a, context);
      UnitRowsBackwardArgs b;
      set_layout(b, RowLayout::contiguous(rows, channels), channels, y, norm, dy, alone);
      t.unit_rows_backward(b, context);
      const Data before = dx;
      b.dx = dx.p();
      b.accumulate_dx = true;
      t.unit_rows_backward(b, context);
      const double tolerance = 4 * kEps * (alone.largest() + before.largest());
      for (int64_t i = 0; i < rows * channels; ++i) EXPECT_NEAR(dx.get(i), before.get(i) + alone.get(i), tolerance) << t.name;
      return Outputs{};
    });
}

// Rows of zeros stay zeros; below epsilon the length counts as a constant, on every table.
TEST(UnitRows, TinyRowsAreDividedByEpsilon) {
  for (const std::string_view name : {std::string_view("reference"), std::string_view("cpu.baseline"), std::string_view("auto")}) {
    const KernelTable& t = kernel_table(name);
    SCOPED_TRACE(std::string(t.name));
    Context context(t, t.dtype, 1);
    Data x(t.dtype, 6), y(t.dtype, 6), norm(t.dtype, 2), dy(t.dtype, 6, 2), dx(t.dtype, 6);
    x.set(3, 3e-13);
    UnitRowsArgs a;
    set_layout(a, RowLayout::contiguous(2, 3), 3, x, y, norm);
    t.unit_rows(a, context);
    EXPECT_EQ(y.get(0), 0);
    EXPECT_NEAR(y.get(3), 0.3, 1e-6);
    UnitRowsBackwardArgs b;
    set_layout(b, RowLayout::contiguous(2, 3), 3, y, norm, dy, dx);
    t.unit_rows_backward(b, context);
    for (int64_t i = 0; i < 6; ++i) EXPECT_NEAR(dx.get(i), 2e12, 1e6);
  }
}

TEST(UnitRows, GradientsOfTheReference) {
  Operation o;
  o.inputs = {{Shape{3, 11}}};
  o.outputs = {{Shape{6, 5}}, {Shape{6}, false}};
  const RowLayout strided{3, 2, 11, 5};  // two rows of 5 channels in every outer row of 11
  o.forward = [=](auto in, auto out, Context& ctx) {
    UnitRowsArgs a;
    a.channels = 5;
    a.x_rows = strided;
    a.y_rows = RowLayout::contiguous(6, 5);
    a.x = in[0].data;
    a.y = out[0].data;
    a.norm = out[1].data;
    ctx.kernels().unit_rows(a, ctx);
  };
  o.backward = [=](auto, auto out, auto dout, auto din, Context& ctx) {
    din[0].zero();
    UnitRowsBackwardArgs a;
    a.channels = 5;
    a.dx_rows = strided;
    a.y_rows = a.dy_rows = RowLayout::contiguous(6, 5);
    a.y = out[0].data;
    a.norm = out[1].data;
    a.dy = dout[0].data;
    a.dx = din[0].data;
    ctx.kernels().unit_rows_backward(a, ctx);
  };
  expect_adjoint(layer_of(o));
  expect_jacobian(layer_of(o));
}

TEST(ClampedExp, StopsAtItsLimitAndSoDoesItsGradient) {
  for (const std::string_view name : kernel_table_names()) {
    const KernelTable& t = kernel_table(name);
    if (t.dtype == DType::kDual) continue;
    SCOPED_TRACE(std::string(name));
    Context context(t, t.dtype, 1);
    Data x(t.dtype, 4), y(t.dtype, 4), dy(t.dtype, 4, 0.5), dx(t.dtype, 4, 1);
    x.set(0, -2);
    x.set(1, kLimit);  // rounded: the limit itself, below which the gradient passes
    x.set(2, kLimit + 1e-3);
    x.set(3, 300);
    t.clamped_exp(4, kLimit, x.p(), y.p(), context);
    t.clamped_exp_backward(4, kLimit, x.p(), y.p(), dy.p(), dx.p(), context);
    EXPECT_NEAR(y.get(0), std::exp(-2.0), 1e-7);
    for (int64_t i = 1; i < 4; ++i) EXPECT_NEAR(y.get(i), 100, 2e-5);
    EXPECT_NEAR(dx.get(0), 1 + 0.5 * std::exp(-2.0), 1e-6);
    EXPECT_NEAR(dx.get(1), 51, 2e-5);
    EXPECT_EQ(dx.get(2), 1);
    EXPECT_EQ(dx.get(3), 1);
  }
}

TEST(ScaledSigmoid, MatchesReference) {
  for (const int64_t count : {0, 1, 3, 31, 225 * 3, 40001})
    for (const bool in_place : {false, true})
      expect_like_reference(fmt::format("sigmoid of {} in place {}", count, in_place), [&](const KernelTable& t, Context& context) {
        const Data x = random_data(t.dtype, count, 1, 8);
        Data copy = x, y(t.dtype, count), dy = random_data(t.dtype, count, 2), dx(t.dtype, count);
        Data &result = in_place ? copy : y, &gradient = in_place ? dy : dx;
        const double largest = dy.largest();
        t.scaled_sigmoid(count, 16, copy.p(), result.p(), context);
        t.scaled_sigmoid_backward(count, 16, x.p(), dy.p(), gradient.p(), context);
        return Outputs{{result, 16 * 4 * kEps}, {gradient, 4 * 4 * kEps * largest}};
      });
}

// Far from zero it is 0 or the scale, without a NaN, and its slope keeps a relative precision of its own.
TEST(ScaledSigmoid, IsRightFarFromZero) {
  for_each_f32_table([](const KernelTable& t, Context& context) {
    Data x(t.dtype, 4), y(t.dtype, 4), dy(t.dtype, 4, 1), dx(t.dtype, 4);
    const double values[] = {-1000, -30, 30, 1000};
    for (int64_t i = 0; i < 4; ++i) x.set(i, values[i]);
    t.scaled_sigmoid(4, 16, x.p(), y.p(), context);
    t.scaled_sigmoid_backward(4, 16, x.p(), dy.p(), dx.p(), context);
    EXPECT_EQ(y.get(0), 0);
    EXPECT_EQ(y.get(3), 16);
    EXPECT_EQ(dx.get(0), 0);
    EXPECT_EQ(dx.get(3), 0);
    for (const int64_t i : {1, 2}) EXPECT_NEAR(dx.get(i) / (16 * std::exp(-30.0)), 1, 1e-5);
  });
}

TEST(TemperatureAndSigmoid, GradientsOfTheReference) {
  Operation o;
  o.inputs = {{Shape{7}}};
  o.outputs = {{Shape{7}}, {Shape{7}}};
  o.forward = [](auto in, auto out, Context& ctx) {
    ctx.kernels().clamped_exp(7, 0.2, in[0].data, out[0].data, ctx);  // some of N(0, 1) lie above
    ctx.kernels().scaled_sigmoid(7, 16, in[0].data, out[1].data, ctx);
  };
  o.backward = [](auto in, auto out, auto dout, auto din, Context& ctx) {
    ctx.kernels().scaled_sigmoid_backward(7, 16, in[0].data, dout[1].data, din[0].data, ctx);
    ctx.kernels().clamped_exp_backward(7, 0.2, in[0].data, out[0].data, dout[0].data, din[0].data, ctx);
  };
  expect_adjoint(layer_of(o));
  expect_jacobian(layer_of(o));
}

}  // namespace
}  // namespace fovea::test
