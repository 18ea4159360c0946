// What the tests of the small kernels share: the same call on the f64 reference and on every f32 table, compared.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "core/context.h"
#include "kernels/kernel_table.h"

namespace fovea::test {

constexpr double kEps = std::numeric_limits<float>::epsilon();
constexpr int64_t kChannelSweep[] = {1, 3, 24, 32, 80, 96, 97, 768};
constexpr int64_t kCountSweep[] = {0, 1, 2, 3, 31, 49, 197, 768, 40001};
constexpr int64_t kRowSweep[] = {1, 2, 3, 31, 49, 197};

// An array in a table's element type: one element off its alignment, with elements after it that nobody may touch.
class Data {
 public:
  Data(DType dtype, int64_t count, double value = 0) : dtype_(dtype), count_(count) {
    bytes_.resize(size_of(dtype) * static_cast<size_t>(count + 1 + kGuards));
    for (int64_t i = 0; i < count; ++i) set(i, value);
    for (int64_t i = count; i < count + kGuards; ++i) set(i, kGuardValue);
  }

  void* p() { return bytes_.data() + size_of(dtype_); }
  const void* p() const { return bytes_.data() + size_of(dtype_); }
  void* at(int64_t i) { return static_cast<char*>(p()) + static_cast<size_t>(i) * size_of(dtype_); }
  int64_t count() const { return count_; }

  void set(int64_t i, double value) {
    if (dtype_ == DType::kF64) return write(i, value);
    write(i, static_cast<float>(value));
  }
  double get(int64_t i) const {
    if (dtype_ == DType::kF64) return read<double>(i);
    return static_cast<double>(read<float>(i));
  }
  double largest() const {
    double m = 0;
    for (int64_t i = 0; i < count_; ++i) m = std::max(m, std::fabs(get(i)));
    return m;
  }
  bool guards_intact() const {
    for (int64_t i = count_; i < count_ + kGuards; ++i)
      if (get(i) != kGuardValue) return false;
    return true;
  }
  bool same_bits(const Data& other) const { return bytes_ == other.bytes_; }

 private:
  static constexpr int64_t kGuards = 20;
  static constexpr double kGuardValue = -77777;

  template <class T>
  void write(int64_t i, T value) {
    std::memcpy(static_cast<char*>(p()) + static_cast<size_t>(i) * sizeof(T), &value, sizeof(T));
  }
  template <class T>
  T read(int64_t i) const {
    T value;
    std::memcpy(&value, static_cast<const char*>(p()) + static_cast<size_t>(i) * sizeof(T), sizeof(T));
    return value;
  }

  DType dtype_;
  int64_t count_;
  std::vector<char> bytes_;
};

// N(shift, scale²) rounded to f32, so that every element type holds the same numbers.
inline Data random_data(DType dtype, int64_t count, uint64_t tag, double scale = 1, double shift = 0) {
  Data d(dtype, count);
  const Rng rng(2024, tag);
  for (int64_t i = 0; i < count; ++i)
    d.set(i, static_cast<double>(static_cast<float>(scale * rng.normal(static_cast<uint64_t>(i)) + shift)));
  return d;
}

struct Output {
  Data data;
  double tolerance = 0;  // absolute
};
using Outputs = std::vector<Output>;
using Call = std::function<Outputs(const KernelTable&, Context&)>;

inline std::vector<const KernelTable*> f32_tables() {
  std::vector<const KernelTable*> tables;
  for (std::string_view name : kernel_table_names())
    if (kernel_table(name).dtype == DType::kF32) tables.push_back(&kernel_table(name));
  return tables;
}

// Runs `call` on the reference and on every f32 table with 1, 2 and 3 threads: within the reference's tolerances, the same
// bits for any number of threads, nothing written past an output.
inline void expect_like_reference(const std::string& what, const Call& call) {
  const KernelTable& reference = kernel_table("reference");
  Context reference_context(reference, DType::kF64, 1);
  const Outputs expected = call(reference, reference_context);
  for (const KernelTable* table : f32_tables()) {
    SCOPED_TRACE(what + " on " + std::string(table->name));
    Context one(*table, DType::kF32, 1);
    const Outputs actual = call(*table, one);
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t o = 0; o < expected.size(); ++o) {
      EXPECT_TRUE(actual[o].data.guards_intact()) << "output " << o << " was written past its end";
      double worst = 0;
      int64_t where = -1;
      for (int64_t i = 0; i < expected[o].data.count(); ++i) {
        const double a = actual[o].data.get(i), e = expected[o].data.get(i);
        const double difference = a == e ? 0 : std::fabs(a - e);
        if (!(difference <= worst)) {
          worst = difference;
          where = i;
          if (std::isnan(difference)) break;
        }
      }
      if (where >= 0) {
        EXPECT_LE(worst, expected[o].tolerance) << "output " << o << " element " << where << ": " << actual[o].data.get(where)
                                                << ", expected " << expected[o].data.get(where);
      }
    }
    for (int threads : {2, 3}) {
      Context many(*table, DType::kF32, threads);
      const Outputs again = call(*table, many);
      for (size_t o = 0; o < expected.size(); ++o)
        EXPECT_TRUE(again[o].data.same_bits(actual[o].data)) << "output " << o << " differs with " << threads << " threads";
    }
  }
}

// Calls f(table, context) for every f32 table with one thread.
template <class F>
void for_each_f32_table(F&& f) {
  for (const KernelTable* table : f32_tables()) {
    SCOPED_TRACE(std::string(table->name));
    Context context(*table, DType::kF32, 1);
    f(*table, context);
  }
}

}  // namespace fovea::test
