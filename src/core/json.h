#pragma once

#include <concepts>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

namespace fovea {

/// Lists and objects that are read inside one another. Copying a document, or making a text of it, recurses, so that brackets alone could
/// exhaust the stack.
inline constexpr int kDeepestJson = 64;

/// Whether a JSON text nests deeper than `deepest`; of no meaning where it is not valid.
inline bool nests_deeper(std::string_view json, int deepest) {
  int64_t depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (quoted) {
      if (c == '\\') ++i;  // what follows does not end the text
      else quoted = c != '"';
    } else if (c == '"') {
      quoted = true;
    } else if (c == '[' || c == '{') {
      if (++depth > deepest) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

/// Parses a JSON document that anybody may have written (`Json`: one of nlohmann's types): `is_discarded()` where the text is none, or where
/// it nests deeper than kDeepestJson.
template <class Json>
Json parse_json(std::string_view text) {
  return nests_deeper(text, kDeepestJson) ? Json(Json::value_t::discarded) : Json::parse(text.begin(), text.end(), nullptr, false);
}

/// Reads a value of such a document. False, with `out` in an unspecified
/// state, where it is of another kind: a fraction, or a number beyond the range, where a whole number is expected, for instance. nlohmann's
/// own get<T>() casts such a number instead, which C++ leaves undefined.
template <class Json, class T>
bool read_json(const Json& j, T& out) {
  if constexpr (std::same_as<T, bool>) {
    if (!j.is_boolean()) return false;
    out = j.template get<bool>();
  } else if constexpr (std::integral<T>) {
    if (!j.is_number_integer()) return false;
    // An unsigned number above the largest signed one is stored as such, and never as a negative one.
    if (j.is_number_unsigned()) {
      const auto n = j.template get<uint64_t>();
      if (!std::in_range<T>(n)) return false;
      out = static_cast<T>(n);
    } else {
      const auto n = j.template get<int64_t>();
      if (!std::in_range<T>(n)) return false;
      out = static_cast<T>(n);
    }
  } else if constexpr (std::floating_point<T>) {
    if (!j.is_number()) return false;
    const auto n = j.template get<double>();
    if (!(n >= -std::numeric_limits<T>::max() && n <= std::numeric_limits<T>::max())) return false;
    out = static_cast<T>(n);
  } else if constexpr (std::same_as<T, std::string>) {
    if (!j.is_string()) return false;
    out = j.template get_ref<const std::string&>();
  } else if constexpr (requires { out.first, out.second; }) {  // a list of two
    return j.is_array() && j.size() == 2 && read_json(j[0], out.first) && read_json(j[1], out.second);
  } else {
    if (!j.is_array()) return false;
    out.clear();
    for (const Json& item : j) {
      typename T::value_type value{};
      if (!read_json(item, value)) return false;
      out.push_back(std::move(value));
    }
  }
  return true;
}

}  // namespace fovea
