#include "weights/safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>

#include "core/check.h"
#include "weights/atomic_file.h"

namespace fovea {

namespace {

constexpr size_t kLengthBytes = 8;
constexpr uint64_t kLongestHeader = 100'000'000;  // the format's own limit
constexpr std::string_view kMetadataKey = "__metadata__";

struct Entry {
  std::string name, dtype;
  std::vector<int64_t> shape, offsets;
  bool has_dtype = false, has_shape = false, has_offsets = false;
};

// Receives the header's JSON event by event, so that nothing but the wanted fields takes memory, nesting cannot run deep,
// and a key that occurs twice is seen.
class HeaderReader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderReader(const std::string& path) : path_(path) {}

  std::vector<Entry> entries;
  WeightFile::Metadata metadata;

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_float(number_float_t, const string_t&) override { return unexpected("a fractional number"); }
  bool binary(binary_t&) override { return unexpected("binary data"); }

  bool number_integer(number_integer_t v) override {
    if (array_ == nullptr) return unexpected("a number");
    broken("{} holds the negative number {}", where(), v);
  }

  bool number_unsigned(number_unsigned_t v) override {
    if (array_ == nullptr) return unexpected("a number");
    if (v > static_cast<uint64_t>(INT64_MAX)) broken("{} holds the number {}, which is too large", where(), v);
    array_->push_back(static_cast<int64_t>(v));
    if (array_->size() > Shape::kMaxRank) broken("{} holds more than {} numbers", where(), Shape::kMaxRank);
    return true;
  }

  bool string(string_t& v) override {
    if (depth_ == 2 && in_metadata_) {
      if (!metadata.emplace(field_, v).second) broken("metadata key {} occurs twice", printable(field_));
      return true;
    }
    if (depth_ == 2 && field_ == "dtype") {
      if (std::exchange(entries.back().has_dtype, true)) broken("{} occurs twice", where());
      entries.back().dtype = v;
      return true;
    }
    return unexpected("a string");
  }

  bool start_object(std::size_t) override {
    if (depth_ >= 2) return unexpected("an object");
    ++depth_;
    if (depth_ == 2 && !in_metadata_) entries.emplace_back().name = name_;
    return true;
  }

  bool key(string_t& v) override {
    if (depth_ == 1) {
      name_ = v;
      in_metadata_ = v == kMetadataKey;
      if (in_metadata_ && std::exchange(has_metadata_, true)) broken("{} occurs twice", kMetadataKey);
    }
    field_ = v;
    return true;
  }

  bool end_object() override {
    if (depth_ == 2 && !in_metadata_) {
      const Entry& e = entries.back();
      if (!e.has_dtype || !e.has_shape || !e.has_offsets)
        broken("tensor {} lacks {}", printable(e.name), !e.has_dtype ? "dtype" : !e.has_shape ? "shape" : "data_offsets");
    }
    --depth_;
    return true;
  }

  bool start_array(std::size_t) override {
    if (depth_ != 2 || in_metadata_ || array_ != nullptr) return unexpected("an array");
    Entry& e = entries.back();
    const bool is_shape = field_ == "shape";
    if (!is_shape && field_ != "data_offsets") return unexpected("an array");
    if (std::exchange(is_shape ? e.has_shape : e.has_offsets, true)) broken("{} occurs twice", where());
    array_ = is_shape ? &e.shape : &e.offsets;
    return true;
  }

  bool end_array() override {
    array_ = nullptr;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    broken("the header is not valid JSON (byte {} of it)", position);
  }

 private:
  template <class... Args>
  [[noreturn]] void broken(fmt::format_string<Args...> format, Args&&... args) const {
    fail("'{}' is a broken safetensors file: {}", path_, fmt::format(format, std::forward<Args>(args)...));
  }

  std::string where() const {
    // The header begins with a brace: every value lies inside it.
    if (depth_ == 1) return fmt::format("the entry {}", printable(name_));
    return fmt::format("the field {} of {}", printable(field_), printable(name_));
  }

  bool unexpected(std::string_view what) const { broken("{} is or holds {}, which does not belong there", where(), what); }

  const std::string& path_;
  int depth_ = 0;
  bool in_metadata_ = false, has_metadata_ = false;
  std::string name_, field_;
  std::vector<int64_t>* array_ = nullptr;
};

WeightTensor checked_tensor(const std::string& path, Entry& e, std::span<const std::byte> data, bool mapped) {
  const auto broken = [&](const std::string& what) { fail("'{}': tensor {} {}", path, printable(e.name), what); };
  const std::optional<StoredType> type = stored_type_named(e.dtype);
  if (!type)
    broken(fmt::format("has the element type {}, which is not supported (F64, F32, F16, BF16, BOOL and integers are)",
                       printable(e.dtype)));
  auto bytes = static_cast<int64_t>(size_of(*type));
  bool overflow = false;
  for (int64_t d : e.shape) overflow = __builtin_mul_overflow(bytes, d, &bytes) || overflow;
  const Shape shape(e.shape);
  if (overflow) broken(fmt::format("has the shape {}, whose size overflows 64 bits", shape));
  if (e.offsets.size() != 2) broken(fmt::format("has {} data_offsets instead of two", e.offsets.size()));
  const int64_t begin = e.offsets[0], end = e.offsets[1];
  if (begin > end) broken(fmt::format("ends (byte {}) before it begins (byte {})", end, begin));
  if (end > static_cast<int64_t>(data.size()))
    broken(fmt::format("reaches to byte {} of the data, but the file holds only {}; it may be cut short", end, data.size()));
  if (end - begin != bytes)
    broken(fmt::format("has {} bytes, but shape {} of {} needs {}", end - begin, shape, e.dtype, bytes));
  return {std::move(e.name), *type, shape, data.data() + begin, {}, mapped};
}

}  // namespace

bool looks_like_safetensors(std::span<const std::byte> bytes) {
  return bytes.size() > kLengthBytes && bytes[kLengthBytes] == std::byte{'{'};
}

WeightFile parse_safetensors(const FileBytes& file) {
  const std::string& path = file.path;
  require(file.bytes.size() >= kLengthBytes, "'{}' is too short for a safetensors file ({} bytes)", path, file.bytes.size());
  uint64_t header_size = 0;
  std::memcpy(&header_size, file.bytes.data(), kLengthBytes);
  require(header_size <= kLongestHeader, "'{}' is a broken safetensors file: it claims a header of {} bytes, more than the format's limit of {}",
          path, header_size, kLongestHeader);
  require(header_size <= file.bytes.size() - kLengthBytes,
          "'{}' is cut short: its header should have {} bytes, but only {} follow", path, header_size, file.bytes.size() - kLengthBytes);
  const auto header = file.bytes.subspan(kLengthBytes, header_size);
  const auto data = file.bytes.subspan(kLengthBytes + header_size);
  require(!header.empty() && header[0] == std::byte{'{'}, "'{}' is a broken safetensors file: its header does not begin with a brace", path);

  HeaderReader reader(path);
  const char* text = reinterpret_cast<const char*>(header.data());
  nlohmann::json::sax_parse(text, text + header.size(), &reader);

  std::vector<WeightTensor> tensors;
  tensors.reserve(reader.entries.size());
  for (Entry& e : reader.entries) tensors.push_back(checked_tensor(path, e, data, file.mapped));
  std::ranges::stable_sort(tensors, {}, [](const WeightTensor& t) {
    // Empty tensors come before the one that begins where they lie.
    return std::pair(t.data, t.elements() != 0);
  });
  const std::byte* next = data.data();
  for (const WeightTensor& t : tensors) {
    require(t.data == next, "'{}' is a broken safetensors file: tensor {} {} the one before it", path, printable(t.name),
            t.data < next ? "overlaps" : "leaves a gap after");
    next += t.elements() * static_cast<int64_t>(size_of(t.type));
  }
  require(next == data.data() + data.size(), "'{}' is a broken safetensors file: {} bytes follow the last tensor", path,
          data.data() + data.size() - next);
  return WeightFile(path, "safetensors", std::move(tensors), std::move(reader.metadata), file.owner);
}

namespace {

std::string quoted(const std::string& path, const std::string& text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    fail("cannot write '{}': the text {} is not UTF-8", path, printable(text));
  }
}

}  // namespace

void write_safetensors(const std::string& path, std::span<const TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<const TensorToWrite*> order;
  std::unordered_set<std::string_view> names;
  for (const TensorToWrite& t : tensors) {
    require(stored_type_of(t.dtype).has_value(), "cannot write '{}': tensor {} has the element type {}, which files do not store",
            path, printable(t.name), name_of(t.dtype));
    require(t.name != kMetadataKey && names.insert(t.name).second, "cannot write '{}': the tensor name {} {}", path,
            printable(t.name), t.name == kMetadataKey ? "is reserved" : "occurs twice");
    check(t.data != nullptr || t.shape.elements() == 0, "tensor {} to be written has no data", t.name);
    order.push_back(&t);
  }
  std::ranges::stable_sort(order, std::ranges::greater{}, [](const TensorToWrite* t) { return size_of(t->dtype); });

  std::string header = "{";
  const auto separate = [&] {
    if (header.size() > 1) header += ',';
  };
  if (!metadata.empty()) {
    header += fmt::format("\"{}\":{{", kMetadataKey);
    bool first = true;
    for (const auto& [key, value] : metadata) {
      header += fmt::format("{}{}:{}", first ? "" : ",", quoted(path, key), quoted(path, value));
      first = false;
    }
    header += '}';
  }
  uint64_t offset = 0;
  for (const TensorToWrite* t : order) {
    separate();
    const uint64_t bytes = static_cast<uint64_t>(t->shape.elements()) * size_of(t->dtype);
    header += fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", quoted(path, t->name),
                          name_of(*stored_type_of(t->dtype)), fmt::join(t->shape.dims(), ","), offset, offset + bytes);
    offset += bytes;
  }
  header += '}';
  header.append((8 - header.size() % 8) % 8, ' ');
  const uint64_t header_size = header.size();
  require(header_size <= kLongestHeader, "cannot write '{}': the names and metadata take {} bytes, more than the format's limit of {}",
          path, header_size, kLongestHeader);

  AtomicFile file(path);
  file.write(&header_size, sizeof header_size);
  file.write(header.data(), header.size());
  for (const TensorToWrite* t : order) file.write(t->data, static_cast<size_t>(t->shape.elements()) * size_of(t->dtype));
  file.commit();
}

}  // namespace fovea
