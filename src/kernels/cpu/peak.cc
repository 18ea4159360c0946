#include "kernels/cpu/peak.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <vector>

#include "core/arena.h"
#include "core/thread_pool.h"
#include "kernels/cpu/jit.h"

namespace fovea {

namespace {

constexpr int kRuns = 5;
constexpr double kRunSeconds = 0.02;

double seconds_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Operations per nanosecond over all threads.
double measure_loop(PeakLoop loop, ThreadPool& pool) {
  const PeakCode code = jit_peak_loop(loop);
  if (code.run == nullptr) return 0;
  auto seconds = [&](int64_t iterations) {
    return seconds_of([&] { pool.for_each(pool.threads(), [&](int64_t) { code.run(iterations); }); });
  };
  int64_t iterations = 1000;
  double once = seconds(iterations);
  while (once < kRunSeconds / 4) once = seconds(iterations *= 2);
  iterations = std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(iterations) * kRunSeconds / once));
  double best = once = seconds(iterations);
  for (int i = 1; i < kRuns; ++i) best = std::min(best, seconds(iterations));
  return static_cast<double>(code.operations) * static_cast<double>(iterations) * pool.threads() / best * 1e-9;
}

double measure_memory(ThreadPool& pool) {
  constexpr int64_t kCount = int64_t{8} << 20;  // elements of 8 bytes in each of three arrays
  const Buffer a_buffer(kCount * 8), b_buffer(kCount * 8), c_buffer(kCount * 8);
  double *a = static_cast<double*>(a_buffer.data()), *b = static_cast<double*>(b_buffer.data()),
         *c = static_cast<double*>(c_buffer.data());
  pool.for_ranges(kCount, [&](int64_t begin, int64_t end, int) {
    std::fill(a + begin, a + end, 1.0);
    std::fill(b + begin, b + end, 2.0);
    std::fill(c + begin, c + end, 3.0);
  });
  std::vector<uint64_t> sums(static_cast<size_t>(pool.threads()) * 8);  // a line for each thread
  double read = 1e9, triad = 1e9;
  for (int run = 0; run < kRuns; ++run) {
    read = std::min(read, seconds_of([&] {
      pool.for_ranges(kCount, [&](int64_t begin, int64_t end, int thread) {
        const auto* words = static_cast<const uint64_t*>(b_buffer.data());
        uint64_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        int64_t i = begin;
        for (; i + 4 <= end; i += 4) {
          s0 += words[i];
          s1 += words[i + 1];
          s2 += words[i + 2];
          s3 += words[i + 3];
        }
        sums[static_cast<size_t>(thread) * 8] += s0 + s1 + s2 + s3;
      });
    }));
    triad = std::min(triad, seconds_of([&] {
      pool.for_ranges(kCount, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) a[i] = b[i] + 0.5 * c[i];
      });
    }));
  }
  // The sums are used, so that reading is not optimised away.
  volatile uint64_t sink = 0;
  for (const uint64_t s : sums) sink = sink + s;
  return std::max(kCount * 8 / read, 3.0 * kCount * 8 / triad) * 1e-9;
}

}  // namespace

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

// Fresh threads may share a core for a while before the system spreads them, and idle cores take time to reach their
// frequency: both are over when two looks in a row agree.
void warm_up(ThreadPool& pool) {
  double last = 0;
  for (int look = 0; look < 12; ++look) {
    const double now = measure_loop(PeakLoop::kSseMulAdd, pool);
    if (look >= 4 && now < 1.02 * last) return;
    last = std::max(last, now);
  }
}

MachinePeak measure_peak(Isa isa, int threads) {
  ThreadPool pool(threads);
  warm_up(pool);
  MachinePeak peak;
  switch (isa) {
    case Isa::kBaseline:
      peak.f32_gflops = measure_loop(PeakLoop::kSseMulAdd, pool);
      peak.isa = "SSE (mulps, addps)";
      break;
    case Isa::kAvx2:
      peak.f32_gflops = measure_loop(PeakLoop::kAvx2Fma, pool);
      peak.isa = "AVX2 (vfmadd231ps ymm)";
      break;
    case Isa::kAvx512:
      peak.f32_gflops = measure_loop(PeakLoop::kAvx512Fma, pool);
      peak.bf16_gflops = measure_loop(PeakLoop::kAvx512Bf16, pool);
      peak.int8_gops = measure_loop(PeakLoop::kAvx512Int8, pool);
      peak.isa = "AVX-512 (vfmadd231ps zmm";
      if (peak.bf16_gflops > 0) peak.isa += ", vdpbf16ps";
      if (peak.int8_gops > 0) peak.isa += ", vpdpbusd";
      peak.isa += ")";
      break;
  }
  peak.memory_gbs = measure_memory(pool);
  return peak;
}

PeakMeter::PeakMeter(Isa isa, ProductType type, ThreadPool& pool) : pool_(pool) {
  constexpr double kBurstSeconds = 0.5e-3;
  if (isa == Isa::kAvx512 && type == ProductType::kBF16) code_ = jit_peak_loop(PeakLoop::kAvx512Bf16);
  if (isa == Isa::kAvx512 && type == ProductType::kInt8) code_ = jit_peak_loop(PeakLoop::kAvx512Int8);
  if (code_.run == nullptr)
    code_ = jit_peak_loop(isa == Isa::kAvx512 ? PeakLoop::kAvx512Fma : isa == Isa::kAvx2 ? PeakLoop::kAvx2Fma : PeakLoop::kSseMulAdd);
  if (code_.run == nullptr) return;
  while (seconds_of([&] { code_.run(iterations_); }) < kBurstSeconds) iterations_ *= 2;
}

void PeakMeter::burst() {
  if (code_.run == nullptr) return;
  std::vector<double> seconds(static_cast<size_t>(pool_.threads()));
  pool_.for_each(pool_.threads(), [&](int64_t i) { seconds[static_cast<size_t>(i)] = seconds_of([&] { code_.run(iterations_); }); });
  double gflops = 0;
  for (const double s : seconds) gflops += static_cast<double>(code_.operations) * static_cast<double>(iterations_) / s * 1e-9;
  gflops_.push_back(gflops);
}

double PeakMeter::median_gflops() const { return gflops_.empty() ? 0 : median(gflops_); }

Isa isa_of(const KernelTable& table) {
  if (table.name == "cpu.avx512") return Isa::kAvx512;
  return table.name == "cpu.avx2" ? Isa::kAvx2 : Isa::kBaseline;
}

}  // namespace fovea
