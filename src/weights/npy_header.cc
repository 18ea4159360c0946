#include "weights/npy_header.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <string>
#include <utility>

#include "core/check.h"
#include "core/shape.h"
#include "weights/weight_file.h"

namespace fovea {

namespace {

constexpr std::string_view kMagic("\x93NUMPY", 6);
constexpr size_t kVersionEnd = 8;

struct Descr {
  std::string_view kind;  // what follows the sign of the byte order
  StoredType type;
};
constexpr std::array<Descr, 14> kDescrs{{{"f4", StoredType::kF32},
                                         {"f8", StoredType::kF64},
                                         {"f2", StoredType::kF16},
                                         {"V2", StoredType::kBF16},
                                         {"i8", StoredType::kI64},
                                         {"i4", StoredType::kI32},
                                         {"i2", StoredType::kI16},
                                         {"i1", StoredType::kI8},
                                         {"u8", StoredType::kU64},
                                         {"u4", StoredType::kU32},
                                         {"u2", StoredType::kU16},
                                         {"u1", StoredType::kU8},
                                         {"b1", StoredType::kBool},
                                         {"?", StoredType::kBool}}};

// The dict's text, token by token.
class DictReader {
 public:
  DictReader(std::string_view text, std::string_view what) : rest_(text), what_(what) {}

  NpyHeader run() {
    NpyHeader header;
    bool has_descr = false, has_order = false, has_shape = false;
    expect('{');
    while (!accept('}')) {
      const std::string_view key = text();
      expect(':');
      bool* seen = key == "descr" ? &has_descr : key == "fortran_order" ? &has_order : key == "shape" ? &has_shape : nullptr;
      if (seen == nullptr) broken("its key {} does not belong there", printable(key));
      if (std::exchange(*seen, true)) broken("'{}' occurs twice", key);
      if (seen == &has_descr) header.type = element_type();
      else if (seen == &has_order) header.fortran_order = boolean();
      else header.shape = shape();
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip_spaces();
    if (!rest_.empty()) broken("{} follows the dict", printable(rest_));
    if (!has_descr || !has_order || !has_shape) broken("it lacks '{}'", !has_descr ? "descr" : !has_order ? "fortran_order" : "shape");
    return header;
  }

 private:
  template <class... Args>
  [[noreturn]] void broken(fmt::format_string<Args...> format, Args&&... args) const {
    fail("{}: the .npy header is broken: {}", what_, fmt::format(format, std::forward<Args>(args)...));
  }

  void skip_spaces() { rest_.remove_prefix(std::min(rest_.find_first_not_of(" \t\n"), rest_.size())); }

  bool accept(char c) {
    skip_spaces();
    if (!rest_.starts_with(c)) return false;
    rest_.remove_prefix(1);
    return true;
  }

  void expect(char c) {
    if (!accept(c)) broken("'{}' is missing before {}", c, printable(rest_.substr(0, 20)));
  }

  // A quoted text; those that belong here need no escapes.
  std::string_view text() {
    skip_spaces();
    const size_t end = rest_.starts_with('\'') || rest_.starts_with('"') ? rest_.find(rest_[0], 1) : std::string_view::npos;
    if (end == std::string_view::npos) broken("a text is missing before {}", printable(rest_.substr(0, 20)));
    const std::string_view out = rest_.substr(1, end - 1);
    rest_.remove_prefix(end + 1);
    return out;
  }

  bool boolean() {
    skip_spaces();
    for (const std::string_view word : {"True", "False"})
      if (rest_.starts_with(word)) {
        rest_.remove_prefix(word.size());
        return word == "True";
      }
    broken("'fortran_order' is neither True nor False");
  }

  StoredType element_type() {
    skip_spaces();
    if (rest_.starts_with('[')) fail("{} holds records, not numbers; save each field as an array of its own", what_);
    const std::string_view descr = text();
    const std::string_view kind = descr.substr(!descr.empty() && std::string_view("<>|=").find(descr[0]) != std::string_view::npos ? 1 : 0);
    const auto* at = std::ranges::find(kDescrs, kind, &Descr::kind);
    if (at == kDescrs.end())
      fail("{} has the element type {}, which is not supported (floats of 2 to 8 bytes, bfloat16 as 'V2', integers and bool are)", what_,
           printable(descr));
    if (descr.starts_with('>') && size_of(at->type) > 1)
      fail("{} is big endian ({}), which is not supported; save it as little endian (array.astype('<{}'))", what_, printable(descr), kind);
    return at->type;
  }

  std::vector<int64_t> shape() {
    std::vector<int64_t> out;
    expect('(');
    while (!accept(')')) {
      int64_t size = 0;
      skip_spaces();
      const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), size);
      if (error != std::errc() || size < 0) broken("'shape' has a size that is not a natural number of 63 bits ({})", printable(rest_.substr(0, 24)));
      rest_.remove_prefix(static_cast<size_t>(end - rest_.data()));
      accept('L');  // Python 2's long integers
      out.push_back(size);
      if (out.size() > Shape::kMaxRank) fail("{} has more than {} dimensions", what_, Shape::kMaxRank);
      if (!accept(',')) {
        expect(')');
        break;
      }
    }
    return out;
  }

  std::string_view rest_, what_;
};

}  // namespace

NpyHeader parse_npy_header(std::span<const std::byte> bytes, std::string_view what) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  require(text.starts_with(kMagic), "{} is no .npy array (it does not begin as one)", what);
  require(text.size() >= kVersionEnd, "{} ends inside its .npy header", what);
  const int version = static_cast<unsigned char>(text[kMagic.size()]);
  require(version >= 1 && version <= 3, "{} has version {} of the .npy format; 1 to 3 are supported", what, version);
  const size_t length_bytes = version == 1 ? 2 : 4, begin = kVersionEnd + length_bytes;
  uint32_t length = 0;
  require(text.size() >= begin, "{} ends inside its .npy header", what);
  std::memcpy(&length, text.data() + kVersionEnd, length_bytes);
  require(length <= text.size() - begin, "{} claims a .npy header of {} bytes, but only {} follow", what, length, text.size() - begin);
  NpyHeader header = DictReader(text.substr(begin, length), what).run();
  header.data_begin = begin + length;
  return header;
}

}  // namespace fovea
