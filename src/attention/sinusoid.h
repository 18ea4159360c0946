// Sinusoid position rows (Vaswani et al. 2017, 1706.03762, section 3.5; sines and cosines in halves, as Transformer-XL has them).
#pragma once

#include <vector>

#include "core/tensor.h"

namespace fovea {

// to (positions, width) row p = [sin(p f_0), sin(p f_1), ... | cos(p f_0), ...], f_i = 10000^(-2i / width). An odd width has one
// sine more than cosines.
void write_sinusoids(const std::vector<double>& positions, const Tensor& to);

}  // namespace fovea
