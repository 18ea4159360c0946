// The oracles: plain loops over a scalar type.
#pragma once

#include "kernels/kernel_table.h"

namespace fovea {

const KernelTable& reference_table();       // f64
const KernelTable& reference_dual_table();  // dual numbers: forward entries only make sense there, backward ones run too

}  // namespace fovea
