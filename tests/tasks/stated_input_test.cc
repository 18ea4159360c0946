#include "tasks/stated_input.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "core/check.h"
#include "cli/run_cli.h"
#include "tasks/preprocess.h"

namespace fovea {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;
using Numbers = std::vector<double>;
using Sizes = std::vector<int64_t>;

// The files beside a checkpoint that need not be there itself.
class Beside {
 public:
  Beside& with(const char* name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
    return *this;
  }
  StatedInput read() const { return stated_beside(folder_ / "model.safetensors"); }
  const TemporaryFolder& folder() const { return folder_; }

 private:
  TemporaryFolder folder_;
};

InputConfig applied(const StatedInput& s, int64_t height, int64_t width) {
  InputConfig input;
  input.height = height;
  input.width = width;
  apply_stated(s, input);
  return input;
}

TEST(StatedInput, NothingIsStatedWithoutFilesOrByOtherKinds) {
  Beside b;
  for (const char* text : {"", "[1, 2]", "no JSON {", "{}", R"({"model_type": "bert", "hidden_size": 768})"}) {
    b.with("config.json", text);
    const StatedInput s = b.read();
    EXPECT_TRUE(s.file.empty() && s.mean.empty() && !s.size && !s.crop && !s.interpolation && s.class_names.empty()) << text;
  }
  std::filesystem::create_directory(b.folder() / "preprocessor_config.json");
  EXPECT_TRUE(b.read().file.empty());
}

TEST(StatedInput, TimmsConfiguration) {
  Beside b;
  b.with("config.json", R"({"architecture": "eva02_base_patch14_448", "num_classes": 2, "label_names": ["n1", "n2"],
    "label_descriptions": {"n1": "one", "n2": "two, second"},
    "pretrained_cfg": {"input_size": [3, 448, 336], "fixed_input_size": true, "interpolation": "lanczos", "crop_pct": 0.95, "crop_mode": "squash",
      "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "test_input_size": [3, 512, 512]}})");
  const StatedInput s = b.read();
  EXPECT_EQ(s.file, "config.json");
  EXPECT_EQ(s.size, std::pair(int64_t{448}, int64_t{336}));
  EXPECT_EQ(s.class_names, (std::vector<std::string>{"one", "two, second"}));
  const InputConfig input = applied(s, 448, 336);
  EXPECT_EQ(input.interpolation, "lanczos");
  EXPECT_EQ(input.resize, "squash");
  EXPECT_EQ(input.crop_rounding, "even");
  EXPECT_EQ(input.crop_pct, 0.95);
  EXPECT_EQ(input.mean, (Numbers{0.1, 0.2, 0.3}));
  EXPECT_EQ(input.std, (Numbers{0.4, 0.5, 0.6}));
}

// What timm.data.resolve_data_config adds; older files have the keys at the top.
TEST(StatedInput, TimmsDefaults) {
  Beside b;
  b.with("config.json", R"({"input_size": [3, 224, 224], "crop_pct": null, "interpolation": "", "mean": null})");
  const InputConfig input = applied(b.read(), 224, 224);
  EXPECT_EQ(input.crop_pct, 0.875);
  EXPECT_EQ(input.resize, "shorter");
  EXPECT_EQ(input.mean, (Numbers{0.485, 0.456, 0.406}));
  EXPECT_EQ(input.std, (Numbers{0.229, 0.224, 0.225}));
  EXPECT_EQ(input.interpolation, "bicubic");
}

// google/vit-base-patch16-224 before and after sizes became dictionaries.
TEST(StatedInput, HuggingFacesViT) {
  Beside b;
  for (const char* text :
       {R"({"do_normalize": true, "do_resize": true, "feature_extractor_type": "ViTFeatureExtractor", "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
            "resample": 2, "size": 224})",
        R"({"image_processor_type": "ViTImageProcessorFast", "size": {"height": 224, "width": 224}, "rescale_factor": 0.00392156862745098})"}) {
    const StatedInput s = b.with("preprocessor_config.json", text).read();
    EXPECT_EQ(s.file, "preprocessor_config.json");
    EXPECT_EQ(s.size, std::pair(int64_t{224}, int64_t{224}));
    const InputConfig input = applied(s, 224, 224);
    EXPECT_EQ(input.resize, "squash");
    EXPECT_EQ(input.crop_pct, 1.0);
    EXPECT_TRUE(input.resize_size.empty());
    EXPECT_EQ(input.interpolation, "bilinear");
    EXPECT_EQ(input.mean, (Numbers{0.5, 0.5, 0.5}));
  }
}

TEST(StatedInput, HuggingFacesDeiTAndDinov2) {
  Beside b;
  b.with("preprocessor_config.json", R"({"crop_size": 224, "do_center_crop": true, "feature_extractor_type": "DeiTFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 3, "size": 256})");
  const InputConfig deit = applied(b.read(), 224, 224);
  EXPECT_EQ(deit.resize, "squash");
  EXPECT_EQ(deit.resize_size, Sizes{256});
  EXPECT_EQ(deit.interpolation, "bicubic");
  EXPECT_EQ(deit.crop_rounding, "down");

  b.with("preprocessor_config.json", R"({"image_processor_type": "BitImageProcessor", "crop_size": {"height": 224, "width": 224}, "do_center_crop": true,
    "do_convert_rgb": true, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 3, "size": {"shortest_edge": 256}})");
  const StatedInput dinov2 = b.read();
  EXPECT_EQ(dinov2.size, std::pair(int64_t{224}, int64_t{224}));
  // The weights are for 518 pixels; at the stated 224 the numbers are the stated ones.
  const InputConfig input = applied(dinov2, 518, 518);
  EXPECT_EQ(input.resize, "shorter");
  EXPECT_EQ(preprocess_of(input, 224, 224).resize_height, 256);
  EXPECT_EQ(preprocess_of(input, 224, 224).resize_width, 256);
}

TEST(StatedInput, WhatProcessorsLeaveOut) {
  Beside b;
  b.with("preprocessor_config.json", R"({"image_processor_type": "ViTImageProcessor", "do_resize": false, "do_normalize": false})");
  InputConfig input = applied(b.read(), 224, 224);
  EXPECT_EQ(input.resize, "none");
  EXPECT_EQ(input.mean, (Numbers{0, 0, 0}));
  EXPECT_EQ(input.std, (Numbers{1, 1, 1}));
  b.with("preprocessor_config.json", R"({"image_processor_type": "ViTImageProcessor", "do_rescale": false, "image_mean": [127.5], "image_std": 255})");
  input = applied(b.read(), 224, 224);
  EXPECT_EQ(input.mean, (Numbers{0.5, 0.5, 0.5}));
  EXPECT_EQ(input.std, (Numbers{1, 1, 1}));
  b.with("preprocessor_config.json", R"({"image_processor_type": "DeiTImageProcessor"})");
  EXPECT_EQ(applied(b.read(), 224, 224).resize_size, Sizes{256});
  b.with("preprocessor_config.json", R"({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 0.875})");
  input = applied(b.read(), 224, 224);
  EXPECT_EQ(input.resize, "shorter");
  EXPECT_EQ(input.resize_size, Sizes{256});
  b.with("preprocessor_config.json", R"({"image_processor_type": "ViTImageProcessor", "size": {"height": 192, "width": 320}, "resample": 1})");
  EXPECT_EQ(b.read().size, std::pair(int64_t{192}, int64_t{320}));
  EXPECT_EQ(applied(b.read(), 192, 320).interpolation, "lanczos");
}

TEST(StatedInput, HuggingFacesClassNames) {
  Beside b;
  b.with("config.json", R"({"model_type": "vit", "image_size": 384, "id2label": {"1": "b", "0": "a, first", "2": "c"}})");
  EXPECT_EQ(b.read().class_names, (std::vector<std::string>{"a, first", "b", "c"}));
  EXPECT_EQ(b.read().size, std::pair(int64_t{384}, int64_t{384}));
  EXPECT_TRUE(b.read().file.empty());  // no preprocessing
  for (const char* text : {R"({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}})", R"({"id2label": {"0": "a", "2": "c"}})", R"({"id2label": {"0": 3}})",
                           R"({"id2label": []})", R"({"label_names": [1, 2]})"})
    EXPECT_TRUE(b.with("config.json", text).read().class_names.empty()) << text;
}

TEST(StatedInput, NonsenseNamesTheFile) {
  Beside b;
  for (const char* text : {R"({"size": {"height": 0, "width": 3}})", R"({"size": {"shortest_edge": -1}})", R"({"size": 99999999})", R"({"resample": 9})", R"({"resample": -1})",
                           R"({"rescale_factor": -1})", R"({"image_processor_type": "ConvNextImageProcessor", "crop_pct": 2})",
                           R"({"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0})",
                           R"({"size": 18446744073709551615})"}) {
    b.with("preprocessor_config.json", text);
    EXPECT_THAT([&] { b.read(); }, ThrowsMessage<Error>(HasSubstr("preprocessor_config.json: "))) << text;
  }
  b.with("preprocessor_config.json", R"({"size": 1e300, "resample": 2.5, "image_mean": "x"})");  // of other kinds: as if not stated
  EXPECT_EQ(b.read().size, std::pair(int64_t{224}, int64_t{224}));
  b.with("config.json", R"({"pretrained_cfg": {"input_size": [3, 0, 0]}})");
  EXPECT_THAT([&] { b.read(); }, ThrowsMessage<Error>(HasSubstr("config.json: input_size")));
  b.with("config.json", R"({"crop_pct": 1.5})");
  EXPECT_THAT([&] { b.read(); }, ThrowsMessage<Error>(HasSubstr("config.json: crop_pct must be in (0, 1]")));
}

TEST(StatedInput, ValuesOfOtherKindsAndLists) {
  Beside b;
  b.with("preprocessor_config.json", R"({"size": [200, 300], "crop_size": [1, 2, 3], "do_center_crop": true, "do_rescale": false, "do_normalize": false, "resample": 0})");
  const StatedInput s = b.read();
  EXPECT_EQ(s.size, std::pair(int64_t{224}, int64_t{224}));
  EXPECT_EQ(s.resize_size, (Sizes{200, 300}));
  EXPECT_EQ(s.interpolation, "nearest");
  EXPECT_NEAR(s.std[0], 1 / 255.0, 1e-12);
  b.with("preprocessor_config.json", R"({"do_resize": false, "size": {"height": 5}})");
  EXPECT_EQ(b.read().resize, "none");
  b.with("preprocessor_config.json", R"({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}})");
  EXPECT_EQ(b.read().resize, "squash");
  b.with("preprocessor_config.json", "[]");
  b.with("config.json", R"({"image_size": 100, "id2label": {"0": "a", "x": "b"}, "label_names": 5})");
  EXPECT_EQ(b.read().size, std::pair(int64_t{100}, int64_t{100}));
  EXPECT_TRUE(b.read().class_names.empty());
  b.with("config.json", R"({"image_size": null, "id2label": {"0": 1}})");
  EXPECT_FALSE(b.read().size);
  b.with("config.json", R"({"pretrained_cfg": {"interpolation": "random", "crop_mode": "border", "input_size": [3, 224], "label_names": ["a", "b"], "label_descriptions": {"b": "c"}}})");
  EXPECT_EQ(b.read().interpolation, "bilinear");
  EXPECT_EQ(b.read().resize, "border");
  EXPECT_EQ(b.read().class_names, (std::vector<std::string>{"a", "c"}));
}

TEST(StatedInput, RectanglesAndWhatDoesNotFitTheModel) {
  Beside b;
  b.with("preprocessor_config.json", R"({"image_processor_type": "ConvNextImageProcessor", "size": {"height": 192, "width": 320}, "crop_pct": 0.5})");
  EXPECT_EQ(b.read().resize, "squash");  // without a shorter side there is no share of it
  EXPECT_FALSE(b.read().resize_size);
  b.with("preprocessor_config.json", R"({"size": [224, 256], "crop_size": [224, 200], "do_center_crop": true})");
  EXPECT_EQ(b.read().resize_size, (Sizes{224, 256}));
  EXPECT_EQ(applied(b.read(), 224, 200).resize_size, (Sizes{224, 256}));
  EXPECT_EQ(applied(b.read(), 224, 400).resize_size, (Sizes{224, 512}));
  EXPECT_EQ(applied(b.read(), 448, 200).resize_size, (Sizes{448, 256}));
  const InputConfig defaults;
  // Of three channels' means and deviations neither is taken if one of them is for two.
  for (const char* two : {"image_mean", "image_std"}) {
    const InputConfig input = applied(b.with("preprocessor_config.json", fmt::format(R"({{"{}": [0.1, 0.2]}})", two)).read(), 224, 224);
    EXPECT_EQ(input.mean, defaults.mean) << two;
    EXPECT_EQ(input.std, defaults.std) << two;
  }
  // A size alone says nothing of the preprocessing.
  b.with("preprocessor_config.json", "[]").with("config.json", R"({"image_size": 100, "id2label": {}})");
  EXPECT_TRUE(b.read().class_names.empty());
  InputConfig input = defaults;
  input.crop_pct = 0.5;
  input.resize_size = {7};
  input.interpolation = "box";
  input.resize = "border";
  apply_stated(b.read(), input);
  EXPECT_EQ(input.crop_pct, 0.5);
  EXPECT_EQ(input.resize_size, Sizes{7});
  EXPECT_EQ(input.interpolation, "box");
  EXPECT_EQ(input.resize, "border");
  EXPECT_EQ(b.with("config.json", R"({"mean": [0.1, 0.2, 0.3]})").read().mean, (Numbers{0.1, 0.2, 0.3}));  // timm's, as it was
}

}  // namespace
}  // namespace fovea
