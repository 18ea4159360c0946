// Views of contiguous row-major tensors; somebody else (an Arena, a ParamStore, a file mapping) owns the memory.
#pragma once

#include <cstring>

#include "core/check.h"
#include "core/dtype.h"
#include "core/shape.h"

namespace fovea {

namespace detail {

template <class Void>
struct BasicTensor {
  Void* data = nullptr;
  Shape shape;
  DType dtype = DType::kF32;

  bool empty() const { return data == nullptr; }
  int64_t elements() const { return shape.elements(); }
  size_t bytes() const { return static_cast<size_t>(elements()) * size_of(dtype); }
  int64_t rows() const { return shape.rows(); }
  int64_t last() const { return shape.last(); }
  int64_t dim(int i) const { return shape[i]; }

  // Typed pointer; throws InternalError when T is not the tensor's element type.
  template <class T>
  auto* as() const {
    check(dtype_of<std::remove_const_t<T>> == dtype, "a {} tensor is read as {}", name_of(dtype),
          name_of(dtype_of<std::remove_const_t<T>>));
    if constexpr (std::is_const_v<Void>)
      return static_cast<const T*>(data);
    else
      return static_cast<T*>(data);
  }

  // The same elements under another shape.
  BasicTensor reshaped(Shape to) const {
    check(to.elements() == elements(), "cannot view shape {} as {}", shape, to);
    return {data, to, dtype};
  }

  // Rows [begin, begin + count) of the first dimension.
  BasicTensor slice(int64_t begin, int64_t count) const {
    check(shape.rank() > 0 && begin >= 0 && count >= 0 && begin + count <= shape[0], "slice [{}, {}) of shape {}", begin,
          begin + count, shape);
    std::array<int64_t, Shape::kMaxRank> d{};
    std::copy(shape.dims().begin(), shape.dims().end(), d.begin());
    const int64_t step = shape[0] == 0 ? 0 : elements() / shape[0];
    d[0] = count;
    using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
    return {static_cast<Byte*>(data) + begin * step * static_cast<int64_t>(size_of(dtype)),
            Shape(std::span<const int64_t>(d.data(), static_cast<size_t>(shape.rank()))), dtype};
  }
};

}  // namespace detail

struct Tensor : detail::BasicTensor<void> {
  Tensor() = default;
  Tensor(void* p, Shape s, DType t) : BasicTensor{p, s, t} {}
  Tensor(const BasicTensor& b) : BasicTensor(b) {}  // NOLINT: the base is the same thing
  void zero() const {
    if (bytes() != 0) std::memset(data, 0, bytes());
  }
};

struct ConstTensor : detail::BasicTensor<const void> {
  ConstTensor() = default;
  ConstTensor(const void* p, Shape s, DType t) : BasicTensor{p, s, t} {}
  ConstTensor(const BasicTensor& b) : BasicTensor(b) {}                             // NOLINT
  ConstTensor(const detail::BasicTensor<void>& t) : BasicTensor{t.data, t.shape, t.dtype} {}  // NOLINT: a view may lose the right to write
};

// The elements of `t` from `offset` on, with a shape nobody reads.
inline Tensor elements_from(const Tensor& t, int64_t offset) {
  return {static_cast<char*>(t.data) + offset * static_cast<int64_t>(size_of(t.dtype)), Shape{}, t.dtype};
}
inline ConstTensor elements_from(const ConstTensor& t, int64_t offset) {
  return {static_cast<const char*>(t.data) + offset * static_cast<int64_t>(size_of(t.dtype)), Shape{}, t.dtype};
}

// Throws Error unless `t` has exactly the wanted shape; `what` names the tensor and the operation.
inline void require_shape(const ConstTensor& t, const Shape& wanted, std::string_view what) {
  require(t.shape == wanted, "{}: got shape {}, expected {}", what, t.shape, wanted);
}

}  // namespace fovea
