#include "image/augment.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string>

#include "fovea/error.h"
#include "image/transforms.h"
#include "image_cases.h"

namespace fovea {
namespace {

Image numbered(int width, int height) {
  Image image(width, height, 1);
  for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = static_cast<uint8_t>(1 + i);
  return image;
}

TEST(Augment, AdjustmentsGivePillowsBytes) {
  const auto lines = testing::fixture_lines("cases.tsv", "adjust");
  EXPECT_GE(lines.size(), 70u);
  for (const auto& line : lines) {
    const Image image = testing::source_image(line[1], line[3] == "1");
    const double factor = std::stod(line[4]);
    const Image out = line[2] == "brightness" ? adjust_brightness(image, factor)
                      : line[2] == "contrast" ? adjust_contrast(image, factor)
                                              : adjust_saturation(image, factor);
    EXPECT_EQ(testing::crc_of(out), line[5]) << line[1] << " " << line[2] << " " << line[4];
  }
  EXPECT_THROW(adjust_contrast(Image(2, 2, 3), -0.5), Error);
}

TEST(Augment, FlipMirrors) {
  for (const auto& line : testing::fixture_lines("cases.tsv", "flip")) {
    const Image image = testing::source_image(line[1], line[2] == "1");
    EXPECT_EQ(testing::crc_of(flip_horizontal(image)), line[3]);
    EXPECT_EQ(flip_horizontal(flip_horizontal(image)), image);
  }
}

TEST(Augment, FlipHappensWithItsProbability) {
  const Image image = numbered(5, 3);
  int flipped = 0;
  constexpr int kTries = 4000;
  for (uint64_t i = 0; i < kTries; ++i) flipped += random_flip(image, Rng(1, i), 0.3) != image;
  EXPECT_NEAR(flipped / double{kTries}, 0.3, 4 * std::sqrt(0.3 * 0.7 / kTries));
  EXPECT_EQ(random_flip(image, Rng(1, 0), 0.0), image);
  EXPECT_EQ(random_flip(image, Rng(1, 0), 1.0), flip_horizontal(image));
}

TEST(Augment, PaddedCropReachesEveryOffset) {
  const Image image = numbered(6, 4);
  std::set<std::string> seen;
  for (uint64_t i = 0; i < 500; ++i) {
    const Image out = random_crop(image, 4, 6, 1, Rng(2, i));
    EXPECT_EQ(out.width, 6);
    EXPECT_EQ(out.height, 4);
    seen.insert(testing::crc_of(out));
  }
  EXPECT_EQ(seen.size(), 9u);  // 3 x 3 offsets
  EXPECT_THROW(random_crop(image, 7, 6, 1, Rng(0)), Error);
  EXPECT_THROW(random_crop(image, 4, 6, -1, Rng(0)), Error);
}

TEST(Augment, ResizedCropStaysWithinScaleAndRatio) {
  // Column and row numbers survive a nearest-neighbour resize, so the region can be read off the result.
  Image image(200, 150, 3);
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < image.width; ++x) {
      image.row(y)[3 * x] = static_cast<uint8_t>(x);
      image.row(y)[3 * x + 1] = static_cast<uint8_t>(y);
    }
  RandomResizedCrop options;
  options.height = options.width = 300;
  options.interpolation = Interpolation::kNearest;
  double smallest = 1, largest = 0;
  for (uint64_t i = 0; i < 300; ++i) {
    const Image out = random_resized_crop(image, options, Rng(3, i));
    ASSERT_EQ(out.width, 300);
    ASSERT_EQ(out.height, 300);
    const double w = out.row(0)[3 * 299] - out.row(0)[0] + 1, h = out.row(299)[1] - out.row(0)[1] + 1;
    const double area = w * h / (200.0 * 150.0);
    EXPECT_GT(area, 0.08 * 0.9);
    EXPECT_GT(w / h, 0.75 * 0.95);
    EXPECT_LT(w / h, 4.0 / 3.0 * 1.05);
    smallest = std::min(smallest, area);
    largest = std::max(largest, area);
  }
  EXPECT_LT(smallest, 0.15);
  EXPECT_GT(largest, 0.85);
}

TEST(Augment, ResizedCropOfAStripFallsBackToItsCentre) {
  Image strip(900, 3, 3);
  for (int x = 0; x < 900; ++x) std::fill_n(strip.row(1) + 3 * x, 3, static_cast<uint8_t>(x / 4));
  RandomResizedCrop options;
  options.height = 3;
  options.width = 4;
  options.scale_min = 0.9;
  EXPECT_EQ(random_resized_crop(strip, options, Rng(4)), crop(strip, 0, 448, 3, 4));
  options.scale_min = 2;
  EXPECT_THROW(random_resized_crop(strip, options, Rng(4)), Error);
}

TEST(Augment, ErasingOverwritesOneRectangle) {
  RandomErasing options;
  options.probability = 1;
  options.fill = EraseFill::kZero;
  for (uint64_t i = 0; i < 50; ++i) {
    std::vector<float> chw(2 * 20 * 30, 1.0f);
    random_erase(chw.data(), 2, 20, 30, options, Rng(5, i));
    const auto zeros = std::count(chw.begin(), chw.begin() + 600, 0.0f);
    EXPECT_GT(zeros, 0);
    EXPECT_LE(zeros, 230);
    EXPECT_TRUE(std::equal(chw.begin(), chw.begin() + 600, chw.begin() + 600));  // the same place in each channel
    int left = 30, right = 0, top = 20, bottom = 0;
    for (int y = 0; y < 20; ++y)
      for (int x = 0; x < 30; ++x)
        if (chw[static_cast<size_t>(y * 30 + x)] == 0.0f) {
          left = std::min(left, x), right = std::max(right, x + 1);
          top = std::min(top, y), bottom = std::max(bottom, y + 1);
        }
    EXPECT_EQ((right - left) * (bottom - top), zeros);
  }
  options.probability = 0;
  std::vector<float> untouched(600, 1.0f);
  random_erase(untouched.data(), 1, 20, 30, options, Rng(5));
  EXPECT_EQ(std::count(untouched.begin(), untouched.end(), 1.0f), 600);
  options.probability = 1;
  options.fill = EraseFill::kNoise;
  random_erase(untouched.data(), 1, 20, 30, options, Rng(5));
  EXPECT_LT(std::count(untouched.begin(), untouched.end(), 1.0f), 600);
}

TEST(Augment, IsAFunctionOfTheGenerator) {
  const Image image = testing::source_image("source_rgb_61x47.png", false);
  Augment options;
  options.crop = Augment::Crop::kResized;
  options.color = {0.4, 0.4, 0.4};
  const Image first = augment(image, options, 32, 24, Rng(9, 1));
  EXPECT_EQ(first.height, 32);
  EXPECT_EQ(first.width, 24);
  EXPECT_EQ(augment(image, options, 32, 24, Rng(9, 1)), first);
  EXPECT_NE(augment(image, options, 32, 24, Rng(9, 2)), first);
  EXPECT_NE(augment(image, options, 32, 24, Rng(8, 1)), first);
  options.color = {};
  const Image colourless = augment(image, options, 32, 24, Rng(9, 1));
  options.flip = 0;
  const Image unflipped = augment(image, options, 32, 24, Rng(9, 1));
  EXPECT_TRUE(unflipped == colourless || flip_horizontal(unflipped) == colourless);  // parts draw from streams of their own
  EXPECT_NE(colourless, first);
}

TEST(Augment, PicturesThatDoNotFitAreErrors) {
  EXPECT_THROW(augment(Image(5, 5, 3), Augment{}, 6, 5, Rng(0)), Error);
  Augment padded;
  padded.crop = Augment::Crop::kPadded;
  EXPECT_EQ(augment(Image(28, 28, 1), padded, 28, 28, Rng(0)).channels, 1);
  EXPECT_THROW(augment(Image(5, 5, 3), padded, 28, 28, Rng(0)), Error);
}

}  // namespace
}  // namespace fovea
