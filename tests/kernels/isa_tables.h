// Kernel tables of every instruction set that this processor has, with names for test output.
#pragma once

#include <string>
#include <vector>

#include "kernels/cpu/isa.h"

namespace fovea {

struct NamedTable {
  std::string name;
  KernelTable table{};
};

// f(name, instruction set), slowest first.
template <class F>
void for_each_isa(const F& f) {
  f("baseline", Isa::kBaseline);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) f("avx2", Isa::kAvx2);
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) f("avx512", Isa::kAvx512);
}

}  // namespace fovea
