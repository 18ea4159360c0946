#include "weights/shard_index.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/check.h"
#include "weights/weight_file.h"

namespace fovea {

namespace {

// A name that stays in the folder: no way up, down or elsewhere.
bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         std::ranges::none_of(name, [](char c) { return c == '/' || c == '\\' || static_cast<unsigned char>(c) < 0x20; });
}

// Receives the JSON event by event: nothing but the map takes memory, nesting does not matter, and a key that occurs twice is seen.
class IndexReader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit IndexReader(const std::string& path) : path_(path) {}

  ShardIndex index;
  bool has_map = false;

  bool null() override { return other(); }
  bool boolean(bool) override { return other(); }
  bool number_integer(number_integer_t) override { return other(); }
  bool number_unsigned(number_unsigned_t) override { return other(); }
  bool number_float(number_float_t, const string_t&) override { return other(); }
  bool binary(binary_t&) override { return other(); }

  bool string(string_t& v) override {
    if (!in_map_) return other();
    if (!is_plain_file_name(v)) broken("the shard {} of tensor {} is no plain file name", printable(v), printable(tensor_));
    if (!index.shard_of.emplace(tensor_, v).second) broken("it names the tensor {} twice", printable(tensor_));
    return true;
  }

  bool start_object(std::size_t) override {
    if (in_map_) return other();
    if (depth_ == 1 && at_map_) {
      if (std::exchange(has_map, true)) broken("it has two weight_map");
      in_map_ = true;
    }
    ++depth_;
    return true;
  }

  bool key(string_t& v) override {
    if (in_map_) tensor_ = v;
    else if (depth_ == 1) at_map_ = v == "weight_map";
    return true;
  }

  bool end_object() override {
    --depth_;
    in_map_ = false;
    return true;
  }

  bool start_array(std::size_t) override {
    other();
    ++depth_;
    return true;
  }

  bool end_array() override {
    --depth_;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    broken("it is not valid JSON (byte {})", position);
  }

 private:
  template <class... Args>
  [[noreturn]] void broken(fmt::format_string<Args...> format, Args&&... args) const {
    fail("'{}' is a broken index of a sharded checkpoint: {}", path_, fmt::format(format, std::forward<Args>(args)...));
  }

  // A value that is no shard of a tensor: fine elsewhere than in the map.
  bool other() const {
    if (in_map_) broken("the shard of tensor {} is no text", printable(tensor_));
    if (depth_ == 1 && at_map_) broken("its weight_map is no object");
    return true;
  }

  const std::string& path_;
  int64_t depth_ = 0;
  bool at_map_ = false, in_map_ = false;  // the value that follows is the map; inside it
  std::string tensor_;
};

}  // namespace

bool looks_like_shard_index(std::string_view bytes) {
  // safetensors begins with a length, which may look like spaces and a brace, but in which there are zeros.
  if (bytes.substr(0, 8).find('\0') != std::string_view::npos) return false;
  const size_t first = bytes.find_first_not_of(" \t\r\n");
  return first != std::string_view::npos && bytes[first] == '{';
}

ShardIndex parse_shard_index(const FileBytes& file) {
  IndexReader reader(file.path);
  const char* text = reinterpret_cast<const char*>(file.bytes.data());
  nlohmann::json::sax_parse(text, text + file.bytes.size(), &reader);
  require(reader.has_map, "'{}' is JSON, but not the index of a sharded checkpoint (it has no weight_map); name the weights file", file.path);
  require(!reader.index.shard_of.empty(), "'{}' is the index of a sharded checkpoint, but names no tensor", file.path);
  return std::move(reader.index);
}

}  // namespace fovea
