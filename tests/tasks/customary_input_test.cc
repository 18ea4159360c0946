#include "tasks/customary_input.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "cli/run_cli.h"
#include "tasks/load_model.h"
#include "tasks/preprocess.h"
#include "weights/safetensors.h"

namespace fovea {
namespace {

using ::testing::HasSubstr;

// The weights' position table is for 224 pixels; pictures come as the processor says, unless the user says otherwise.
TEST(CustomaryInput, ALoadedModelTakesWhatIsStated) {
  TemporaryFolder folder;
  LoadOptions two;
  two.set = {{"classes", "2"}};
  const LoadedModel tiny = load_model("vit_tiny_patch16_224", two, DType::kF32);
  std::vector<TensorToWrite> tensors;
  for (const Param& p : tiny.classifier->params().params()) tensors.push_back({p.name, DType::kF32, p.shape, p.value.data});
  const std::string file = folder / "model.safetensors";
  write_safetensors(file, tensors, {});
  std::ofstream(folder / "preprocessor_config.json") << R"({"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 220}, "crop_size": 192, "image_mean": [0.1, 0.2, 0.3]})";
  std::ofstream(folder / "config.json") << R"({"id2label": {"0": "cat", "1": "dog"}})";
  const LoadedModel m = load_model(file, {}, DType::kF32);
  EXPECT_EQ(m.height, 192);
  EXPECT_EQ(m.classifier->config().input.height, 224);
  EXPECT_EQ(preprocess_of(m.classifier->config().input, m.height, m.width).resize_height, 220);
  EXPECT_EQ(m.classifier->config().input.mean, (std::vector<double>{0.1, 0.2, 0.3}));
  EXPECT_EQ(m.classifier->config().class_names, (std::vector<std::string>{"cat", "dog"}));
  EXPECT_THAT(m.assumed, ::testing::Not(::testing::Contains(HasSubstr("mean="))));
  LoadOptions asked;
  asked.height = 224;
  asked.set = {{"mean", "0.4"}};
  const LoadedModel other = load_model(file, asked, DType::kF32);
  EXPECT_EQ(other.height, 224);
  EXPECT_EQ(other.classifier->config().input.mean, (std::vector<double>{0.4, 0.4, 0.4}));
  std::ofstream(folder / "config.json") << R"({"id2label": {"0": "cat", "1": "dog", "2": "cow"}})";  // of another model
  EXPECT_TRUE(load_model(file, {}, DType::kF32).classifier->config().class_names.empty());
}

TEST(CustomaryInput, GoesByHomeSizeAndArchitecture) {
  const auto custom = [](const char* dialect, ModelConfig c, int64_t size) {
    c.input.height = c.input.width = size;
    apply_customs(dialect, c);
    return c.input;
  };
  ModelConfig vit, swin;
  swin.family = "swin";
  swin.dim = 96;
  const InputConfig input = custom("huggingface-swin", swin, 224);
  EXPECT_EQ(input.resize, "squash");
  EXPECT_EQ(input.interpolation, "bicubic");
  EXPECT_EQ(input.mean, (std::vector<double>{0.485, 0.456, 0.406}));
  EXPECT_EQ(custom("torchvision-swin", swin, 224).resize_size, std::vector<int64_t>{232});
  swin.depths = {2, 2, 18, 2};
  EXPECT_EQ(custom("torchvision-swin", swin, 224).resize_size, std::vector<int64_t>{246});
  swin.swin_version = 2;
  EXPECT_EQ(custom("torchvision-swinv2", swin, 256).resize_size, std::vector<int64_t>{260});
  swin.dim = 128;
  EXPECT_EQ(custom("torchvision-swinv2", swin, 256).resize_size, std::vector<int64_t>{272});
  EXPECT_EQ(custom("microsoft-swin", swin, 192).resize_size, std::vector<int64_t>{219});
  EXPECT_EQ(custom("microsoft-swin", swin, 384).resize, "squash");
  EXPECT_EQ(custom("timm", vit, 224).crop_pct, 0.9);
  EXPECT_EQ(custom("timm", vit, 32).crop_pct, 1.0);
  vit.input.channels = 1;
  EXPECT_EQ(custom("timm", vit, 224).mean, std::vector<double>{0.5});
}

// The customs of the homes of ViTs, and of mmpretrain's and larger Swins.
TEST(CustomaryInput, EveryHomeHasItsOwn) {
  constexpr double kHalf = 0.5, kClip = 0.48145466, kImageNet = 0.485, kShare = 224.0 / 256;
  const struct {
    const char *dialect, *family;
    int64_t size, dim;
    double crop;
    std::vector<int64_t> scaled;
    const char *resize, *interpolation, *rounding;
    double mean;
  } rows[] = {{"torchvision-swin", "swin", 224, 128, 1, {238}, "shorter", "bicubic", "even", kImageNet},
              {"torchvision-vit", "vit", 224, 768, kShare, {}, "shorter", "bilinear", "even", kImageNet},
              {"huggingface-vit", "vit", 224, 768, 1, {}, "squash", "bilinear", "down", kHalf},
              {"huggingface-deit", "vit", 224, 768, kShare, {}, "squash", "bicubic", "down", kImageNet},
              {"huggingface-dinov2", "vit", 224, 768, kShare, {}, "shorter", "bicubic", "down", kImageNet},
              {"huggingface-clip", "vit", 224, 768, 1, {}, "shorter", "bicubic", "down", kClip},
              {"huggingface-siglip", "vit", 224, 768, 1, {}, "squash", "bicubic", "down", kHalf},
              {"microsoft-swin", "swin", 224, 128, 1, {256}, "shorter", "bicubic", "even", kImageNet},
              {"mmpretrain-swin", "swin", 384, 128, 1, {}, "squash", "bicubic", "even", kImageNet},
              {"mmpretrain-swin", "swin", 224, 128, 1, {256}, "shorter", "bicubic", "even", kImageNet},
              {"mmpretrain-vit", "vit", 224, 768, kShare, {}, "shorter", "bicubic", "even", kHalf},
              {"jax-vit", "vit", 224, 768, 0.9, {}, "shorter", "bicubic", "even", kHalf},
              {"facebook-deit3", "vit", 384, 768, 0.9, {}, "shorter", "bicubic", "even", kImageNet},
              {"facebook-dinov2", "vit", 224, 768, kShare, {}, "shorter", "bicubic", "even", kImageNet},
              {"openclip-vit", "vit", 224, 768, 1, {}, "shorter", "bicubic", "even", kClip},
              {"timm", "vit", 384, 768, 1, {}, "shorter", "bicubic", "even", kImageNet}};
  for (const auto& row : rows) {
    SCOPED_TRACE(fmt::format("{} at {}", row.dialect, row.size));
    ModelConfig c;
    c.family = row.family;
    c.dim = row.dim;
    c.input.height = c.input.width = row.size;
    apply_customs(row.dialect, c);
    if (row.scaled.empty()) { EXPECT_DOUBLE_EQ(c.input.crop_pct, row.crop); }
    EXPECT_EQ(c.input.resize_size, row.scaled);
    EXPECT_EQ(c.input.resize, row.resize);
    EXPECT_EQ(c.input.interpolation, row.interpolation);
    EXPECT_EQ(c.input.crop_rounding, row.rounding);
    EXPECT_EQ(c.input.mean.front(), row.mean);
  }
}

}  // namespace
}  // namespace fovea
