// Every format variant against Pillow's pixels, and what happens to files that are not what they should be.
#include "image/decode.h"

#include <gmock/gmock.h>

#include <thread>

#include "core/rng.h"
#include "fovea/error.h"
#include "image_cases.h"

namespace fovea {
namespace {

using ::testing::HasSubstr;
using testing::bytes_of;
using testing::crc_of;
using testing::fixture_lines;
using testing::image_fixtures;

// The message of the Error that `f` throws; empty when it throws none.
template <class F>
std::string decode_error(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

std::vector<std::filesystem::path> fixture_files() {
  std::vector<std::filesystem::path> files;
  for (const auto& line : fixture_lines("cases.tsv", "decode")) files.push_back(image_fixtures() / "files" / line[1]);
  return files;
}

TEST(Decode, EveryFormatVariantGivesPillowsBytes) {
  const auto lines = fixture_lines("cases.tsv", "decode");
  EXPECT_GE(lines.size(), 190u);
  for (const auto& line : lines) {
    SCOPED_TRACE(line[1]);
    const Image image = read_image(image_fixtures() / "files" / line[1]);
    EXPECT_EQ(image.channels, 3);
    EXPECT_EQ(image.width, std::stoi(line[2]));
    EXPECT_EQ(image.height, std::stoi(line[3]));
    EXPECT_EQ(crc_of(image), line[4]);
  }
}

TEST(Decode, FormatIsToldByTheFirstBytes) {
  const auto jpeg = bytes_of(image_fixtures() / "files" / "grey.jpg");
  EXPECT_TRUE(looks_like_image(jpeg));
  EXPECT_EQ(decode_image(jpeg, "really.png").width, 37);
  EXPECT_FALSE(looks_like_image(std::vector<uint8_t>{'h', 'e', 'l', 'l', 'o'}));
  EXPECT_FALSE(looks_like_image({}));
}

TEST(Decode, OrientationIsLeftAloneOnRequest) {
  const auto bytes = bytes_of(image_fixtures() / "files" / "exif_6.jpg");
  const Image turned = decode_image(bytes, "a"), plain = decode_image(bytes, "a", {.apply_orientation = false});
  EXPECT_EQ(turned.width, 14);
  EXPECT_EQ(plain.width, 23);
  for (int y = 0; y < plain.height; ++y)  // turned clockwise: the left column becomes the top row
    for (int x = 0; x < plain.width; ++x)
      EXPECT_EQ(turned.row(x)[3 * (plain.height - 1 - y)], plain.row(y)[3 * x]);
}

TEST(Decode, WhatIsNoPictureIsNamed) {
  const std::vector<uint8_t> text{'t', 'e', 'x', 't', ' ', 'o', 'n', 'l', 'y'};
  EXPECT_THAT(decode_error([&] { decode_image(text, "notes.jpg"); }), HasSubstr("notes.jpg"));
  EXPECT_THAT(decode_error([&] { decode_image({}, "none.png"); }), HasSubstr("none.png: it is empty"));
  EXPECT_THAT(decode_error([&] { read_image("/no/such/file.png"); }), HasSubstr("/no/such/file.png: No such file"));
  EXPECT_THAT(decode_error([&] { read_image(image_fixtures()); }), HasSubstr("it is a folder"));
}

TEST(Decode, PicturesAboveTheLimitAreRefused) {
  for (const auto& path : fixture_files()) {
    SCOPED_TRACE(path.filename().string());
    const auto bytes = bytes_of(path);
    const Image image = decode_image(bytes, "a");
    const int64_t pixels = int64_t{image.width} * image.height;
    EXPECT_EQ(decode_image(bytes, "a", {.max_pixels = pixels}), image);
    if (pixels == 1) continue;  // the header would be refused as empty at a limit of 0
    EXPECT_THAT(decode_error([&] { decode_image(bytes, "bomb", {.max_pixels = pixels - 1}); }), HasSubstr("limit of"));
  }
}

TEST(Decode, HugeHeadersTakeNoMemory) {
  // 13,000 x 13,000 pixels are within the limit but cannot be in so few bytes.
  std::vector<uint8_t> bmp = bytes_of(image_fixtures() / "files" / "rgb.bmp");
  bmp[18] = bmp[22] = 0xC8;
  bmp[19] = bmp[23] = 0x32;
  EXPECT_THAT(decode_error([&] { decode_image(bmp, "a.bmp"); }), HasSubstr("need more than"));
  const std::string pgm = "P5 13000 13000 255\n1234";
  EXPECT_THAT(decode_error([&] { decode_image({reinterpret_cast<const uint8_t*>(pgm.data()), pgm.size()}, "a.pgm"); }),
              HasSubstr("truncated"));
}

TEST(Decode, HalfAFileIsAnError) {
  for (const auto& path : fixture_files()) {
    if (path.filename().string().find("animated") != std::string::npos) continue;  // its first picture may be whole
    auto bytes = bytes_of(path);
    bytes.resize(bytes.size() / 2);
    const std::string message = decode_error([&] { decode_image(bytes, "half of " + path.filename().string()); });
    EXPECT_THAT(message, HasSubstr(path.filename().string()));
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

TEST(Decode, TruncatedFilesNeverCrash) {
  for (const auto& path : fixture_files()) {
    const auto bytes = bytes_of(path);
    for (size_t n = 0; n < bytes.size(); n += 1 + bytes.size() / 40)
      decode_error([&] { decode_image({bytes.data(), n}, "cut", {.max_pixels = 1 << 20}); });
  }
}

TEST(Decode, DamagedFilesNeverCrash) {
  uint64_t stream = 0;
  for (const auto& path : fixture_files()) {
    const auto whole = bytes_of(path);
    Rng rng(7, ++stream);
    for (int round = 0; round < 20; ++round) {
      auto bytes = whole;
      for (int flips = 0; flips < 3; ++flips) bytes[rng.next_below(bytes.size())] = static_cast<uint8_t>(rng.next_bits());
      decode_error([&] { decode_image(bytes, "damaged", {.max_pixels = 1 << 20}); });
    }
  }
}

TEST(Decode, ThreadsDoNotDisturbEachOther) {
  const auto files = fixture_files();
  std::vector<std::vector<std::string>> sums(4, std::vector<std::string>(files.size()));
  std::vector<std::thread> threads;
  for (auto& mine : sums)
    threads.emplace_back([&mine, &files] {
      for (size_t i = 0; i < files.size(); ++i) {
        auto bytes = bytes_of(files[i]);
        mine[i] = crc_of(decode_image(bytes, "a"));
        bytes.resize(bytes.size() / 2);
        decode_error([&] { decode_image(bytes, "half"); });
      }
    });
  for (auto& thread : threads) thread.join();
  for (const auto& other : sums) EXPECT_EQ(other, sums[0]);
}

}  // namespace
}  // namespace fovea
