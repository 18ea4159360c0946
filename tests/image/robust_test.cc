// Odd and broken files from the test suites of Pillow, libjpeg-turbo, PngSuite and others: each decodes to Pillow's bytes
// or gives one clear error.
#include <set>

#include "fovea/error.h"
#include "image_cases.h"

namespace fovea {
namespace {

// Files that Pillow reads and fovea refuses.
bool is_refused(const std::string& path, const std::string& format) {
  static const std::set<std::string> kRefused{
      "pillow/lab.tif",                              // CIE L*a*b* needs a colour profile's arithmetic
      "pngsuite/testpngs/crashers/huge_IDAT.png",    // claims more data than the file has
  };
  return format == "TGA" || kRefused.count(path) != 0;  // TGA has no signature to know it by
}

TEST(RobustImages, EveryFileDecodesAsInPillowOrGivesOneError) {
  const std::filesystem::path folder = std::filesystem::path(FOVEA_SHARED) / "data" / "robust";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no collection of odd images at " << folder;
  int equal = 0, errors = 0, wanted = 0;
  for (const auto& line : testing::fixture_lines("robust.tsv")) {
    const std::string& name = line[0];
    SCOPED_TRACE(name);
    const bool pillow_reads = line[1] != "error";
    const bool must_match = pillow_reads && !is_refused(name, line[1]);
    wanted += must_match;
    try {
      const Image image = read_image(folder / name);
      EXPECT_EQ(image.pixels.size(), size_t{3} * static_cast<size_t>(image.width) * static_cast<size_t>(image.height));
      if (!pillow_reads) continue;  // more lenient than Pillow, where no pixel is missing
      EXPECT_EQ(image.width, std::stoi(line[2]));
      EXPECT_EQ(image.height, std::stoi(line[3]));
      EXPECT_EQ(testing::crc_of(image), line[4]);
      equal += testing::crc_of(image) == line[4];
    } catch (const Error& e) {
      ++errors;
      const std::string message = e.what();
      EXPECT_FALSE(must_match) << message;
      EXPECT_NE(message.find((folder / name).string()), std::string::npos) << message;
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    }
  }
  EXPECT_EQ(equal, wanted);
  RecordProperty("equal_to_pillow", equal);
  RecordProperty("errors", errors);
}

}  // namespace
}  // namespace fovea
