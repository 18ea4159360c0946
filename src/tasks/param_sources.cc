#include "tasks/param_sources.h"

#include <cstdint>

#include "core/check.h"

namespace fovea {

namespace {

constexpr int64_t kParallelRead = int64_t{1} << 16;  // elements

template <class To>
void read_part(const WeightTensor& part, To* out, ThreadPool& pool) {
  if (!part.strides.empty() || part.elements() < kParallelRead) return part.read(out);
  pool.for_ranges(part.elements(), [&](int64_t begin, int64_t end, int) { part.read(begin, end, out + begin); });
}

template <class To>
void read_tensor(const MappedTensor& from, To* out, ThreadPool& pool) {
  for (const WeightTensor& part : from.parts) {
    read_part(part, out, pool);
    out += part.elements();
  }
  if (!from.scale) return;
  out -= from.shape.elements();
  const int64_t row = from.shape.elements() / from.shape[0];
  pool.for_ranges(from.shape[0], [&](int64_t begin, int64_t end, int) { from.scale_rows(begin, end, out + begin * row); });
}

}  // namespace

FileSource::FileSource(const MappedWeights& weights) {
  for (const MappedTensor& t : weights.tensors) by_name_.emplace(t.name, &t);
}

const MappedTensor& FileSource::of(const Param& param) const {
  const auto it = by_name_.find(param.name);
  check(it != by_name_.end() && it->second->shape == param.shape, "the file's {} was not compared with the model", param.name);
  return *it->second;
}

ConstTensor FileSource::in_place(const Param& param, DType dtype) {
  const MappedTensor& from = of(param);
  const WeightTensor& whole = from.parts.front();
  const bool aligned = reinterpret_cast<uintptr_t>(whole.data) % size_of(dtype) == 0;
  if (from.parts.size() != 1 || !whole.strides.empty() || whole.type != stored_type_of(dtype) || !aligned) return {};
  return {whole.data, param.shape, dtype};
}

void FileSource::read(const Param& param, const Tensor& to, ThreadPool& pool) {
  if (to.dtype == DType::kF64) read_tensor(of(param), to.as<double>(), pool);
  else read_tensor(of(param), to.as<float>(), pool);
}

void FileSource::done(const Param& param) {
  for (const WeightTensor& part : of(param).parts) part.release();
}

}  // namespace fovea
