// What this machine can do at most: the denominator of every "share of peak".
#pragma once

#include <string>

#include "kernels/cpu/isa.h"

namespace fovea {

struct MachinePeak {
  double f32_gflops = 0;   // independent multiply-adds on registers, in the instruction set asked for
  double bf16_gflops = 0;  // vdpbf16ps; 0 where the instruction set or the processor has none
  double int8_gops = 0;    // vpdpbusd; likewise
  double memory_gbs = 0;   // the better of reading and of a[i] = b[i] + s · c[i] over arrays beyond the caches, 10^9 bytes / s
  std::string isa;         // the instructions measured, as text
};

// Measures with `threads` threads (0: all cores); each figure is the best of several runs of about 20 ms. Takes about a
// second and, while it lasts, 192 MiB.
MachinePeak measure_peak(Isa isa, int threads);

// The instruction set of a CPU table; of "cpu.baseline" for a table of another kind.
Isa isa_of(const KernelTable& table);

}  // namespace fovea
