#include "image/transforms.h"

#include <algorithm>

#include "fovea/error.h"
#include "preprocess_case.h"

namespace fovea {
namespace {

// Lines of a file, the expected line with commas for tabs, and settings.
void expect_preprocessing(const std::string& tsv, const std::filesystem::path& folder, size_t at_least) {
  const auto lines = testing::fixture_lines(tsv);
  EXPECT_GE(lines.size(), at_least);
  for (const auto& line : lines) {
    SCOPED_TRACE(fmt::format("{}", fmt::join(line, " ")));
    std::string got = testing::preprocessing_line(folder / line[0], {line.begin() + 2, line.end()});
    std::replace(got.begin(), got.end(), '\t', ',');
    if (line[1] == "error") EXPECT_TRUE(got.starts_with("error,")) << got;
    else EXPECT_EQ(got, line[1]);
  }
}

// Pixels and normalised float32 values, from torchvision's, timm's and Hugging Face's own code.
TEST(Transforms, PreprocessingIsBitwiseThatOfThePackages) {
  expect_preprocessing("preprocess.tsv", testing::image_fixtures() / "files", 400);
}

TEST(Transforms, PreprocessingOfOddFilesIsBitwiseThatOfThePackages) {
  const std::filesystem::path folder = std::filesystem::path(FOVEA_SHARED) / "data" / "robust";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no collection of odd images at " << folder;
  expect_preprocessing("preprocess_robust.tsv", folder, 200);
}

// A grey model sees what Pillow's convert("L") makes of the colours, before scaling.
TEST(Transforms, GreyIsScaledAsGrey) {
  Preprocess p;
  p.height = p.width = 31;
  p.channels = 1;
  p.mean = p.std = {0.5};
  const Image rgb = testing::source_image("source_rgb_61x47.png", false);
  EXPECT_EQ(fit(rgb, p), fit(to_channels(rgb, 1), p));
}

TEST(Transforms, APartIsTheSameInAWholeResize) {
  const Image image = testing::source_image("source_rgb_211x160.png", false);
  for (const auto filter : {Interpolation::kNearest, Interpolation::kBox, Interpolation::kBicubic, Interpolation::kLanczos})
    for (const auto& [width, height] : {std::pair{97, 301}, {211, 90}, {400, 160}, {211, 160}, {30, 3}, {150, 20}}) {
      const Image whole = resize(image, width, height, filter);
      for (const PixelRegion& r : {PixelRegion{0, 0, 1, 1}, {7, 2, 11, 1}, {width - 5, height - 3, 5, 3}, {0, 1, width, 2}, {3, 0, 2, height}})
        EXPECT_EQ(resize_region(image, width, height, filter, r), crop(whole, r.top, r.left, r.height, r.width))
            << name_of(filter) << " " << width << "x" << height << " " << r.left << "," << r.top;
    }
  EXPECT_THROW(resize_region(image, 10, 10, Interpolation::kBox, {6, 0, 5, 1}), Error);
  EXPECT_THROW(resize_region(image, 10, 10, Interpolation::kBox, {-1, 0, 5, 1}), Error);
}

TEST(Transforms, GreyIsPillowsLuma) {
  for (const auto& line : testing::fixture_lines("cases.tsv", "grey"))
    EXPECT_EQ(testing::crc_of(to_channels(testing::source_image(line[1], false), 1)), line[2]) << line[1];
  const Image grey = testing::source_image("source_grey_53x38.png", true);
  EXPECT_EQ(to_channels(to_channels(grey, 3), 1), grey);
}

TEST(Transforms, ShortSideRoundsDown) {
  EXPECT_EQ(short_side_size(640, 480, 256), std::pair(341, 256));
  EXPECT_EQ(short_side_size(480, 640, 256), std::pair(256, 341));
  EXPECT_EQ(short_side_size(7, 7, 256), std::pair(256, 256));
  EXPECT_EQ(short_side_size(100000, 1, 256), std::pair(25600000, 256));
  EXPECT_EQ(scale_size(224, 0.875), 256);
  EXPECT_EQ(scale_size(224, 0.9), 248);
  EXPECT_EQ(scale_size(384, 1.0), 384);
}

TEST(Transforms, CenterCropRoundsHalfToEven) {
  Image ramp(10, 1, 1);
  for (int x = 0; x < 10; ++x) ramp.pixels[static_cast<size_t>(x)] = static_cast<uint8_t>(x);
  EXPECT_EQ(center_crop(ramp, 1, 5).pixels[0], 2);  // offset 2.5 -> 2
  EXPECT_EQ(center_crop(ramp, 1, 3).pixels[0], 4);  // offset 3.5 -> 4
  EXPECT_EQ(center_crop(ramp, 1, 13).pixels[0], 0);
  EXPECT_EQ(center_crop(ramp, 1, 13).pixels[2], 1);  // one of three missing columns left, two right
}

TEST(Transforms, WrongArgumentsAreErrors) {
  const Image image(8, 6, 3);
  std::vector<float> chw(8 * 6 * 3);
  EXPECT_THROW(crop(image, 0, 4, 6, 5), Error);
  EXPECT_THROW(crop(image, -1, 0, 2, 2), Error);
  EXPECT_THROW(pad(image, -1, 0, 0, 0), Error);
  EXPECT_THROW(center_crop(image, 0, 4), Error);
  EXPECT_THROW(to_channels(image, 4), Error);
  EXPECT_THROW(normalize(image, {0.5}, {0.5}, chw.data()), Error);
  Preprocess p;
  p.crop_pct = 0;
  EXPECT_THROW(fit(image, p), Error);
  p.crop_pct = 1e-9;
  EXPECT_THROW(fit(image, p), Error);
  p.crop_pct = 1;
  EXPECT_THROW(fit(Image(2000000000, 1, 1), p), Error);  // scaled, too long for any picture
  p.mode = ResizeMode::kBorder;
  EXPECT_THROW(fit(Image(1000000, 1, 1), p), Error);  // nothing is left of its height
}

}  // namespace
}  // namespace fovea
