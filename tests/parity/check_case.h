// One fixture file run through the product's layers, compared in outputs and in every stored gradient.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/context.h"
#include "core/param_store.h"
#include "harness/compare.h"
#include "harness/fixture.h"
#include "kernels/kernel_table.h"

namespace fovea::parity {

struct CheckResult {
  std::string status;  // pass, fail, unsupported
  std::string worst_tensor, why;
  double worst_error = 0, worst_tolerance = 0;
};

// The parameters of a layer filled from a fixture, its memory, and the comparison with what the fixture stores.
class CheckCase {
 public:
  CheckCase(const harness::Fixture& fixture, const KernelTable& table);

  const harness::Fixture& fixture;
  const nlohmann::json& config;
  Context ctx;
  Tape tape;
  ParamStore params;

  Tensor input(const std::string& name);                 // in.NAME in the table's dtype, reshaped freely by the caller
  Tensor upstream(const std::string& name);              // gout.NAME
  Tensor memory(const Shape& shape);                     // zero-filled, lives as long as the case
  const uint8_t* bytes(const std::string& name);         // a uint8 input as 0 / 1

  // Fixture weight `key` is rows [first, first + rows) of the parameter's first dimension (all when rows < 0).
  void bind(const std::string& key, const std::string& parameter, int64_t first = 0, int64_t rows = -1);
  // Rows [key_first, key_first + rows) of the fixture's tensor are rows [first, first + rows) of the parameter.
  void bind_rows(const std::string& key, int64_t key_first, const std::string& parameter, int64_t first, int64_t rows);
  // The reverse: the parameter is rows [first, ...) of the fixture's tensor.
  void bind_part(const std::string& key, int64_t first, const std::string& parameter);
  // Binds every weight not bound yet through `rename` (identity by default), allocates and fills. Throws when a weight has no
  // parameter or a parameter no weight.
  void load(const std::function<std::string(const std::string&)>& rename = {});

  void output(const std::string& name, const Tensor& value) { results_["out." + name] = value; }
  void input_gradient(const std::string& name, const Tensor& value) { results_["grad.in." + name] = value; }

  CheckResult compare();                                 // after the backward

 private:
  struct Binding {
    std::string key, parameter;
    int64_t key_first = 0, parameter_first = 0, rows = -1;
  };
  Tensor keep(harness::HostTensor tensor);
  std::pair<Tensor, Tensor> parameter_view(const Binding& b);  // value and gradient

  std::vector<Binding> bindings_;
  std::vector<std::unique_ptr<harness::HostTensor>> kept_;
  std::vector<std::vector<uint8_t>> kept_bytes_;
  std::map<std::string, Tensor> results_;
};

// Runs a fixture file; never throws for what is in it.
CheckResult run_check(const std::string& path, const KernelTable& table);

}  // namespace fovea::parity
