// The gradient oracle: forwards on dual numbers give exact directional derivatives J u, against which every backward
// J^T dy is held, for each input and each parameter on its own. Functions return what is wrong, one sentence each.
#pragma once

#include <string>
#include <vector>

#include "harness/compare.h"
#include "harness/layer_under_test.h"
#include "kernels/kernel_table.h"

namespace fovea::harness {

struct OracleOptions {
  uint64_t seed = 1;
  double tolerance = 1e-10;  // relative to the sum of the terms' magnitudes (check_adjoint) or to the maximum
  bool training = false;     // runs with Context::training() and a fixed Rng
  // Parameters (by name) and inputs ("input 0") whose gradient is zero by mathematics. Any other gradient that is zero
  // everywhere is an error, and so is a declared one that is not.
  std::vector<std::string> zero_gradients;
};

// How far an f32 table may be from the f64 reference, relative to each tensor's maximum: ten times what float32 runs of
// reference implementations of operators and blocks err.
struct TableTolerance {
  double output = 5e-6;
  double gradient = 1.5e-5;
  double zero_gradient = 1e-6;  // absolute, for declared zero gradients
};

// <dy, J u> = <J^T dy, u> with random dy and random u in one input or parameter at a time, in double. Also: the backward
// writes its dinputs and adds to the parameters' gradients, consumes the tape, changes no input, reads no memory that it
// did not write; the inference forward agrees with the recording one.
std::vector<std::string> check_adjoint(const LayerFactory& make, const OracleOptions& options = {});

// The whole Jacobian in double, one forward for each element of inputs and parameters: small shapes only.
std::vector<std::string> check_jacobian(const LayerFactory& make, const OracleOptions& options = {});

// Outputs (recorded and inference) and all gradients on `table` against the f64 reference.
std::vector<std::string> check_like_reference(const LayerFactory& make, const KernelTable& table,
                                              const TableTolerance& tolerance = {}, const OracleOptions& options = {});

// Outputs and all gradients have the same bits with 1, 2, 3 and 5 threads.
std::vector<std::string> check_threads(const LayerFactory& make, const KernelTable& table, const OracleOptions& options = {});

// One forward and backward with the oracle's numbers, for checks of one's own.
struct LayerRun {
  std::unique_ptr<LayerUnderTest> layer;
  std::vector<HostTensor> inputs, outputs, inference_outputs, doutputs;
  struct Gradient {
    std::string name;  // "input 0" or the parameter's name
    HostTensor value;
  };
  std::vector<Gradient> gradients;    // differentiable inputs, then parameters in the store's order
  std::vector<std::string> problems;  // broken rules of forward and backward
};
LayerRun run_layer(const LayerFactory& make, const KernelTable& table, int threads, const OracleOptions& options = {});

}  // namespace fovea::harness
