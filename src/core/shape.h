// Shapes of contiguous row-major tensors, up to kMaxRank dimensions.
#pragma once

#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

namespace fovea {

class Shape {
 public:
  static constexpr int kMaxRank = 8;

  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) : Shape(std::span<const int64_t>(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const int64_t> dims);  // throws when a dimension is negative or the rank too high

  int rank() const { return rank_; }
  int64_t operator[](int i) const { return dims_[static_cast<size_t>(i < 0 ? rank_ + i : i)]; }  // -1 is the last
  int64_t elements() const;         // 1 for rank 0; throws when the product overflows 64 bits
  int64_t rows() const;             // product of all dimensions but the last (1 for rank 0 and 1)
  int64_t last() const { return rank_ == 0 ? 1 : (*this)[-1]; }
  std::span<const int64_t> dims() const { return {dims_.data(), static_cast<size_t>(rank_)}; }
  std::string str() const;          // "[8, 49, 96]"
  bool operator==(const Shape& other) const;

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

}  // namespace fovea

// So that a message's text is made only when there is a message.
template <>
struct fmt::formatter<fovea::Shape> : fmt::formatter<std::string_view> {
  template <class Context>
  auto format(const fovea::Shape& shape, Context& context) const {
    return fmt::formatter<std::string_view>::format(shape.str(), context);
  }
};
