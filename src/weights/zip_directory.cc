#include "weights/zip_directory.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "core/check.h"

namespace fovea {

namespace {

constexpr uint32_t kEnd = 0x06054b50, kEnd64Locator = 0x07064b50, kEnd64 = 0x06064b50, kCentral = 0x02014b50, kLocal = 0x04034b50;
constexpr size_t kEndBytes = 22, kEnd64LocatorBytes = 20, kEnd64Bytes = 56, kCentralBytes = 46, kLocalBytes = 30;
constexpr size_t kLongestComment = 65535;
constexpr uint32_t kIn64 = 0xffffffff;  // the true number stands in the extra field

// Little-endian numbers of a byte range, which must hold them.
class Bytes {
 public:
  explicit Bytes(std::span<const std::byte> bytes) : bytes_(bytes) {}
  size_t size() const { return bytes_.size(); }
  bool holds(uint64_t at, uint64_t count) const { return at <= size() && count <= size() - at; }
  Bytes part(uint64_t at, uint64_t count) const { return Bytes(bytes_.subspan(at, count)); }
  std::span<const std::byte> span() const { return bytes_; }
  std::string text() const { return {reinterpret_cast<const char*>(bytes_.data()), size()}; }

  template <class T>
  T number(uint64_t at) const {
    check(holds(at, sizeof(T)), "a number at byte {} of {}", at, size());
    T value{};
    std::memcpy(&value, bytes_.data() + at, sizeof(T));
    return value;
  }

 private:
  std::span<const std::byte> bytes_;
};

// The central directory, or nothing.
std::optional<Bytes> directory_of(const Bytes& archive) {
  if (archive.size() < kEndBytes) return std::nullopt;
  const size_t first = archive.size() - std::min(archive.size(), kEndBytes + kLongestComment);
  for (size_t end = archive.size() - kEndBytes;; --end) {
    if (archive.number<uint32_t>(end) == kEnd && end + kEndBytes + archive.number<uint16_t>(end + 20) == archive.size()) {
      uint64_t size = archive.number<uint32_t>(end + 12), offset = archive.number<uint32_t>(end + 16);
      if (end >= kEnd64LocatorBytes && archive.number<uint32_t>(end - kEnd64LocatorBytes) == kEnd64Locator) {
        const auto at = archive.number<uint64_t>(end - kEnd64LocatorBytes + 8);
        if (!archive.holds(at, kEnd64Bytes) || archive.number<uint32_t>(at) != kEnd64) return std::nullopt;
        size = archive.number<uint64_t>(at + 40);
        offset = archive.number<uint64_t>(at + 48);
      }
      if (!archive.holds(offset, size)) return std::nullopt;
      return archive.part(offset, size);
    }
    if (end == first) return std::nullopt;
  }
}

struct Sizes {
  uint64_t unpacked, packed, offset;
};

// Replaces what the fixed fields leave to the extra field of zip64.
bool complete(Sizes& sizes, const Bytes& extra) {
  for (uint64_t at = 0; extra.holds(at, 4);) {
    const uint64_t length = extra.number<uint16_t>(at + 2);
    if (!extra.holds(at + 4, length)) return false;
    if (extra.number<uint16_t>(at) == 1) {
      const Bytes field = extra.part(at + 4, length);
      uint64_t next = 0;
      for (uint64_t* value : {&sizes.unpacked, &sizes.packed, &sizes.offset}) {
        if (*value != kIn64) continue;
        if (!field.holds(next, 8)) return false;
        *value = field.number<uint64_t>(next);
        next += 8;
      }
      return true;
    }
    at += 4 + length;
  }
  return sizes.unpacked != kIn64 && sizes.packed != kIn64 && sizes.offset != kIn64;
}

}  // namespace

bool zip_counts_fit(std::span<const std::byte> bytes) {
  const Bytes archive(bytes);
  if (archive.size() < kEndBytes) return true;
  const uint64_t room = archive.size() / kCentralBytes;
  const size_t first = archive.size() - std::min(archive.size(), kEndBytes + kLongestComment);
  for (size_t end = first; end + kEndBytes <= archive.size(); ++end) {
    if (archive.number<uint32_t>(end) != kEnd) continue;
    uint64_t count = std::max(archive.number<uint16_t>(end + 8), archive.number<uint16_t>(end + 10));
    if (end >= kEnd64LocatorBytes && archive.number<uint32_t>(end - kEnd64LocatorBytes) == kEnd64Locator) {
      const auto at = archive.number<uint64_t>(end - kEnd64LocatorBytes + 8);
      // Its numbers count instead, which may all be ones where they stand in 64 bits.
      if (archive.holds(at, kEnd64Bytes)) count = std::max(archive.number<uint64_t>(at + 24), archive.number<uint64_t>(at + 32));
    }
    if (count > room) return false;
  }
  return true;
}

ZipDirectory read_zip_directory(std::span<const std::byte> bytes) {
  static_assert(std::endian::native == std::endian::little);
  ZipDirectory entries;
  const Bytes archive(bytes);
  const std::optional<Bytes> directory = directory_of(archive);
  if (!directory) return entries;
  for (uint64_t at = 0; directory->holds(at, kCentralBytes) && directory->number<uint32_t>(at) == kCentral;) {
    const uint64_t name = directory->number<uint16_t>(at + 28), extra = directory->number<uint16_t>(at + 30),
                   comment = directory->number<uint16_t>(at + 32);
    if (!directory->holds(at + kCentralBytes, name + extra + comment)) break;
    const bool stored = directory->number<uint16_t>(at + 10) == 0, encrypted = (directory->number<uint16_t>(at + 8) & 1) != 0;
    Sizes sizes{directory->number<uint32_t>(at + 24), directory->number<uint32_t>(at + 20), directory->number<uint32_t>(at + 42)};
    if (complete(sizes, directory->part(at + kCentralBytes + name, extra)) && archive.holds(sizes.offset, kLocalBytes) &&
        archive.number<uint32_t>(sizes.offset) == kLocal) {
      const uint64_t data = sizes.offset + kLocalBytes + archive.number<uint16_t>(sizes.offset + 26) + archive.number<uint16_t>(sizes.offset + 28);
      if (archive.holds(data, sizes.packed)) {
        const std::string text = directory->part(at + kCentralBytes, name).text();
        if (stored && !encrypted && sizes.packed == sizes.unpacked) entries.stored.emplace(text, archive.part(data, sizes.packed).span());
        entries.ranges.push_back({sizes.offset, data + sizes.packed, text});
      }
    }
    at += kCentralBytes + name + extra + comment;
  }
  std::ranges::stable_sort(entries.ranges, {}, &ZipDirectory::Range::begin);
  return entries;
}

}  // namespace fovea
