// Views that several dialects need: other shapes and orders of the same elements (ViewTransform).
#pragma once

#include "weights/key_map.h"

namespace fovea {

WeightTensor transposed(const WeightTensor& t, const RecognisedModel&);  // (in, out) <-> (out, in)
WeightTensor as_tokens(const WeightTensor& t, const RecognisedModel&);   // (N, C) or (C) -> (1, N, C), (1, 1, C)
WeightTensor as_rows(const WeightTensor& t, const RecognisedModel&);     // (1, N, C) -> (N, C)
WeightTensor as_vector(const WeightTensor& t, const RecognisedModel&);   // (1, 1, C) -> (C)

// `t`, which is no view yet, with these strides (in elements; empty: row-major) and, where they need more dimensions, `grid`.
WeightTensor view_of(const WeightTensor& t, const Shape& shape, std::vector<int64_t> strides, const Shape& grid = {});
// Throws Error naming the tensor otherwise.
void require_rank(const WeightTensor& t, int rank);

}  // namespace fovea
