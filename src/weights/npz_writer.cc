#include "weights/npz_writer.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "core/check.h"
#include "weights/atomic_file.h"

namespace fovea {

namespace {

constexpr uint64_t kLargest32 = 0xFFFFFFFFu;  // sizes and places of this and above stand in a zip64 field

std::string_view npy_descr(DType t) {
  switch (t) {
    case DType::kF32: return "<f4";
    case DType::kF64: return "<f8";
    case DType::kF16: return "<f2";
    case DType::kBF16: return "|V2";
    case DType::kI32: return "<i4";
    case DType::kI64: return "<i8";
    case DType::kU8: return "|u1";
    case DType::kI8: return "|i1";
    case DType::kDual: break;
  }
  fail("arrays of {} cannot be written", name_of(t));
}

// Version 1.0 of the format: the whole header is a multiple of 64 bytes, so that the data is aligned.
std::string npy_header(std::string_view descr, std::span<const int64_t> shape) {
  std::string dims = fmt::format("{}", fmt::join(shape, ", "));
  if (shape.size() == 1) dims += ',';
  std::string dict = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}", descr, dims);
  constexpr size_t kBefore = 10;
  dict.append(63 - (kBefore + dict.size()) % 64, ' ');
  dict += '\n';
  const auto length = static_cast<uint16_t>(dict.size());
  std::string out("\x93NUMPY\x01\x00", 8);
  out += static_cast<char>(length & 0xFF);
  out += static_cast<char>(length >> 8);
  return out + dict;
}

// The code points of UTF-8 text.
std::vector<uint32_t> code_points(const std::string& text) {
  constexpr uint32_t kReplacement = 0xFFFD;
  std::vector<uint32_t> out;
  for (size_t i = 0; i < text.size();) {
    const auto first = static_cast<unsigned char>(text[i]);
    const size_t length = first < 0x80 ? 1 : first >> 5 == 6 ? 2 : first >> 4 == 14 ? 3 : first >> 3 == 30 ? 4 : 0;
    uint32_t point = length == 1 ? first : first & (0x7Fu >> length);
    bool good = length > 0 && i + length <= text.size();
    for (size_t k = 1; good && k < length; ++k) {
      const auto next = static_cast<unsigned char>(text[i + k]);
      good = next >> 6 == 2;
      point = point << 6 | (next & 0x3F);
    }
    good = good && point <= 0x10FFFF && (point < 0xD800 || point > 0xDFFF);
    out.push_back(good ? point : kReplacement);
    i += good ? length : 1;
  }
  return out;
}

// One entry: what goes before its bytes, and the bytes.
struct NpyEntry {
  std::string name, header;
  const void* data = nullptr;
  uint64_t bytes = 0;
  uint64_t size() const { return header.size() + bytes; }
  uint32_t crc() const {
    const uLong c = crc32_z(0, reinterpret_cast<const Bytef*>(header.data()), header.size());
    return static_cast<uint32_t>(bytes == 0 ? c : crc32_z(c, static_cast<const Bytef*>(data), bytes));
  }
};

void put16(std::string& out, uint64_t v) {
  for (int i = 0; i < 2; ++i) out += static_cast<char>(v >> (8 * i) & 0xFF);
}
void put32(std::string& out, uint64_t v) {
  for (int i = 0; i < 4; ++i) out += static_cast<char>(v >> (8 * i) & 0xFF);
}
void put64(std::string& out, uint64_t v) {
  for (int i = 0; i < 8; ++i) out += static_cast<char>(v >> (8 * i) & 0xFF);
}

// The fields that local headers and the directory share: version needed to the lengths of name and extra field. The date is the
// first that the format knows, so that equal content gives equal bytes.
void put_common(std::string& out, const NpyEntry& e, uint32_t crc, bool large, size_t extra) {
  put16(out, large ? 45 : 20);
  put16(out, 1 << 11);  // the name is UTF-8
  put16(out, 0);        // stored
  put16(out, 0);
  put16(out, 0x21);  // 1980-01-01
  put32(out, crc);
  put32(out, large ? kLargest32 : e.size());
  put32(out, large ? kLargest32 : e.size());
  put16(out, e.name.size());
  put16(out, extra);
}

class ZipWriter {
 public:
  explicit ZipWriter(AtomicFile& file) : file_(file) {}

  void add(const NpyEntry& e) {
    const bool large = e.size() >= kLargest32;
    const uint32_t crc = e.crc();
    std::string local = "PK\x03\x04";
    put_common(local, e, crc, large, large ? 20 : 0);
    local += e.name;
    if (large) {
      put16(local, 1);
      put16(local, 16);
      put64(local, e.size());
      put64(local, e.size());
    }
    const bool far = at_ >= kLargest32;
    std::string extra;
    if (large) {
      put64(extra, e.size());
      put64(extra, e.size());
    }
    if (far) put64(extra, at_);
    directory_ += "PK\x01\x02";
    put16(directory_, 45);
    put_common(directory_, e, crc, large, extra.empty() ? 0 : extra.size() + 4);
    put16(directory_, 0);
    put16(directory_, 0);
    put16(directory_, 0);
    put32(directory_, 0);
    put32(directory_, far ? kLargest32 : at_);
    directory_ += e.name;
    if (!extra.empty()) {
      put16(directory_, 1);
      put16(directory_, extra.size());
      directory_ += extra;
    }
    write(local.data(), local.size());
    write(e.header.data(), e.header.size());
    write(e.data, e.bytes);
    ++entries_;
  }

  void finish() {
    const uint64_t begin = at_, size = directory_.size();
    write(directory_.data(), directory_.size());
    std::string end;
    if (begin >= kLargest32 || entries_ >= 0xFFFF) {
      const uint64_t record = at_;
      end += "PK\x06\x06";
      put64(end, 44);
      put16(end, 45);
      put16(end, 45);
      put32(end, 0);
      put32(end, 0);
      put64(end, entries_);
      put64(end, entries_);
      put64(end, size);
      put64(end, begin);
      end += "PK\x06\x07";
      put32(end, 0);
      put64(end, record);
      put32(end, 1);
    }
    end += "PK\x05\x06";
    put32(end, 0);
    put16(end, std::min<uint64_t>(entries_, 0xFFFF));
    put16(end, std::min<uint64_t>(entries_, 0xFFFF));
    put32(end, std::min(size, kLargest32));
    put32(end, std::min(begin, kLargest32));
    put16(end, 0);
    write(end.data(), end.size());
  }

 private:
  void write(const void* data, uint64_t bytes) {
    if (bytes > 0) file_.write(data, bytes);
    at_ += bytes;
  }

  AtomicFile& file_;
  std::string directory_;
  uint64_t at_ = 0, entries_ = 0;
};

}  // namespace

void write_npz(const std::string& path, std::span<const TensorToWrite> tensors, std::span<const TextArray> texts) {
  std::unordered_set<std::string> names;
  std::vector<NpyEntry> entries;
  const auto entry = [&](const std::string& name, std::string header, const void* data, uint64_t bytes) {
    require(!name.empty() && name.size() < 60000 && names.insert(name).second, "cannot write '{}': the array name {} {}", path, printable(name),
            names.contains(name) ? "occurs twice" : "is empty or too long");
    entries.push_back({name + ".npy", std::move(header), data, bytes});
  };
  for (const TensorToWrite& t : tensors) {
    check(t.data != nullptr || t.shape.elements() == 0, "array {} to be written has no data", t.name);
    entry(t.name, npy_header(npy_descr(t.dtype), t.shape.dims()), t.data, static_cast<uint64_t>(t.shape.elements()) * size_of(t.dtype));
  }
  std::vector<std::vector<uint32_t>> memory;
  memory.reserve(texts.size());
  for (const TextArray& t : texts) {
    std::vector<std::vector<uint32_t>> rows;
    size_t longest = 1;
    for (const std::string& v : t.values) longest = std::max(longest, rows.emplace_back(code_points(v)).size());
    std::vector<uint32_t>& all = memory.emplace_back(rows.size() * longest);
    for (size_t i = 0; i < rows.size(); ++i) std::ranges::copy(rows[i], all.begin() + static_cast<int64_t>(i * longest));
    const int64_t count = std::ssize(rows);
    entry(t.name, npy_header(fmt::format("<U{}", longest), std::span(&count, 1)), all.data(), all.size() * sizeof(uint32_t));
  }
  AtomicFile file(path);
  ZipWriter zip(file);
  for (const NpyEntry& e : entries) zip.add(e);
  zip.finish();
  file.commit();
}

}  // namespace fovea
