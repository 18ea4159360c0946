#include "image/transforms.h"

#include "fovea/error.h"
#include "image_cases.h"

namespace fovea {
namespace {

ResizeMode mode_of(const std::string& name) {
  return name == "squash" ? ResizeMode::kSquash : name == "none" ? ResizeMode::kNone : ResizeMode::kShortSide;
}

TEST(Transforms, FitHasTorchvisionsGeometry) {
  const auto lines = testing::fixture_lines("cases.tsv", "fit");
  EXPECT_GE(lines.size(), 40u);
  for (const auto& line : lines) {
    SCOPED_TRACE(line[1] + " " + line[2] + " " + line[4] + "x" + line[5] + " crop " + line[6] + " " + line[7]);
    Preprocess p;
    p.height = std::stoi(line[4]);
    p.width = std::stoi(line[5]);
    p.crop_pct = std::stod(line[6]);
    p.mode = mode_of(line[2]);
    p.interpolation = interpolation_of(line[7]);
    const bool grey = line[3] == "1";
    p.channels = grey ? 1 : 3;
    const Image image = fit(testing::source_image(line[1], grey), p);
    EXPECT_EQ(image.width, p.width);
    EXPECT_EQ(image.height, p.height);
    EXPECT_EQ(testing::crc_of(image), line[8]);
  }
}

TEST(Transforms, PreprocessIsBitwiseToTensorAndNormalize) {
  const auto lines = testing::fixture_lines("cases.tsv", "normalize");
  EXPECT_GE(lines.size(), 3u);
  for (const auto& line : lines) {
    Preprocess p;
    p.height = std::stoi(line[2]);
    p.width = std::stoi(line[3]);
    p.crop_pct = std::stod(line[4]);
    std::vector<float> chw(static_cast<size_t>(3 * p.height * p.width));
    preprocess(testing::source_image(line[1], false), p, chw.data());
    EXPECT_EQ(testing::crc_of(chw.data(), chw.size() * sizeof(float)), line[5]) << line[1];
  }
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
  EXPECT_THROW(normalize(image, {0.5f}, {0.5f}, chw.data()), Error);
  Preprocess p;
  p.crop_pct = 0;
  EXPECT_THROW(fit(image, p), Error);
}

}  // namespace
}  // namespace fovea
