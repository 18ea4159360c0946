// PBM, PGM and PPM, plain (P1 to P3) and binary (P4 to P6). Maximum values other than 255 are scaled, except that grey of
// more than 8 bits saturates at 255 after scaling to 65535, as in Pillow.
#include <cmath>
#include <string>

#include "image/decode_formats.h"

namespace fovea::detail {
namespace {

bool is_space(int c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// Numbers of the header and of plain files; '#' starts a comment that ends with the line.
class Scanner {
 public:
  Scanner(const Source& source, size_t at) : source_(source), at_(at) {}

  size_t position() const { return at_; }
  bool at_end() const { return at_ >= source_.bytes.size(); }

  // The next token of at most 10 characters; the one space behind it is consumed.
  std::string token() {
    std::string token;
    while (!at_end()) {
      const uint8_t c = source_.bytes[at_++];
      if (c == '#') {
        while (!at_end() && source_.bytes[at_] != '\n' && source_.bytes[at_] != '\r') ++at_;
        if (!at_end()) ++at_;
      } else if (is_space(c)) {
        if (!token.empty()) break;
      } else {
        if (token.size() == 10) source_.fail("PNM", "a number is too long (\"{}...\")", token);
        token += static_cast<char>(c);
      }
    }
    return token;
  }

  int64_t number(std::string_view what) {
    const std::string text = token();
    if (text.empty()) source_.fail("PNM", "the file is truncated: {} is missing", what);
    int64_t value = 0;
    for (const char c : text) {
      if (c < '0' || c > '9') source_.fail("PNM", "{} is no number but \"{}\"", what, text);
      value = value * 10 + (c - '0');
    }
    return value;
  }

  // The next digit of a plain bitmap (spaces between digits are optional), or -1 at the end.
  int digit() {
    while (!at_end()) {
      const uint8_t c = source_.bytes[at_++];
      if (c == '#') {
        while (!at_end() && source_.bytes[at_] != '\n' && source_.bytes[at_] != '\r') ++at_;
      } else if (!is_space(c)) {
        if (c != '0' && c != '1') source_.fail("PNM", "a plain bitmap has a byte {} that is neither 0 nor 1", c);
        return c - '0';
      }
    }
    return -1;
  }

 private:
  const Source& source_;
  size_t at_;
};

}  // namespace

Decoded decode_pnm(const Source& source) {
  const std::span<const uint8_t> b = source.bytes;
  const int kind = b[1] - '0';
  const bool plain = kind <= 3, bitmap = kind == 1 || kind == 4, color = kind == 3 || kind == 6;
  Scanner scanner(source, 2);
  const int64_t width = scanner.number("the width"), height = scanner.number("the height");
  source.check_size("PNM", width, height);
  const int64_t max_value = bitmap ? 1 : scanner.number("the maximum value");
  if (max_value < 1 || max_value > 65535) source.fail("PNM", "the maximum value {} is not in 1..65535", max_value);

  const size_t samples = static_cast<size_t>(width * height) * (color ? 3 : 1);
  const size_t bytes_per_sample = max_value > 255 ? 2 : 1;
  const size_t bytes = kind == 4 ? static_cast<size_t>((width + 7) / 8 * height)
                       : plain   ? (kind == 1 ? samples : samples * 2 - 1)
                                 : samples * bytes_per_sample;
  if (b.size() - scanner.position() < bytes)  // before memory is taken for it
    source.fail("PNM", "the file is truncated: {} bytes of pixels, at least {} are needed", b.size() - scanner.position(),
                bytes);

  const int out_max = max_value > 255 && !color ? 65535 : 255;
  const auto scaled = [&](int64_t v) {
    if (max_value == out_max) return clip8(static_cast<int>(v));
    return clip8(static_cast<int>(
        std::nearbyint(static_cast<double>(v) / static_cast<double>(max_value) * out_max)));  // ties to even
  };
  Decoded decoded{Image(static_cast<int>(width), static_cast<int>(height), 3), 1};
  uint8_t* out = decoded.image.pixels.data();
  const uint8_t* p = b.data() + scanner.position();
  const size_t bitmap_row = static_cast<size_t>((width + 7) / 8);
  for (size_t i = 0; i < samples; ++i) {
    uint8_t value = 0;
    if (kind == 1) {
      const int digit = scanner.digit();
      if (digit < 0) source.fail("PNM", "the file is truncated: {} of {} pixels are there", i, samples);
      value = digit == 0 ? 255 : 0;
    } else if (kind == 4) {
      const size_t x = i % static_cast<size_t>(width), y = i / static_cast<size_t>(width);
      value = (p[y * bitmap_row + x / 8] >> (7 - x % 8) & 1) != 0 ? 0 : 255;
    } else {
      int64_t v = 0;
      if (plain)
        v = scanner.number("a sample");
      else if (bytes_per_sample == 2)
        v = p[2 * i] << 8 | p[2 * i + 1];
      else
        v = p[i];
      if (plain && v > max_value) source.fail("PNM", "the sample {} is above the maximum value {}", v, max_value);
      value = scaled(v);
    }
    if (color) {
      *out++ = value;
    } else {
      put_grey(out, value);
      out += 3;
    }
  }
  return decoded;
}

}  // namespace fovea::detail
