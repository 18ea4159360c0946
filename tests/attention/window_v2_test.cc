#include "attention/window_v2.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/convert.h"
#include "harness/expect.h"
#include "harness/layers.h"

namespace fovea {
namespace {

using harness::HostTensor;

AttentionConfig heads(int64_t dim, int64_t count) {
  AttentionConfig c;
  c.dim = dim;
  c.heads = count;
  return c;
}

// The bias table of a window with parameters that make the perceptron readable: hidden unit 0 is relu(t_y), unit 1 relu(t_x),
// unit 2 relu(-t_y); the head adds them with weights 1, 2 and 4.
std::vector<double> table_of(const OffsetTable& offsets) {
  ParamStore p;
  const ContinuousPositionBias bias(Scope(p), 1);
  p.allocate(DType::kF64, ParamStore::Gradients::kNo);
  double* w1 = p.find("cpb_mlp.0.weight")->value.as<double>();
  w1[0] = 1;
  w1[3] = 1;
  w1[4] = -1;
  double* w2 = p.find("cpb_mlp.2.weight")->value.as<double>();
  w2[0] = 1;
  w2[1] = 2;
  w2[2] = 4;
  Context ctx(kernel_table("reference"), DType::kF64, 1);
  HostTensor table(Shape{offsets.rows(), 1}, DType::kF64);
  bias.forward(offsets, table, ctx);
  std::vector<double> z;  // before 16 sigmoid
  for (int64_t i = 0; i < offsets.rows(); ++i) z.push_back(-std::log(16 / load_scalar(table, i) - 1));
  return z;
}

TEST(ContinuousPositionBias, LogSpacedOffsetsByHand) {
  // A window of 1 x 2 measured against 3 x 3: u = 8 dx / 2, t = log8(|u| + 1) = log8(5).
  const double t = std::log(5.0) / std::log(8.0);
  EXPECT_THAT(table_of({1, 2, 3, 3}), testing::Pointwise(testing::DoubleNear(1e-9), {0.0, 0.0, 2 * t}));
  // 2 x 1 against itself: u = 8 dy, t = log8(9).
  const double s = std::log(9.0) / std::log(8.0);
  EXPECT_THAT(table_of({2, 1, 2, 1}), testing::Pointwise(testing::DoubleNear(1e-9), {4 * s, 0.0, s}));
  // One token against a window of one: no offset, no division by zero.
  EXPECT_THAT(table_of({1, 1, 1, 1}), testing::Pointwise(testing::DoubleNear(1e-9), {0.0}));
}

TEST(ContinuousPositionBias, GradientsOfItsParameters) {
  const OffsetTable offsets{3, 2, 5, 5};
  const harness::LayerFactory layer = harness::built<ContinuousPositionBias>(
      {{},
       {Shape{offsets.rows(), 3}},
       [](ParamStore& p) { return std::make_unique<ContinuousPositionBias>(Scope(p), 3); },
       [=](ContinuousPositionBias& b, auto, auto out, Tape*, Context& ctx) { b.forward(offsets, out[0], ctx); },
       [=](ContinuousPositionBias& b, auto dout, auto, Tape&, Context& ctx) { b.backward(offsets, dout[0], ctx); }});
  harness::expect_adjoint(layer);
  for (const KernelTable* table : harness::f32_tables()) {
    SCOPED_TRACE(std::string(table->name));
    harness::expect_like_reference(layer, *table);
  }
}

// One window as large as the map against the formula, token by token.
TEST(WindowV2, OneWindowIsTheFormula) {
  ParamStore p;
  const auto attention = make_attention(parse_attention("window_v2:size=2"), Scope(p), heads(4, 2));
  p.allocate(DType::kF64, ParamStore::Gradients::kNo);
  harness::randomise(p, Rng(3), 0.5);
  store_scalar(p.find("logit_scale")->value, 1, 9);  // above the clamp
  Context ctx(kernel_table("reference"), DType::kF64, 1);
  const HostTensor x = harness::random_tensor(Shape{1, 4, 4}, Rng(4), DType::kF64);
  AttentionInputs in;
  in.x = x;
  in.grid = {1, 0, 2, 2};
  HostTensor y(x.shape, x.dtype);
  attention->forward(in, y, nullptr, ctx);

  const auto value = [&](const char* name, int64_t i) { return load_scalar(p.find(name)->value, i); };
  HostTensor table(Shape{9, 2}, DType::kF64);
  for (int64_t row = 0; row < 9; ++row)
    for (int64_t h = 0; h < 2; ++h) {
      const auto spaced = [](int64_t offset) {
        const double u = 8.0 * static_cast<double>(offset);
        return std::copysign(std::log2(std::fabs(u) + 1) / 3, u);
      };
      const double ty = spaced(row / 3 - 1), tx = spaced(row % 3 - 1);
      double z = 0;
      for (int64_t k = 0; k < 512; ++k)
        z += value("cpb_mlp.2.weight", h * 512 + k) *
             std::max(0.0, value("cpb_mlp.0.weight", 2 * k) * ty + value("cpb_mlp.0.weight", 2 * k + 1) * tx + value("cpb_mlp.0.bias", k));
      store_scalar(table, row * 2 + h, 16 / (1 + std::exp(-z)));
    }
  double q[4][4], k[4][4], v[4][4], o[4][4];
  for (int t = 0; t < 4; ++t)
    for (int c = 0; c < 4; ++c) {
      q[t][c] = value("q_bias", c);
      k[t][c] = 0;
      v[t][c] = value("v_bias", c);
      for (int i = 0; i < 4; ++i) {
        const double xi = load_scalar(x, t * 4 + i);
        q[t][c] += value("qkv.weight", c * 4 + i) * xi;
        k[t][c] += value("qkv.weight", (4 + c) * 4 + i) * xi;
        v[t][c] += value("qkv.weight", (8 + c) * 4 + i) * xi;
      }
    }
  for (int h = 0; h < 2; ++h)
    for (int t = 0; t < 4; ++t) {
      const double tau = std::exp(std::min(value("logit_scale", h), std::log(100.0)));
      double sum = 0, out[2] = {0, 0};
      for (int s = 0; s < 4; ++s) {
        const double* a = q[t] + 2 * h;
        const double* b = k[s] + 2 * h;
        const double cosine = (a[0] * b[0] + a[1] * b[1]) / std::hypot(a[0], a[1]) / std::hypot(b[0], b[1]);
        const int64_t row = (t / 2 - s / 2 + 1) * 3 + t % 2 - s % 2 + 1;
        const double weight = std::exp(tau * cosine + load_scalar(table, row * 2 + h) - 50);
        sum += weight;
        for (int c = 0; c < 2; ++c) out[c] += weight * v[s][2 * h + c];
      }
      for (int c = 0; c < 2; ++c) o[t][2 * h + c] = out[c] / sum;
    }
  for (int t = 0; t < 4; ++t)
    for (int c = 0; c < 4; ++c) {
      double expected = value("proj.bias", c);
      for (int i = 0; i < 4; ++i) expected += value("proj.weight", c * 4 + i) * o[t][i];
      EXPECT_NEAR(load_scalar(y, t * 4 + c), expected, 1e-12) << "token " << t << " channel " << c;
    }
}

class ClampedWindow : public harness::LayerUnderTest {
 public:
  explicit ClampedWindow(const TokenGrid& grid)
      : grid_(grid), attention_(make_attention(parse_attention("window_v2:size=3"), Scope(params()), config())) {}
  std::vector<Shape> input_shapes() const override { return {Shape{grid_.batch, grid_.tokens(), 4}}; }
  std::vector<Shape> output_shapes() const override { return {Shape{grid_.batch, grid_.tokens(), 4}}; }
  void forward(std::span<const ConstTensor> in, std::span<const Tensor> out, Tape* tape, Context& ctx) override {
    AttentionInputs inputs;
    inputs.x = in[0];
    inputs.grid = grid_;
    attention_->forward(inputs, out[0], tape, ctx);
  }
  void backward(std::span<const ConstTensor> dout, std::span<const Tensor> din, Tape& tape, Context& ctx) override {
    attention_->backward(dout[0], {din[0], {}, {}}, tape, ctx);
  }

 private:
  static AttentionConfig config() {
    AttentionConfig c = heads(4, 2);
    c.block = 1;
    return c;
  }
  TokenGrid grid_;
  std::unique_ptr<Attention> attention_;
};

TEST(WindowV2, AboveTheClampTheTemperatureIsConstant) {
  for (const KernelTable* table : harness::real_tables()) {
    SCOPED_TRACE(std::string(table->name));
    ClampedWindow layer({2, 0, 5, 4});
    layer.params().allocate(table->dtype, ParamStore::Gradients::kYes);
    harness::randomise(layer.params(), Rng(2));
    const Tensor scale = layer.params().find("logit_scale")->value, gradient = layer.params().find("logit_scale")->grad;
    const HostTensor x = harness::random_tensor(Shape{2, 20, 4}, Rng(3), table->dtype);
    const HostTensor dy = harness::random_tensor(Shape{2, 20, 4}, Rng(4), table->dtype);
    HostTensor at(x.shape, x.dtype), above(x.shape, x.dtype), dx(x.shape, x.dtype);
    Context ctx(*table, table->dtype, 1);
    const auto run = [&](double logit, const Tensor& y) {
      store_scalar(scale, 0, logit);
      Tape tape;
      layer.params().zero_grads();
      const ConstTensor in[] = {x}, up[] = {dy};
      const Tensor out[] = {y}, down[] = {dx};
      layer.forward(in, out, &tape, ctx);
      layer.backward(up, down, tape, ctx);
    };
    run(std::log(100.0), at);
    EXPECT_NE(load_scalar(gradient, 0), 0);
    EXPECT_NE(load_scalar(gradient, 1), 0);
    run(7, above);
    EXPECT_EQ(load_scalar(gradient, 0), 0);
    EXPECT_NE(load_scalar(gradient, 1), 0);
    harness::expect_close(above, at, harness::Tolerance::relative(table->dtype == DType::kF64 ? 1e-12 : 1e-5), "output");
  }
}

// Every other gradient with both heads above the clamp.
TEST(WindowV2, GradientsAboveTheClamp) {
  struct Clamped : ClampedWindow {
    Clamped() : ClampedWindow({2, 0, 5, 4}) {
      for (Param& p : params().params())
        if (p.name == "logit_scale") p.init = Init::constant(6);
    }
  };
  harness::OracleOptions o;
  o.zero_gradients = {"logit_scale"};
  harness::expect_adjoint([] { return std::make_unique<Clamped>(); }, o);
}

TEST(WindowV2, EveryRuleOnOddAndSmallMaps) {
  AttentionConfig c = heads(4, 2);
  c.block = 1;
  for (const char* rule : {"timm", "microsoft", "torchvision", "mmdet"})
    for (const TokenGrid& grid : {TokenGrid{2, 0, 7, 5}, TokenGrid{1, 0, 2, 6}, TokenGrid{1, 0, 1, 5}}) {
      SCOPED_TRACE(fmt::format("{} {}", rule, grid.str()));
      harness::OracleOptions o;
      if (std::string(rule) == "microsoft" && grid.height == 1)  // windows of one token, whose scores do not matter
        for (const char* p : {"logit_scale", "q_bias", "cpb_mlp.0.weight", "cpb_mlp.0.bias", "cpb_mlp.2.weight"})
          o.zero_gradients.push_back(fmt::format("attn.{}", p));
      harness::expect_adjoint(harness::attention_layer(parse_attention(fmt::format("window_v2:size=4x3:rule={}:pretrained_window=6", rule)), c, grid), o);
    }
}

// A window larger than the map is measured by the map, unless it was trained with another.
TEST(WindowV2, AShrunkWindowIsOneOfItsSize) {
  harness::for_each_table([](const KernelTable& table) {
    const HostTensor x = harness::random_tensor(Shape{1, 12, 4}, Rng(1), table.dtype);
    const auto run = [&](const std::string& spec) {
      ParamStore p;
      const auto attention = make_attention(parse_attention(spec), Scope(p), heads(4, 1));
      p.allocate(table.dtype, ParamStore::Gradients::kNo);
      harness::randomise(p, Rng(2));
      Context ctx(table, table.dtype, 1);
      AttentionInputs in;
      in.x = x;
      in.grid = {1, 0, 3, 4};
      HostTensor y(x.shape, x.dtype);
      attention->forward(in, y, nullptr, ctx);
      return y;
    };
    harness::expect_same_bits(run("window_v2:size=8"), run("window_v2:size=3x4"), "shrunk");
    harness::expect_same_bits(run("window_v2:size=8:pretrained_window=8"), run("window_v2:size=3x4:pretrained_window=8"), "shrunk, with a reference");
    EXPECT_GT(harness::relative_error(run("window_v2:size=8"), run("window_v2:size=8:pretrained_window=8")), 1e-6);
  });
}

TEST(WindowV2, FreshParametersAreThePublishedOnes) {
  ParamStore p;
  const auto attention = make_attention(parse_attention("window_v2"), Scope(p), heads(8, 2));
  p.allocate(DType::kF64, ParamStore::Gradients::kNo);
  p.initialise(Rng(1));
  EXPECT_NEAR(load_scalar(p.find("logit_scale")->value, 1), std::log(10.0), 1e-7);
  EXPECT_EQ(load_scalar(p.find("q_bias")->value, 0), 0);
  EXPECT_EQ(p.find("qkv.bias"), nullptr);
  double largest = 0;
  for (int64_t i = 0; i < 1024; ++i) largest = std::max(largest, std::fabs(load_scalar(p.find("cpb_mlp.0.weight")->value, i)));
  EXPECT_LE(largest, 0.04);
  EXPECT_GT(largest, 0.03);
  for (const char* name : {"logit_scale", "q_bias", "v_bias", "cpb_mlp.0.weight", "cpb_mlp.0.bias", "cpb_mlp.2.weight"})
    EXPECT_EQ(p.find(name)->decay, Decay::kNo) << name;
}

TEST(WindowV2, PrefixTokensMeetAllWithoutAPositionTerm) {
  AttentionConfig c = heads(4, 2);
  for (const int64_t block : {0, 1}) {
    c.block = block;
    harness::expect_adjoint(harness::attention_layer(parse_attention("window_v2:size=3"), c, {2, 2, 5, 4}));
  }
}

TEST(WindowV2, SaysWhatItCannotDo) {
  ParamStore p;
  AttentionConfig c = heads(4, 1);
  c.qk_norm = true;
  EXPECT_THAT([&] { (void)make_attention(parse_attention("window_v2"), Scope(p) / "b", c); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("without qk_norm")));
  c.qk_norm = false;
  c.cross = true;
  EXPECT_THAT([&] { (void)make_attention(parse_attention("window_v2"), Scope(p) / "d", c); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("second input")));
  EXPECT_THROW((void)make_attention(parse_attention("window_v2:pretrained_window=x"), Scope(p) / "c", heads(4, 1)), Error);
}

}  // namespace
}  // namespace fovea
