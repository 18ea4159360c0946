// Pieces of fill_feature_attention (kernels/cpu/isa.h): the forward and the backward are files of their own.
#pragma once

#include "kernels/cpu/isa.h"

namespace fovea {

void fill_feature_attention_backward(KernelTable&, Isa);

}  // namespace fovea
