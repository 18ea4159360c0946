// Pieces of pickles, put together by tests.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fovea::testing {

inline std::string pickled_number(int64_t v) { return "L" + std::to_string(v) + "L\n"; }
inline std::string pickled_text(const std::string& s) {  // shorter than 128 characters
  return std::string("X") + static_cast<char>(s.size()) + std::string(3, '\0') + s;
}
inline std::string pickled_tuple(const std::vector<int64_t>& v) {
  std::string out = "(";
  for (int64_t i : v) out += pickled_number(i);
  return out + "t";
}
// A tensor on storage "0" of 16 elements.
inline std::string pickled_tensor(int64_t offset, const std::vector<int64_t>& size, const std::vector<int64_t>& stride,
                                  const std::string& type = "FloatStorage") {
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + pickled_text("storage") + "ctorch\n" + type + "\n" + pickled_text("0") +
         pickled_text("cpu") + pickled_number(16) + "tQ" + pickled_number(offset) + pickled_tuple(size) + pickled_tuple(stride) + "\x89}tR";
}
// A whole pickle; `items` are keys and values in turn.
inline std::string pickled_dict(const std::string& items) { return "\x80\x02}(" + items + "u."; }

}  // namespace fovea::testing
