// Changes of a JSON document that keep it one: bytes changed at random nearly always break it, so that only the parser would be tried.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

// Keys and texts that the target's readers know; each target has its own.
const std::vector<std::string>& known_words();

namespace json_mutator {

using Json = nlohmann::ordered_json;

inline void add_keys(std::vector<std::string>& words, const Json& object) {
  for (const auto& [key, value] : object.items()) words.push_back(key);
}

class Mutation {
 public:
  explicit Mutation(unsigned seed) : random_(seed) {}

  size_t below(size_t n) { return n == 0 ? 0 : random_() % n; }

  void change(Json& document) {
    for (size_t i = 1 + below(3); i > 0; --i) {
      std::vector<Json*> values;
      collect(document, values, 0);
      change_value(*values[below(values.size())], *values[below(values.size())]);
    }
  }

 private:
  static constexpr size_t kDeepest = 80, kMostValues = 4096;

  static void collect(Json& j, std::vector<Json*>& out, size_t depth) {
    out.push_back(&j);
    if (depth > kDeepest || out.size() > kMostValues || !j.is_structured()) return;
    for (Json& child : j) collect(child, out, depth + 1);
  }

  Json new_value() {
    static const Json kValues = Json::parse(R"([0, 1, -1, 2, 3, 4, 7, 8, 16, 32, 224, 255, 256, 1000, 16384, 16385, 65535, 65536, 65537, 1048576, 2147483647,
        2147483648, -2147483648, 4294967295, 4294967296, 1099511627776, 4611686018427387904, 9223372036854775807, 9223372036854775808,
        18446744073709551615, -9223372036854775808, 0.0, -0.0, 0.5, 1.0, 1.5, 2.0, 1e-300, 5e-324, 1e9, 1e19, -1e19, 1e300, -1e300,
        1.7976931348623157e308, true, false, null, "", "x", "0", "-1", "NaN", "1e300", [], {}, [0], [1, 2], [224, 224], [3, 224, 224], [0.5],
        [0.5, 0.5, 0.5], [[]], [1e300], [-1], [null], ["a"], {"height": 1, "width": 2}, {"0": "a", "1": "b"}])");
    switch (below(8)) {
      case 0: return known_words().empty() ? Json("x") : Json(known_words()[below(known_words().size())]);
      case 1: return static_cast<int64_t>(random_()) - static_cast<int64_t>(random_());
      case 2: {
        Json nested = 1;
        for (size_t i = below(kDeepest); i > 0; --i) nested = below(2) == 0 ? Json::array({nested}) : Json{{"a", nested}};
        return nested;
      }
      default: return kValues[below(kValues.size())];
    }
  }

  void change_value(Json& value, const Json& other) {
    if (value.is_object() && below(4) != 0) {
      if (!value.empty() && below(3) == 0) return void(value.erase(std::next(value.begin(), static_cast<std::ptrdiff_t>(below(value.size())))));
      const std::string key = known_words().empty() ? "x" : known_words()[below(known_words().size())];
      const Json added = below(3) == 0 ? Json(other) : new_value();
      value[key] = added;
    } else if (value.is_array() && below(4) != 0) {
      if (!value.empty() && below(2) == 0) return void(value.erase(below(value.size())));
      const Json added = below(2) == 0 || value.empty() ? new_value() : Json(value[below(value.size())]);
      for (size_t i = below(8) == 0 ? 64 : 1; i > 0; --i) value.push_back(added);
    } else if (value.is_string() && below(4) != 0) {
      value = changed_text(value.get<std::string>());
    } else if (value.is_number() && below(2) == 0) {
      value = changed_number(value);
    } else {
      const Json replaced = below(4) == 0 ? Json(other) : new_value();
      value = replaced;
    }
  }

  std::string changed_text(std::string text) {
    if (below(4) == 0 && !known_words().empty()) {
      text.insert(below(text.size() + 1), known_words()[below(known_words().size())]);
      return text;
    }
    const size_t room = text.size() + 16;
    std::vector<uint8_t> bytes(room);
    std::memcpy(bytes.data(), text.data(), text.size());
    const size_t size = LLVMFuzzerMutate(bytes.data(), text.size(), room);
    return std::string(reinterpret_cast<const char*>(bytes.data()), size);
  }

  Json changed_number(const Json& n) {
    if (n.is_number_float()) {
      constexpr double kFactors[] = {-1, 0.5, 2, 1e9, 1e-9, 1e300};
      return n.get<double>() * kFactors[below(std::size(kFactors))];
    }
    const auto u = n.get<uint64_t>();
    const uint64_t changed[] = {u + 1, u - 1, 2 * u, u / 2, ~u + 1, uint64_t{1} << below(64), u * u};
    return static_cast<int64_t>(changed[below(std::size(changed))]);
  }

  std::minstd_rand random_;
};

inline size_t mutate(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  Mutation mutation(seed);
  if (mutation.below(8) == 0) return LLVMFuzzerMutate(data, size, max_size);
  Json document = Json::parse(data, data + size, nullptr, false);
  if (document.is_discarded()) return LLVMFuzzerMutate(data, size, max_size);
  mutation.change(document);
  const std::string text = document.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
  std::memcpy(data, text.data(), text.size());
  return text.size();
}

}  // namespace json_mutator

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  return json_mutator::mutate(data, size, max_size, seed);
}
