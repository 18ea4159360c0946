// The lines of tests/fixtures/image/*.tsv, made by tools/make_image_fixtures.py.
#pragma once

#include <gtest/gtest.h>
#include <zlib.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "image/decode.h"

namespace fovea::testing {

inline std::filesystem::path image_fixtures() { return std::filesystem::path(FOVEA_TEST_FIXTURES) / "image"; }

// Tab-separated fields of the lines whose first field is `kind` (all lines when it is empty).
inline std::vector<std::vector<std::string>> fixture_lines(const std::string& file, const std::string& kind = "") {
  std::ifstream in(image_fixtures() / file);
  EXPECT_TRUE(in.is_open()) << file;
  std::vector<std::vector<std::string>> lines;
  for (std::string line; std::getline(in, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::vector<std::string> fields;
    std::stringstream stream(line);
    for (std::string field; std::getline(stream, field, '\t');) fields.push_back(field);
    if (kind.empty() || fields[0] == kind) lines.push_back(fields);
  }
  return lines;
}

inline std::vector<uint8_t> bytes_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.is_open()) << path;
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline std::string crc_of(const void* data, size_t bytes) {
  char text[16];
  std::snprintf(text, sizeof(text), "%08lx", crc32_z(0, static_cast<const Bytef*>(data), bytes));
  return text;
}

inline std::string crc_of(const Image& image) { return crc_of(image.pixels.data(), image.pixels.size()); }

// A source picture; grey ones are stored as such, so all three channels are equal.
inline Image source_image(const std::string& name, bool grey) {
  const Image rgb = read_image(image_fixtures() / "files" / name);
  if (!grey) return rgb;
  Image out(rgb.width, rgb.height, 1);
  for (size_t i = 0; i < out.pixels.size(); ++i) out.pixels[i] = rgb.pixels[3 * i];
  return out;
}

}  // namespace fovea::testing
