// Tensors that own their memory, and random ones that are the same numbers in every element type.
#pragma once

#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <vector>

#include "core/rng.h"
#include "core/tensor.h"

namespace fovea::harness {

// Zero-filled, aligned to 64 bytes and not a byte longer than the tensor, so that AddressSanitizer sees every overrun.
class HostTensor : public Tensor {
 public:
  HostTensor() = default;
  HostTensor(const Shape& s, DType t);

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> memory_;
};

// N(0, scale²), each value rounded to float32 first: exact in f32, f64 and dual alike.
HostTensor random_tensor(const Shape& shape, const Rng& rng, DType dtype, double scale = 1);

HostTensor tensor_of(const Shape& shape, DType dtype, std::initializer_list<double> values);
HostTensor converted(const ConstTensor& from, DType dtype);  // a copy
HostTensor copy_of(const ConstTensor& from);
std::vector<double> to_doubles(const ConstTensor& t);
void fill(const Tensor& t, double value);

double value_at(const ConstTensor& t, int64_t i);       // element i in row-major order; a dual's value
double derivative_at(const ConstTensor& t, int64_t i);  // of a dual tensor

// A read-only view of a vector.
template <class T>
ConstTensor view(const std::vector<T>& values) {
  return {values.data(), Shape{static_cast<int64_t>(values.size())}, dtype_of<T>};
}

}  // namespace fovea::harness
