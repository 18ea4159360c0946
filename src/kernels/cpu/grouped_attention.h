// Pieces of fill_grouped_attention (kernels/cpu/isa.h): the forward and the backward are files of their own.
#pragma once

#include "kernels/cpu/isa.h"

namespace fovea {

void fill_grouped_attention_backward(KernelTable&, Isa);

}  // namespace fovea
