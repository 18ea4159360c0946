#include "image/resize.h"

#include "fovea/error.h"
#include "image_cases.h"

namespace fovea {
namespace {

TEST(Resize, GivesPillowsBytes) {
  const auto lines = testing::fixture_lines("cases.tsv", "resize");
  EXPECT_GE(lines.size(), 300u);
  for (const auto& line : lines) {
    SCOPED_TRACE(line[1] + " " + line[2] + " to " + line[4] + "x" + line[5] + " box " + line[6]);
    const Image source = testing::source_image(line[1], line[3] == "1");
    const int width = std::stoi(line[4]), height = std::stoi(line[5]);
    Image image;
    if (line[6] == "-") {
      image = resize(source, width, height, interpolation_of(line[2]));
    } else {
      ResizeBox box;
      ASSERT_EQ(std::sscanf(line[6].c_str(), "%f,%f,%f,%f", &box.left, &box.top, &box.right, &box.bottom), 4);
      image = resize(source, width, height, interpolation_of(line[2]), box);
    }
    EXPECT_EQ(image.width, width);
    EXPECT_EQ(image.height, height);
    EXPECT_EQ(image.channels, source.channels);
    EXPECT_EQ(testing::crc_of(image), line[7]);
  }
}

TEST(Resize, FlatPicturesStayFlat) {
  for (const auto filter : {Interpolation::kBox, Interpolation::kBilinear, Interpolation::kHamming, Interpolation::kBicubic,
                            Interpolation::kLanczos, Interpolation::kNearest})
    for (const int value : {0, 1, 127, 255})
      EXPECT_EQ(resize(Image(41, 29, 3, static_cast<uint8_t>(value)), 17, 53, filter),
                Image(17, 53, 3, static_cast<uint8_t>(value)))
          << name_of(filter) << " " << value;
}

TEST(Resize, GreyIsOneChannelOfColour) {
  const Image grey = testing::source_image("source_grey_53x38.png", true);
  const Image rgb = testing::source_image("source_grey_53x38.png", false);
  for (const auto filter : {Interpolation::kBicubic, Interpolation::kBilinear, Interpolation::kNearest}) {
    const Image a = resize(grey, 71, 19, filter), b = resize(rgb, 71, 19, filter);
    for (size_t i = 0; i < a.pixels.size(); ++i) ASSERT_EQ(a.pixels[i], b.pixels[3 * i]);
  }
}

TEST(Resize, WrongSizesBoxesAndNamesAreErrors) {
  const Image image(4, 3, 3);
  EXPECT_THROW(resize(image, 0, 3, Interpolation::kBox), Error);
  EXPECT_THROW(resize(image, 3, -1, Interpolation::kBox), Error);
  EXPECT_THROW(resize(image, 2, 2, Interpolation::kBox, {-1, 0, 2, 2}), Error);
  EXPECT_THROW(resize(image, 2, 2, Interpolation::kBox, {0, 0, 4.5f, 2}), Error);
  EXPECT_THROW(resize(image, 2, 2, Interpolation::kBox, {3, 0, 2, 2}), Error);
  EXPECT_THROW(resize(Image(), 2, 2, Interpolation::kBox), Error);
  EXPECT_THROW(interpolation_of("cubic"), Error);
  EXPECT_EQ(interpolation_of("lanczos"), Interpolation::kLanczos);
}

}  // namespace
}  // namespace fovea
