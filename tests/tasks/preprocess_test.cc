#include "tasks/preprocess.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fovea/error.h"
#include "fovea/model.h"

namespace fovea {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

ModelConfig configured(const Settings& settings) {
  ModelConfig c;
  for (const auto& [key, value] : settings) set_option(c, key, value);
  validate(c);
  return c;
}

TEST(PreprocessConfig, EveryFieldArrives) {
  const InputConfig input = configured({{"height", "224"}, {"width", "224"}, {"resize_size", "232,240"}, {"interpolation", "hamming"},
                                        {"resize", "border"}, {"crop_rounding", "down"}, {"mean", "0.1,0.2,0.3"}, {"std", "0.5"}})
                                .input;
  const Preprocess p = preprocess_of(input, 224, 224);
  EXPECT_EQ(p.resize_height, 232);
  EXPECT_EQ(p.resize_width, 240);
  EXPECT_EQ(p.interpolation, Interpolation::kHamming);
  EXPECT_EQ(p.mode, ResizeMode::kBorder);
  EXPECT_EQ(p.rounding, CropRounding::kDown);
  EXPECT_EQ(p.mean, (std::vector<double>{0.1, 0.2, 0.3}));
  EXPECT_EQ(p.std, (std::vector<double>{0.5, 0.5, 0.5}));
  EXPECT_EQ(preprocess_of(configured({{"resize", "squash"}}).input, 5, 6).mode, ResizeMode::kSquash);
  EXPECT_EQ(preprocess_of(configured({{"resize", "none"}}).input, 5, 6).mode, ResizeMode::kNone);
  EXPECT_EQ(preprocess_of(InputConfig(), 5, 6).mode, ResizeMode::kShortSide);
}

// int(256 / 224 * size), as in Microsoft's code; at the size that the configuration is for, its own number exactly.
TEST(PreprocessConfig, TheSizeBeforeTheCropGoesWithTheInput) {
  const InputConfig input = configured({{"resize_size", "256"}}).input;
  for (const auto& [size, resized] : {std::pair{224, 256}, {384, 438}, {192, 219}, {1, 1}}) {
    EXPECT_EQ(preprocess_of(input, size, size).resize_height, resized) << size;
    EXPECT_EQ(preprocess_of(input, size, size).resize_width, resized) << size;
  }
  const Preprocess wide = preprocess_of(input, 288, 512);
  EXPECT_EQ(wide.resize_height, 329);
  EXPECT_EQ(wide.resize_width, 585);
}

TEST(PreprocessConfig, IsKeptAsJson) {
  const ModelConfig c = configured({{"resize_size", "232"}, {"resize", "squash"}, {"crop_rounding", "down"}});
  const ModelConfig back = config_from_json(to_json(c), "here");
  EXPECT_EQ(back.input.resize_size, c.input.resize_size);
  EXPECT_EQ(back.input.resize, "squash");
  EXPECT_EQ(back.input.crop_rounding, "down");
  EXPECT_TRUE(configured({{"resize_size", "232"}, {"resize_size", ""}}).input.resize_size.empty());
  EXPECT_TRUE(configured({{"resize_size", "232"}, {"crop", "0.8"}}).input.resize_size.empty());  // the later one is meant
}

TEST(PreprocessConfig, NonsenseIsOneError) {
  const auto refused = [](const Settings& settings, const char* why) {
    EXPECT_THAT([&] { configured(settings); }, ThrowsMessage<Error>(HasSubstr(why)));
  };
  refused({{"interpolation", "cubic"}}, "interpolation must be one of nearest, box, bilinear, hamming, bicubic, lanczos, got 'cubic'");
  refused({{"resize", "longer"}}, "resize must be one of shorter, squash, border, none");
  refused({{"crop_rounding", "up"}}, "crop_rounding must be one of even, down");
  refused({{"resize_size", "1,2,3"}}, "got 3 numbers");
  refused({{"resize_size", "0"}}, "resize_size 0 is out of range");
  refused({{"crop", "1.5"}}, "crop must be in (0, 1]");
}

TEST(PreprocessConfig, IsToldInTheTermsOfSettings) {
  using Facts = std::vector<std::pair<std::string, std::string>>;
  EXPECT_EQ(preprocessing_facts(configured({{"resize_size", "232"}, {"crop_rounding", "down"}, {"mean", "0.5"}, {"std", "0.25"}}).input),
            (Facts{{"resize", "shorter"}, {"resize_size", "232"}, {"interpolation", "bicubic"}, {"crop_rounding", "down"},
                   {"mean", "0.5,0.5,0.5"}, {"std", "0.25,0.25,0.25"}}));
  EXPECT_EQ(preprocessing_facts(InputConfig())[1], (std::pair<std::string, std::string>{"crop", "0.9"}));
}

}  // namespace
}  // namespace fovea
