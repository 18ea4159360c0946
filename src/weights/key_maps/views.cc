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
  return view_of(t, {t.shape[1], t.shape[0]}, {1, t.shape[1]});
}

WeightTensor as_tokens(const WeightTensor& t, const RecognisedModel&) {
  if (t.shape.rank() == 1) return view_of(t, {1, 1, t.shape[0]}, {});
  require_rank(t, 2);
  return view_of(t, {1, t.shape[0], t.shape[1]}, {});
}

WeightTensor as_rows(const WeightTensor& t, const RecognisedModel&) {
  require_rank(t, 3);
  return view_of(t, {t.shape[1], t.shape[2]}, {});
}

WeightTensor as_vector(const WeightTensor& t, const RecognisedModel&) { return view_of(t, {t.elements()}, {}); }

}  // namespace fovea
