// Tiny models as their homes write them, and what their homes make of images (tools/make_dialect_fixtures.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "cli/run_cli.h"
#include "core/convert.h"
#include "core/text.h"
#include "fovea/convert.h"
#include "harness/expect.h"
#include "tasks/load_model.h"
#include "weights/weight_file.h"

namespace fovea {
namespace {

namespace fs = std::filesystem;

const fs::path kDialectFixtures = fs::path(FOVEA_TEST_FIXTURES) / "dialects";

std::vector<std::string> fixture_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kDialectFixtures)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::string checkpoint(const fs::path& folder) {
  return (folder / (fs::exists(folder / "model.npz") ? "model.npz" : "model.safetensors")).string();
}

harness::HostTensor read_tensor(const WeightFile& file, const std::string& name, DType dtype) {
  const WeightTensor& t = file.at(name);
  harness::HostTensor out(t.shape, dtype);
  std::vector<double> values(static_cast<size_t>(t.elements()));
  t.read(values.data());
  for (int64_t i = 0; i < t.elements(); ++i) store_scalar(out, i, values[static_cast<size_t>(i)]);
  return out;
}

LoadOptions told(const WeightFile& expected) {
  LoadOptions o;
  for (const std::string& setting : split(expected.metadata().at("settings"), ' '))
    if (const size_t at = setting.find('='); at != std::string::npos) o.set.emplace_back(setting.substr(0, at), setting.substr(at + 1));
  return o;
}

// Every size that is in `expected`: the tokens and logits of the model.
void expect_answers(const LoadedModel& model, const WeightFile& expected, const harness::Tolerance& tolerance) {
  const KernelTable& table = kernel_table("reference");
  Context ctx(table, table.dtype, 1);
  int sizes = 0;
  for (const WeightTensor& t : expected.tensors()) {
    if (!t.name.starts_with("x.")) continue;
    const std::string size = t.name.substr(2);
    SCOPED_TRACE(size);
    ArenaScope scope(ctx.scratch());
    const harness::HostTensor x = read_tensor(expected, t.name, table.dtype);
    const auto out = model.classifier->forward(x, nullptr, ctx);
    harness::expect_close(out.backbone.features, read_tensor(expected, "tokens." + size, table.dtype), tolerance, "tokens");
    ++sizes;
    if (expected.find("pooled." + size) != nullptr) harness::expect_close(out.pooled, read_tensor(expected, "pooled." + size, table.dtype), tolerance, "pooled");
    if (model.classifier->heads() == 0) continue;
    const harness::HostTensor logits(out.logits[0].shape, table.dtype);
    model.classifier->classify(x, logits, ctx);
    harness::expect_close(logits, read_tensor(expected, "logits." + size, table.dtype), tolerance, "logits");
  }
  EXPECT_GE(sizes, 2);
}

// What a model says that it leaves out, "'text_model.*' (16 tensors)", has this name among it.
bool is_beside(const LoadedModel& model, const std::string& name) {
  return std::ranges::any_of(model.left_out, [&](const std::string& group) { return name.starts_with(group.substr(1, group.find_first_of("*'", 1) - 1)); });
}

class Dialects : public testing::TestWithParam<std::string> {
 protected:
  // Older names, chunks of blocks, backbones without what stands around them, and models beside others: read, but never written.
  static bool written_by_other_names() {
    const std::string& name = GetParam();
    return name.ends_with("_legacy") || name.ends_with("_chunks") || name.ends_with("_bare") || name.ends_with("_whole") || name.ends_with("_big_vision") || name == "huggingface_dinov2_gated";
  }
};

// The weights are stored in f32 and the answers, computed in f64 on both sides, rounded to f32 once.
TEST_P(Dialects, AnswerAsTheirHomesDo) {
  const fs::path folder = kDialectFixtures / GetParam();
  const WeightFile expected = open_weights((folder / "expected.safetensors").string());
  const LoadedModel model = load_model(checkpoint(folder), told(expected), DType::kF64);
  const std::string home = GetParam().substr(0, GetParam().find('_'));
  EXPECT_THAT(model.dialect, testing::StartsWith(home));
  expect_answers(model, expected, harness::Tolerance::relative(1e-6));
}

// To timm's names and back the file is the same, bit by bit, and answers the same in between.
TEST_P(Dialects, ComeBackFromAConversion) {
  const fs::path folder = kDialectFixtures / GetParam();
  const TemporaryFolder scratch;
  const WeightFile expected = open_weights((folder / "expected.safetensors").string());
  const LoadOptions options = told(expected);
  const LoadedModel model = load_model(checkpoint(folder), options, DType::kF64);
  const std::string own = scratch / "own.safetensors";
  const std::string back = scratch / "back.safetensors";
  ConvertOptions to_own;
  to_own.set = options.set;
  convert(checkpoint(folder), own, to_own);
  expect_answers(load_model(own, {}, DType::kF64), expected, harness::Tolerance::relative(1e-6));
  ConvertOptions to_home;
  to_home.to = model.dialect;
  convert(own, back, to_home);
  const WeightFile a = open_weights(checkpoint(folder)), b = open_weights(back);
  for (const WeightTensor& t : a.tensors()) {
    if (t.name.find("mask_token") != std::string::npos || t.name.find("pooler") != std::string::npos) continue;
    if (written_by_other_names() || is_beside(model, t.name)) continue;
    ASSERT_NE(b.find(t.name), nullptr) << t.name << " is not in the file that came back";
    ASSERT_EQ(b.at(t.name).shape, t.shape) << t.name;
    std::vector<double> before(static_cast<size_t>(t.elements())), after(before.size());
    t.read(before.data());
    b.at(t.name).read(after.data());
    EXPECT_EQ(before, after) << t.name;
  }
  expect_answers(load_model(back, options, DType::kF64), expected, harness::Tolerance::relative(1e-6));
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Dialects, testing::ValuesIn(fixture_names()), [](const auto& i) { return i.param; });

// Weights that someone trained, f16, with a decoder beside the backbone. The tokens are those of the same weights in f32 and of the
// model that they were rounded from.
TEST(VitS14Focus, GivesItsStoredTokens) {
  const fs::path folder = fs::path(FOVEA_SHARED) / "data" / "vit_s14_focus";
  if (!fs::exists(folder / "vit_s14_focus_fp16.safetensors")) GTEST_SKIP() << "the checkpoint in " << folder << " is not here";
  const auto read_floats = [&](const char* name, int64_t count) {
    std::vector<float> values(static_cast<size_t>(count));
    std::ifstream in(folder / name, std::ios::binary);
    in.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(float)));
    EXPECT_EQ(in.gcount(), static_cast<std::streamsize>(values.size() * sizeof(float))) << name;
    return values;
  };
  const auto pixels = read_floats("tench_input_3x224x224_f32.bin", 3 * 224 * 224);
  const auto of_fp16 = read_floats("tench_lastnorm_257x384_f32_from_fp16_weights.bin", 257 * 384);
  const auto of_fp32 = read_floats("tench_lastnorm_257x384_f32_from_fp32_onnx.bin", 257 * 384);
  const KernelTable& table = kernel_table("auto");
  Context ctx(table, table.dtype, 1);
  const LoadedModel model = load_for_inference((folder / "vit_s14_focus_fp16.safetensors").string(), {}, ctx);
  EXPECT_EQ(model.dialect, "huggingface-dinov2");
  EXPECT_EQ(model.classifier->heads(), 0);
  EXPECT_EQ(model.classifier->config().heads, 6);
  EXPECT_EQ(model.classifier->config().position_resampling, "bicubic");
  EXPECT_THAT(model.left_out, testing::Contains(testing::HasSubstr("decoder.")));
  ArenaScope scope(ctx.scratch());
  const auto out = model.classifier->forward(ConstTensor(pixels.data(), Shape{1, 3, 224, 224}, DType::kF32), nullptr, ctx);
  ASSERT_EQ(out.backbone.features.elements(), 257 * 384);
  double from_fp16 = 0, from_fp32 = 0, largest = 0;
  for (int64_t i = 0; i < 257 * 384; ++i) {
    const double y = load_scalar(out.backbone.features, i);
    const auto n = static_cast<size_t>(i);
    from_fp16 = std::max(from_fp16, std::fabs(y - of_fp16[n]));
    from_fp32 = std::max(from_fp32, std::fabs(y - of_fp32[n]));
    largest = std::max<double>(largest, std::fabs(of_fp16[n]));
  }
  EXPECT_LE(from_fp16, 1e-4 * largest);
  EXPECT_LE(from_fp32, 2e-2);
}

}  // namespace
}  // namespace fovea
