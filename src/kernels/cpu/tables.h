// The f32 tables of this machine's processor.
#pragma once

#include <vector>

#include "kernels/kernel_table.h"

namespace fovea {

std::vector<const KernelTable*> cpu_tables();  // runnable here, slowest first: cpu.baseline, cpu.avx2, cpu.avx512

}  // namespace fovea
