#include "fovea/bench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fovea/error.h"
#include "fovea/info.h"
#include "weights/safetensors.h"

namespace fovea {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

BenchOptions quick() {
  BenchOptions o;
  o.execution.threads = 1;
  o.seconds = 0;
  return o;
}

void expect_sound(const BenchResult& r) {
  EXPECT_GE(r.runs, 5);
  EXPECT_GT(r.ms_min, 0);
  EXPECT_GE(r.ms_median, r.ms_min);
  EXPECT_DOUBLE_EQ(r.ms_per_image * static_cast<double>(r.batch), r.ms_median);
  EXPECT_NEAR(r.gflops, r.gflop / (r.ms_median * 1e-3), 1e-9 * r.gflops);
  EXPECT_GT(r.percent_of_peak, 0);
  EXPECT_GT(r.peak_memory_mib, 0);
}

// qkv and proj of C x 3C and C x C for each token, and two products of D for each pair in a window.
TEST(BenchAttention, CountsWhatTheDefinitionNeeds) {
  BenchOptions o = quick();
  o.batch = 2;
  o.height = 6;
  o.width = 9;
  o.heads = 2;
  o.head_dim = 8;
  const BenchResult r = bench_attention("window:size=3", o);
  expect_sound(r);
  const double tokens = 2 * 54, c = 16;
  EXPECT_NEAR(r.gflop, 2e-9 * (tokens * c * 4 * c + tokens * 9 * 2 * c), 1e-12);
  EXPECT_EQ(r.pass, "forward");
  o.pass = BenchOptions::Pass::kBackward;
  const BenchResult b = bench_attention("window:size=3", o);
  expect_sound(b);
  EXPECT_NEAR(b.gflop, 3 * r.gflop, 1e-12);
  EXPECT_EQ(b.pass, "forward+backward");
}

TEST(BenchAttention, TakesLongSequences) {
  BenchOptions o = quick();
  o.height = 1;
  o.width = 20000;
  o.heads = 1;
  o.head_dim = 4;
  EXPECT_EQ(bench_attention("window:size=7", o).tokens, 20000);
}

TEST(BenchAttention, TokensMakeASquareMap) {
  BenchOptions o = quick();
  o.tokens = 50;
  o.heads = 1;
  o.head_dim = 8;
  const BenchResult r = bench_attention("global", o);
  EXPECT_EQ(r.height, 7);
  EXPECT_EQ(r.tokens, 49);
}

// The parameters, the input and the upstream gradient come from a file, and the answer of a pass goes to one.
TEST(BenchAttention, TakesAndGivesTensors) {
  const std::string in = testing::TempDir() + "fovea_bench_in.safetensors", out = testing::TempDir() + "fovea_bench_out.safetensors";
  const std::vector<float> qkv(12, 0), eye = {1, 0, 0, 1}, zeros(6, 0), x = {1, 2, 3, 4}, dy = {1, 1, 1, 1};
  std::vector<float> value_only = qkv;
  value_only[8] = value_only[11] = 1;  // v = x, q = k = 0: every token gets the mean
  const auto write = [&](const std::vector<float>& input) {
    write_safetensors(in,
                      std::vector<TensorToWrite>{{"qkv.weight", DType::kF32, Shape{6, 2}, value_only.data()},
                                                 {"qkv.bias", DType::kF32, Shape{6}, zeros.data()},
                                                 {"proj.weight", DType::kF32, Shape{2, 2}, eye.data()},
                                                 {"proj.bias", DType::kF32, Shape{2}, zeros.data()},
                                                 {"x", DType::kF32, Shape{static_cast<int64_t>(input.size()) / 2, 2}, input.data()},
                                                 {"dy", DType::kF32, Shape{2, 2}, dy.data()}},
                      {});
  };
  BenchOptions o = quick();
  o.height = 1;
  o.width = 2;
  o.heads = 1;
  o.head_dim = 2;
  o.pass = BenchOptions::Pass::kBackward;
  o.tensors = in;
  o.write = out;
  write(x);
  (void)bench_attention("global", o);
  std::vector<float> y(4), dx(4);
  open_weights(out).read_f32("y", y.data());
  open_weights(out).read_f32("dx", dx.data());
  EXPECT_THAT(y, testing::Pointwise(testing::FloatNear(1e-6f), {2.f, 3.f, 2.f, 3.f}));
  EXPECT_THAT(dx, testing::Pointwise(testing::FloatNear(1e-6f), {1.f, 1.f, 1.f, 1.f}));
  write({1, 2});
  EXPECT_THAT([&] { (void)bench_attention("global", o); }, ThrowsMessage<Error>(HasSubstr("tensor 'x' has shape")));
}

TEST(BenchModel, MeasuresForwardAndTraining) {
  BenchOptions o = quick();
  o.batch = 2;
  const BenchResult r = bench_model("swin_mini", o);
  expect_sound(r);
  o.pass = BenchOptions::Pass::kTrain;
  const BenchResult t = bench_model("swin_mini", o);
  expect_sound(t);
  EXPECT_EQ(t.pass, "train");
  EXPECT_NEAR(t.gflop, 3 * r.gflop, 1e-9);
  EXPECT_GT(t.ms_min, r.ms_min);
  o.dtype = "bf16";
  const BenchResult rounded = bench_model("swin_mini", o);
  expect_sound(rounded);
  EXPECT_EQ(rounded.dtype, "bf16");
}

TEST(Bench, SaysWhatIsWrong) {
  BenchOptions o = quick();
  o.dtype = "fp8";
  EXPECT_THAT([&] { (void)bench_model("swin_mini", o); }, ThrowsMessage<Error>(HasSubstr("choose f32, bf16 or int8")));
  o.dtype = "int8";
  o.pass = BenchOptions::Pass::kTrain;
  EXPECT_THAT([&] { (void)bench_model("swin_mini", o); }, ThrowsMessage<Error>(HasSubstr("a training step is in f32 or bf16")));
  o = quick();
  o.batch = 0;
  EXPECT_THAT([&] { (void)bench_attention("global", o); }, ThrowsMessage<Error>(HasSubstr("--batch 0")));
  o = quick();
  o.pass = BenchOptions::Pass::kTrain;
  EXPECT_THAT([&] { (void)bench_attention("global", o); }, ThrowsMessage<Error>(HasSubstr("--backward")));
}

TEST(Lists, NameWhatThereIs) {
  bool conv = false, chosen = false;
  for (const ModelListing& m : list_models()) {
    EXPECT_GT(m.parameters, 0) << m.name;
    EXPECT_GT(m.gflop, 0) << m.name;
    if (m.name == "swin_tiny_patch4_window7_224") {
      EXPECT_EQ(m.parameters, 28288354);
    }
    if (m.name == "swin_mini") conv = m.summary.find("early-convolution stem") != std::string::npos;
  }
  EXPECT_TRUE(conv);
  for (const KernelListing& k : list_kernels()) chosen |= k.chosen;
  EXPECT_TRUE(chosen);
  EXPECT_GE(list_attentions().size(), 2u);
  EXPECT_FALSE(list_datasets().empty());
  EXPECT_FALSE(version().empty());
}

}  // namespace
}  // namespace fovea
