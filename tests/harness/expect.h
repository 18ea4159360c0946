// The harness's verdicts as GoogleTest expectations.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "harness/compare.h"
#include "harness/host_tensor.h"
#include "harness/layer_oracle.h"
#include "harness/tables.h"

namespace fovea::harness {

inline void expect_fine(const std::string& verdict, const std::string& what) {
  if (!verdict.empty()) ADD_FAILURE() << what << ": " << verdict;
}
inline void expect_fine(const std::vector<std::string>& problems) {
  for (const std::string& p : problems) ADD_FAILURE() << p;
}

inline void expect_close(const ConstTensor& actual, const ConstTensor& expected, const Tolerance& tolerance,
                         const std::string& what) {
  expect_fine(compare(actual, expected, tolerance), what);
}
inline void expect_zero(const ConstTensor& actual, double bound, const std::string& what) {
  expect_fine(compare_zero(actual, bound), what);
}
inline void expect_same_bits(const ConstTensor& actual, const ConstTensor& expected, const std::string& what) {
  expect_fine(compare_bits(actual, expected), what);
}

// Calls f(table) for the f64 reference and every f32 table; failures name the table.
template <class F>
void for_each_table(F&& f) {
  for (const KernelTable* table : real_tables()) {
    SCOPED_TRACE(std::string(table->name));
    f(*table);
  }
}

// See layer_oracle.h.
inline void expect_adjoint(const LayerFactory& make, const OracleOptions& options = {}) {
  expect_fine(check_adjoint(make, options));
}
inline void expect_jacobian(const LayerFactory& make, const OracleOptions& options = {}) {
  expect_fine(check_jacobian(make, options));
}
inline void expect_like_reference(const LayerFactory& make, const KernelTable& table, const TableTolerance& tolerance = {},
                                  const OracleOptions& options = {}) {
  expect_fine(check_like_reference(make, table, tolerance, options));
}
inline void expect_same_for_any_threads(const LayerFactory& make, const KernelTable& table, const OracleOptions& options = {}) {
  expect_fine(check_threads(make, table, options));
}

// All of it: the backward is the forward's adjoint, and every f32 table agrees with the reference, with any number of threads.
inline void expect_right(const LayerFactory& make, const OracleOptions& options = {}) {
  expect_adjoint(make, options);
  for (const KernelTable* table : f32_tables()) {
    SCOPED_TRACE(std::string(table->name));
    expect_like_reference(make, *table, {}, options);
    expect_same_for_any_threads(make, *table, options);
  }
}

}  // namespace fovea::harness
