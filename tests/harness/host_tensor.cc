#include "harness/host_tensor.h"

#include <algorithm>
#include <new>

#include "core/convert.h"

namespace fovea::harness {

HostTensor::HostTensor(const Shape& s, DType t) : Tensor(nullptr, s, t) {
  const size_t size = std::max<size_t>(bytes(), 1);
  if (posix_memalign(&data, 64, size) != 0) throw std::bad_alloc();
  memory_.reset(data);
  std::memset(data, 0, size);
}

HostTensor random_tensor(const Shape& shape, const Rng& rng, DType dtype, double scale) {
  HostTensor t(shape, dtype);
  for (int64_t i = 0; i < t.elements(); ++i)
    store_scalar(t, i, static_cast<double>(static_cast<float>(scale * rng.normal(static_cast<uint64_t>(i)))));
  return t;
}

HostTensor tensor_of(const Shape& shape, DType dtype, std::initializer_list<double> values) {
  HostTensor t(shape, dtype);
  check(t.elements() == static_cast<int64_t>(values.size()), "{} values for shape {}", values.size(), shape);
  int64_t i = 0;
  for (const double v : values) store_scalar(t, i++, v);
  return t;
}

HostTensor converted(const ConstTensor& from, DType dtype) {
  HostTensor t(from.shape, dtype);
  convert(from, t);
  return t;
}

HostTensor copy_of(const ConstTensor& from) { return converted(from, from.dtype); }

std::vector<double> to_doubles(const ConstTensor& t) {
  std::vector<double> values(static_cast<size_t>(t.elements()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = load_scalar(t, static_cast<int64_t>(i));
  return values;
}

void fill(const Tensor& t, double value) {
  for (int64_t i = 0; i < t.elements(); ++i) store_scalar(t, i, value);
}

double value_at(const ConstTensor& t, int64_t i) { return load_scalar(t, i); }

double derivative_at(const ConstTensor& t, int64_t i) { return t.as<Dual>()[i].d; }

}  // namespace fovea::harness
