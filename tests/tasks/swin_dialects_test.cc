// Swin, Swin V2 and CSWin as other code bases write them, against those code bases' own answers (tools/make_swin_fixtures.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "core/text.h"
#include "fovea/fovea.h"
#include "tasks/model_impl.h"
#include "weights/safetensors.h"
#include "weights/weight_file.h"

namespace fovea {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::ThrowsMessage;

const fs::path kSwinFixtures = FOVEA_TEST_FIXTURES "/swin";

std::string weights_of(const std::string& name) { return (kSwinFixtures / name / "model.safetensors").string(); }

std::vector<float> wave(int64_t height, int64_t width) {
  std::vector<float> x(static_cast<size_t>(3 * height * width));
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(0.37f * static_cast<float>(i));
  return x;
}

// The logits, or the last map where there is no head.
std::vector<float> last_answer(const Model& model, int64_t height, int64_t width) {
  Session session(model, {.threads = 1, .kernels = "reference"});
  const std::vector<float> x = wave(height, width);
  if (model.info().classes > 0) return session.logits(x.data(), 1, height, width);
  return session.features(x.data(), 1, height, width).pyramid.back().values;
}

Model reference_model(const std::string& file, const Settings& set = {}) {
  LoadOptions options;
  options.kernels = "reference";
  options.set = set;
  return Model::load(file, options);
}

void expect_home_answers(const std::string& name, const Settings& set = {}) {
  const Model model = reference_model(weights_of(name), set);
  const WeightFile answers = open_weights((kSwinFixtures / name / "answers.safetensors").string());
  for (const WeightTensor& t : answers.tensors()) {
    SCOPED_TRACE(name + " at " + t.name);
    const std::vector<std::string> sides = split(t.name, 'x');
    std::vector<float> want(static_cast<size_t>(t.elements()));
    t.read(want.data());
    const std::vector<float> got = last_answer(model, std::stoll(sides[0]), std::stoll(sides[1]));
    ASSERT_EQ(got.size(), want.size());
    float largest = 0, apart = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      largest = std::max(largest, std::fabs(want[i]));
      apart = std::max(apart, std::fabs(got[i] - want[i]));
    }
    EXPECT_LT(apart, 3e-6f * largest);
  }
}

class SwinDialect : public ::testing::TestWithParam<const char*> {};

TEST_P(SwinDialect, AnswersAsItsHomeDoesAtEverySize) { expect_home_answers(GetParam()); }

INSTANTIATE_TEST_SUITE_P(Homes, SwinDialect,
                         ::testing::Values("timm", "timm_v2", "torchvision", "torchvision_v2", "huggingface", "huggingface_v2", "huggingface_backbone",
                                           "microsoft", "microsoft_detection", "mmdet", "mmpretrain", "huggingface_absolute", "microsoft_absolute",
                                           "mmpretrain_absolute", "microsoft_detection_absolute", "huggingface_epsilon", "huggingface_v2_epsilon",
                                           "huggingface_backbone_epsilon"),
                         [](const auto& p) { return std::string(p.param); });

// Absolute positions: where the home does not resample them another size is refused with a way out, and timm has none.
TEST(SwinDialects, AbsolutePositionsGoAsTheHomeHasThem) {
  const Model fixed = reference_model(weights_of("microsoft_absolute"));
  EXPECT_THAT([&] { last_answer(fixed, 40, 56); }, ThrowsMessage<Error>(HasSubstr("--set position_resampling=bicubic")));
  const Model resampled = reference_model(weights_of("microsoft_absolute"), {{"position_resampling", "bicubic"}});
  EXPECT_EQ(last_answer(resampled, 40, 56), last_answer(reference_model(weights_of("huggingface_absolute")), 40, 56));
  const fs::path folder = fs::path(::testing::TempDir()) / "swin_absolute";
  fs::remove_all(folder);
  for (const char* to : {"huggingface", "mmpretrain"}) {
    SCOPED_TRACE(to);
    fs::create_directories(folder / to);
    ConvertOptions options;
    options.to = to;
    convert(weights_of("microsoft_absolute"), (folder / to / "model.safetensors").string(), options);
    EXPECT_EQ(last_answer(reference_model((folder / to / "model.safetensors").string()), 40, 56), last_answer(resampled, 40, 56));
  }
  ConvertOptions options;
  options.to = "microsoft";
  convert(weights_of("microsoft_detection_absolute"), (folder / "back.safetensors").string(), options);
  EXPECT_EQ(open_weights((folder / "back.safetensors").string()).at("absolute_pos_embed").shape, (Shape{1, 4, 8, 8}));
  EXPECT_EQ(last_answer(reference_model((folder / "back.safetensors").string()), 40, 56), last_answer(reference_model(weights_of("microsoft_detection_absolute")), 40, 56));
  options.to = "timm";
  EXPECT_THAT([&] { convert(weights_of("microsoft_absolute"), (folder / "timm.safetensors").string(), options); },
              ThrowsMessage<Error>(HasSubstr("its Swin has no absolute positions")));
}

// What the shapes do not tell of a small CSWin.
TEST(SwinDialects, CSwin) {
  expect_home_answers("cswin", {{"stage_heads", "2,4,4"}, {"attention", "cross_shaped:stripe=1/cross_shaped:stripe=2/cross_shaped:branches=1"}});
}

// timm's options besides the one that builds a model for a size, as settings.
TEST(SwinDialects, TimmsOtherWaysToOtherSizes) {
  expect_home_answers("timm_dynamic", {{"attention", "window:size=3:shrink=no:zero_shift=no"}});
  expect_home_answers("timm_partition", {{"attention", "window:size=3:shrink=no:zero_shift=no"}});
}

TEST(SwinDialects, OtherWindowsKeepTheRestOfTheDialect) {
  const auto attention = [](const std::string& name, const std::string& asked) {
    return reference_model(weights_of(name), {{"attention", asked}}).info().attention;
  };
  EXPECT_EQ(attention("microsoft", "window:size=4"), "window:pretrained_window=3:resample=bicubic:rule=microsoft:size=4");
  EXPECT_EQ(attention("timm", "window:size=4x2:rule=mmdet"), "window:pretrained_window=3:resample=geometric:rule=mmdet:size=4x2");
  EXPECT_EQ(attention("timm", "window:size=3"), "window:resample=geometric:size=3");
  EXPECT_EQ(attention("torchvision_v2", "window_v2:size=4"), "window_v2:rule=torchvision:size=4");
}

TEST(SwinDialects, EveryFileComesBackFromEveryOtherDialect) {
  const fs::path folder = fs::path(::testing::TempDir()) / "swin_dialects";
  fs::remove_all(folder);
  const auto logits = [](const std::string& file) { return last_answer(reference_model(file), 40, 56); };
  for (const auto& [home, homes] : std::vector<std::pair<std::string, std::vector<std::string>>>{
           {"microsoft", {"timm", "torchvision", "huggingface", "mmpretrain"}}, {"torchvision_v2", {"timm", "microsoft", "huggingface", "mmpretrain"}}}) {
    for (const std::string& to : homes) {
      SCOPED_TRACE(home + " to " + to);
      const fs::path there = folder / home / to / "model.safetensors", back = folder / home / to / "back" / "model.safetensors";
      fs::create_directories(back.parent_path());
      ConvertOptions options;
      options.to = to;
      convert(weights_of(home), there.string(), options);
      options.to = home.substr(0, home.find('_'));
      convert(there.string(), back.string(), options);
      EXPECT_EQ(logits(back.string()), logits(weights_of(home)));
      const WeightFile first = open_weights(weights_of(home)), last = open_weights(back.string());
      for (const WeightTensor& t : first.tensors()) {
        if (t.name.ends_with("attn_mask")) continue;  // which its home computes anew
        const WeightTensor* other = last.find(t.name);
        ASSERT_NE(other, nullptr) << t.name;
        EXPECT_EQ(other->shape, t.shape) << t.name;
        if (t.type != StoredType::kF16 || t.name.ends_with("qkv.bias")) continue;  // of which a third means nothing
        std::vector<std::byte> a(static_cast<size_t>(t.elements()) * 2), b(a.size());
        t.copy(a.data());
        if (other->type != t.type) continue;  // buffers are written in f32
        other->copy(b.data());
        EXPECT_EQ(a, b) << t.name;
      }
    }
  }
}

// A pickled module has its buffers, too, those among them that state dicts leave out.
TEST(SwinDialects, ThePickledBiasOfKeysIsABuffer) {
  const fs::path folder = fs::path(::testing::TempDir()) / "swin_pickled";
  fs::create_directories(folder);
  const WeightFile file = open_weights(weights_of("timm_v2"));
  std::vector<TensorToWrite> tensors;
  for (const WeightTensor& t : file.tensors()) tensors.push_back({t.name, t.type == StoredType::kF16 ? DType::kF16 : t.type == StoredType::kI64 ? DType::kI64 : DType::kF32, t.shape, t.data});
  const float zeros[4] = {};
  tensors.push_back({"layers.0.blocks.0.attn.k_bias", DType::kF32, Shape{4}, zeros});
  write_safetensors((folder / "model.safetensors").string(), tensors, {});
  fs::copy_file(kSwinFixtures / "timm_v2" / "config.json", folder / "config.json", fs::copy_options::overwrite_existing);
  EXPECT_EQ(last_answer(reference_model((folder / "model.safetensors").string()), 32, 32), last_answer(reference_model(weights_of("timm_v2")), 32, 32));
}

TEST(SwinDialects, RefusesWhatIsNotTold) {
  EXPECT_THAT([] { reference_model(weights_of("timm_v2"), {{"attention", "window:size=3"}}); }, ThrowsMessage<Error>(HasSubstr("do not fit")));
  const fs::path folder = fs::path(::testing::TempDir()) / "swin_untold";
  fs::create_directories(folder);
  fs::copy_file(weights_of("timm_v2"), folder / "nameless.safetensors", fs::copy_options::overwrite_existing);
  EXPECT_THAT([&] { reference_model((folder / "nameless.safetensors").string()); }, ThrowsMessage<Error>(HasSubstr("--set attention=window_v2:size=N")));
  EXPECT_EQ(reference_model((folder / "nameless.safetensors").string(), {{"attention", "window_v2:size=3"}}).info().attention, "window_v2:size=3");
}

}  // namespace
}  // namespace fovea
