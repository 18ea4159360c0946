// What this machine can do at most: the denominator of every "share of peak".
#pragma once

#include <string>
#include <vector>

#include "core/thread_pool.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/jit.h"

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

double median(std::vector<double> values);  // of at least one

// Until threads that just began have cores of their own, at their full clock.
void warm_up(ThreadPool& pool);

// The peak of one element type in turn with the work that is compared with it: the clock of a machine that others use as well changes within
// seconds, and both medians see the same clock.
class PeakMeter {
 public:
  PeakMeter(Isa isa, ProductType type, ThreadPool& pool);  // f32 where the processor has no instructions of the type
  void burst();                  // about half a millisecond of multiply-adds on every thread
  double median_gflops() const;  // of all bursts, over all threads; 0 before the first

 private:
  ThreadPool& pool_;
  PeakCode code_;
  int64_t iterations_ = 1000;
  std::vector<double> gflops_;
};

// The instruction set of a CPU table; of "cpu.baseline" for a table of another kind.
Isa isa_of(const KernelTable& table);

}  // namespace fovea
