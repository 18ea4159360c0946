#include "report/png_data.h"

#include <gtest/gtest.h>
#include <png.h>

#include "fovea/error.h"

namespace fovea::report {
namespace {

RgbImage gradient(int width, int height) {
  RgbImage image{width, height, {}};
  for (int i = 0; i < width * height; ++i)
    for (int c = 0; c < 3; ++c) image.rgb.push_back(static_cast<uint8_t>(i * 7 + c * 50));
  return image;
}

std::vector<uint8_t> from_base64(const std::string& text) {
  std::vector<uint8_t> bytes;
  uint32_t bits = 0;
  int count = 0;
  const std::string alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (const char c : text) {
    if (c == '=') break;
    bits = bits << 6 | static_cast<uint32_t>(alphabet.find(c));
    if ((count += 6) >= 8) bytes.push_back(static_cast<uint8_t>(bits >> (count -= 8)));
  }
  return bytes;
}

// RFC 4648, section 10.
TEST(Base64, TestVectors) {
  const auto encode = [](const std::string& text) { return base64(std::vector<uint8_t>(text.begin(), text.end())); };
  EXPECT_EQ(encode(""), "");
  EXPECT_EQ(encode("f"), "Zg==");
  EXPECT_EQ(encode("fo"), "Zm8=");
  EXPECT_EQ(encode("foo"), "Zm9v");
  EXPECT_EQ(encode("foob"), "Zm9vYg==");
  EXPECT_EQ(encode("fooba"), "Zm9vYmE=");
  EXPECT_EQ(encode("foobar"), "Zm9vYmFy");
}

TEST(PngData, DecodesToTheSamePixels) {
  for (const auto& [width, height] : {std::pair{1, 1}, {28, 28}, {5, 31}}) {
    const RgbImage image = gradient(width, height);
    const std::string uri = png_data_uri(image), prefix = "data:image/png;base64,";
    ASSERT_TRUE(uri.starts_with(prefix));
    const std::vector<uint8_t> bytes = from_base64(uri.substr(prefix.size()));
    png_image png{};
    png.version = PNG_IMAGE_VERSION;
    ASSERT_TRUE(png_image_begin_read_from_memory(&png, bytes.data(), bytes.size()));
    png.format = PNG_FORMAT_RGB;
    ASSERT_EQ(png.width, static_cast<unsigned>(width));
    ASSERT_EQ(png.height, static_cast<unsigned>(height));
    std::vector<uint8_t> pixels(PNG_IMAGE_SIZE(png));
    ASSERT_TRUE(png_image_finish_read(&png, nullptr, pixels.data(), 0, nullptr));
    EXPECT_EQ(pixels, image.rgb);
  }
}

TEST(FitThumbnail, RepeatsThePixelsOfTinyImages) {
  const RgbImage image = gradient(28, 14), large = fit_thumbnail(image, 112);
  ASSERT_EQ(large.width, 112);
  ASSERT_EQ(large.height, 56);
  for (int y = 0; y < 56; ++y)
    for (int x = 0; x < 112; ++x)
      for (int c = 0; c < 3; ++c) ASSERT_EQ(large.rgb[3 * (y * 112 + x) + c], image.rgb[3 * (y / 4 * 28 + x / 4) + c]);
  EXPECT_EQ(fit_thumbnail(gradient(1, 1), 112).width, 16);
}

TEST(FitThumbnail, AveragesBlocksOfLargeImages) {
  const RgbImage small = fit_thumbnail(gradient(1000, 333), 112);
  EXPECT_EQ(small.width, 200);
  EXPECT_EQ(small.height, 67);
  const RgbImage pair{4, 1, {0, 0, 0, 10, 20, 30, 100, 100, 100, 101, 101, 101}};
  EXPECT_EQ(fit_thumbnail(pair, 1).rgb, (std::vector<uint8_t>{5, 10, 15, 101, 101, 101}));
  EXPECT_EQ(fit_thumbnail(gradient(150, 150), 112).rgb, gradient(150, 150).rgb);
}

TEST(PngData, PixelsThatDoNotFitTheSizeAreOurMistake) {
  EXPECT_THROW(png_data_uri({2, 2, {1, 2, 3}}), InternalError);
  EXPECT_THROW(png_data_uri({0, 0, {}}), InternalError);
  EXPECT_THROW(fit_thumbnail({-1, 2, {}}, 10), InternalError);
}

}  // namespace
}  // namespace fovea::report
