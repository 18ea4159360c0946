// Measuring this machine, the matrix products, one attention, or a whole model.
#pragma once

#include "fovea/model.h"

namespace fovea {

struct MachineBench {
  int threads = 0;
  double f32_gflops = 0, bf16_gflops = 0, int8_gops = 0, memory_gbs = 0;  // 0: the processor has no such instructions
  std::string isa;
};
MachineBench bench_machine(const ExecutionOptions& execution);

struct GemmBench {
  int threads = 0;
  std::string dtype = "f32", kernels;
  struct Row {
    int64_t m = 0, k = 0, n = 0;
    double gflops = 0, percent_of_peak = 0;
    double percent_from_floats = 0;  // of the product that rounds its floats itself, where dtype is not f32
  };
  std::vector<Row> rows;
  double geomean_percent_of_peak = 0, geomean_percent_from_floats = 0;
};
GemmBench bench_gemm(const ExecutionOptions& execution, int64_t batch = 1, const std::string& dtype = "f32");  // products of one forward of `batch` images

struct BenchOptions {
  ExecutionOptions execution;
  int64_t batch = 1;
  int64_t height = 0, width = 0;      // map (attention) or image (model) size; 0: from tokens, or the model's own
  int64_t tokens = 0;                 // attention: a square map of about as many tokens
  int64_t heads = 8, head_dim = 64;   // attention
  std::string dtype = "auto";         // as LoadOptions::dtype
  enum class Pass : uint8_t { kForward, kBackward, kTrain } pass = Pass::kForward;
  double seconds = 2;                 // measure for about this long, at least 5 runs
  Settings set;
  // attention: a safetensors file with the parameters, x (B, N, C) and, for the backward, dy, instead of random ones; and where
  // to write y and dx of one pass before anything is timed. For comparisons with other implementations. Empty: none.
  std::string tensors, write;
};

struct BenchResult {
  std::string name;
  int64_t batch = 0, height = 0, width = 0, tokens = 0;
  int threads = 0;
  std::string dtype, kernels, pass;   // pass: forward, forward+backward, train
  int64_t runs = 0;
  double ms_median = 0, ms_min = 0, ms_per_image = 0, images_per_s = 0;
  double gflop = 0, gflops = 0;       // by the mechanism's definition
  double peak_gflops = 0, percent_of_peak = 0;  // the peak in turn with the runs, its median; 0 where there is none
  double peak_memory_mib = 0;         // of the process
  double load_ms = 0;                 // model: from its name to weights ready to run, not part of the other times
};
BenchResult bench_attention(const std::string& spec, const BenchOptions& options);
BenchResult bench_model(const std::string& model, const BenchOptions& options);

}  // namespace fovea
