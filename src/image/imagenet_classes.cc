// Reads imagenet_classes.bin, which tools/make_imagenet_classes.py describes and makes from the lists in the timm package.
#include "image/imagenet_classes.h"

#include <zlib.h>

#include <bit>
#include <cstring>
#include <map>
#include <mutex>
#include <string_view>

#include "core/check.h"

// The file's bytes as they are, between two labels.
__asm__(".section .rodata,\"a\",@progbits\n"
        ".hidden fovea_imagenet_begin\n.hidden fovea_imagenet_end\n"
        ".globl fovea_imagenet_begin\n.globl fovea_imagenet_end\n"
        "fovea_imagenet_begin:\n.incbin \"" FOVEA_IMAGENET_CLASSES "\"\n"
        "fovea_imagenet_end:\n.byte 0\n.previous\n");
extern "C" {
extern const unsigned char fovea_imagenet_begin[], fovea_imagenet_end[];
}

namespace fovea {
namespace {

static_assert(std::endian::native == std::endian::little);

class Reader {
 public:
  explicit Reader(std::string_view data) : rest_(data) {}

  std::string_view bytes(size_t count) {
    check(count <= rest_.size(), "the built-in class lists are broken");
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }
  uint32_t u32() {
    uint32_t v = 0;
    std::memcpy(&v, bytes(sizeof(v)).data(), sizeof(v));
    return v;
  }
  std::string_view line() {
    const std::string_view text = bytes(rest_.find('\n'));
    rest_.remove_prefix(1);
    return text;
  }

 private:
  std::string_view rest_;
};

std::string unpacked() {
  const auto packed = static_cast<size_t>(fovea_imagenet_end - fovea_imagenet_begin);
  uint32_t size = 0;
  std::memcpy(&size, fovea_imagenet_begin, sizeof(size));
  std::string data(size, '\0');
  uLongf length = size;
  const int status = uncompress(reinterpret_cast<Bytef*>(data.data()), &length, fovea_imagenet_begin + sizeof(size),
                                static_cast<uLong>(packed - sizeof(size)));
  check(status == Z_OK && length == size, "the built-in class lists are broken");
  return data;
}

ImageNetClasses read_classes(int64_t classes) {
  const std::string data = unpacked();
  Reader in(data);
  const size_t count = in.u32();
  std::vector<uint32_t> numbers(count);
  for (uint32_t number = 0; uint32_t& n : numbers) n = number += in.u32();
  std::vector<std::string_view> words(count);
  for (std::string_view& w : words) w = in.line();
  for (uint32_t lists = in.u32(); lists > 0; --lists) {
    const int64_t size = in.u32();
    const uint32_t first = in.u32();
    std::vector<uint32_t> places(first);
    for (uint32_t& p : places) p = in.u32();
    const std::string_view rest = in.bytes((count + 7) / 8);
    const std::string_view title = in.line();
    if (size != classes) continue;
    for (uint32_t i = 0; i < count; ++i)
      if ((static_cast<unsigned char>(rest[i / 8]) >> (i % 8) & 1) != 0) places.push_back(i);
    check(std::ssize(places) == classes, "the built-in class lists are broken");
    ImageNetClasses out;
    out.title = title;
    for (const uint32_t p : places) {
      out.synsets.push_back(fmt::format("n{:08}", numbers.at(p)));
      out.names.emplace_back(words.at(p));
    }
    return out;
  }
  return {};
}

}  // namespace

const ImageNetClasses* imagenet_classes(int64_t classes) {
  if (classes != 1000 && (classes < 10000 || classes > 22000)) return nullptr;  // not worth looking
  static std::mutex mutex;
  static std::map<int64_t, ImageNetClasses> known;
  const std::scoped_lock lock(mutex);
  auto it = known.find(classes);
  if (it == known.end()) it = known.emplace(classes, read_classes(classes)).first;
  return it->second.names.empty() ? nullptr : &it->second;
}

}  // namespace fovea
