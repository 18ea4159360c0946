#include "weights/key_maps/views.h"

#include "core/check.h"

namespace fovea {

WeightTensor view_of(const WeightTensor& t, const Shape& shape, std::vector<int64_t> strides, const Shape& grid) {
  check(t.strides.empty(), "{} is a view already", t.name);
  WeightTensor out = t;
  out.shape = shape;
  out.strides = std::move(strides);
  out.grid = grid;
  return out;
}

void require_rank(const WeightTensor& t, int rank) {
  require(t.shape.rank() == rank, "{} has shape {}; expected {} dimensions", printable(t.name), t.shape, rank);
}

WeightTensor transposed(const WeightTensor& t, const RecognisedModel&) {
  require_rank(t, 2);
  WeightTensor out = t;  // which may be a view in a file, too
  out.shape = {t.shape[1], t.shape[0]};
  out.strides = t.strides.empty() ? std::vector<int64_t>{1, t.shape[1]} : std::vector<int64_t>{t.strides[1], t.strides[0]};
  return out;
}

WeightTensor as_tokens(const WeightTensor& t, const RecognisedModel&) {
  if (t.shape.rank() != 1) require_rank(t, 2);
  WeightTensor out = t;
  std::vector<int64_t> dims(t.shape.dims().begin(), t.shape.dims().end());
  dims.insert(dims.begin(), 3 - dims.size(), 1);
  out.shape = Shape(dims);
  if (!t.strides.empty()) out.strides.insert(out.strides.begin(), 3 - out.strides.size(), 0);
  return out;
}

WeightTensor as_rows(const WeightTensor& t, const RecognisedModel&) {
  require_rank(t, 3);
  return view_of(t, {t.shape[1], t.shape[2]}, {});
}

WeightTensor as_vector(const WeightTensor& t, const RecognisedModel&) { return view_of(t, {t.elements()}, {}); }

}  // namespace fovea
