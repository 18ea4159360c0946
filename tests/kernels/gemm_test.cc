// The f32 matrix products of every instruction set against a double loop, with the tolerance derived from the sum's length.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "core/context.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/gemm_bench.h"
#include "kernels/cpu/gemm_tile.h"
#include "kernels/cpu/jit.h"
#include "kernels/isa_tables.h"

namespace fovea {
namespace {

const std::vector<NamedTable>& tables() {
  static const std::vector<NamedTable> all = [] {
    std::vector<NamedTable> t;
    for_each_isa([&t](const std::string& name, Isa isa) {
      fill_gemm(t.emplace_back(NamedTable{name}).table, isa);
      fill_gemm_portable(t.emplace_back(NamedTable{name + "_portable"}).table, isa);
    });
    return t;
  }();
  return all;
}

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kUntouched = -12345.0f;
constexpr double kEps = std::numeric_limits<float>::epsilon();

enum class B : uint8_t { kPlain, kTransposed, kPackedPlain, kPackedTransposed };

struct Case {
  int64_t m = 0, n = 0, k = 0;
  bool a_transposed = false;
  B b = B::kPlain;
  bool accumulate = false, fine = false, gather = false, norm = false, bias = false, pre = false, residual = false, in_place = false,
       scatter = false;
  Activation activation = Activation::kNone;
  int64_t a_gap = 3, b_gap = 1, c_gap = 5;  // elements between rows that belong to nobody
  int64_t offset = 1;                       // elements by which every pointer misses alignment
  int threads = 1;
};

constexpr double kNormEpsilon = 1e-3;

std::string describe(const Case& c) {
  return fmt::format("m {} n {} k {} aT {} b {} acc {} gather {} norm {} bias {} pre {} res {} in_place {} scatter {} act {} threads {}",
                     c.m, c.n, c.k, c.a_transposed, static_cast<int>(c.b), c.accumulate, c.gather, c.norm, c.bias, c.pre,
                     c.residual, c.in_place, c.scatter, static_cast<int>(c.activation), c.threads);
}

// A matrix inside a larger buffer whose other elements are `filler`.
struct Matrix {
  int64_t rows, columns, stride, offset;
  std::vector<float> data;
  Matrix(int64_t r, int64_t c, int64_t gap, int64_t off, float filler)
      : rows(r), columns(c), stride(c + gap), offset(off), data(static_cast<size_t>(off + r * (c + gap) + 64), filler) {}
  float* p() { return data.data() + offset; }
  float& at(int64_t i, int64_t j) { return data[static_cast<size_t>(offset + i * stride + j)]; }
  float at(int64_t i, int64_t j) const { return data[static_cast<size_t>(offset + i * stride + j)]; }
  void fill(const Rng& rng, double low, double high) {
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j)
        at(i, j) = static_cast<float>(low + (high - low) * rng.uniform(static_cast<uint64_t>(i * columns + j)));
  }
};

struct Result {
  std::vector<float> c, pre;  // whole buffers, gaps included
};

double activate(Activation a, double v) {
  switch (a) {
    case Activation::kNone: return v;
    case Activation::kGelu: return 0.5 * v * std::erfc(-v / std::sqrt(2.0));
    case Activation::kGeluTanh: return 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
    case Activation::kRelu: return std::max(v, 0.0);
    case Activation::kQuickGelu: return v / (1 + std::exp(-1.702 * v));
    case Activation::kSilu: return v / (1 + std::exp(-v));
    case Activation::kTanh: return std::tanh(v);
  }
  return v;
}

// Runs a case, compares every element (and that no other was touched) unless `verify` is false, and returns what was written.
Result run_case(const KernelTable& table, const Case& t, bool verify = true) {
  SCOPED_TRACE(describe(t));
  const Rng rng(17, static_cast<uint64_t>(t.m * 1000003 + t.n * 1009 + t.k));
  const int64_t source_rows = t.gather ? t.m + 2 : t.m, c_height = t.scatter ? t.m + 3 : t.m;
  Matrix a = t.a_transposed ? Matrix(t.k, t.m, t.a_gap, t.offset, kNaN) : Matrix(source_rows, t.k, t.a_gap, t.offset, kNaN);
  a.fill(rng.fork(1), -1, 1);
  const bool b_transposed = t.b == B::kTransposed || t.b == B::kPackedTransposed;
  Matrix b = b_transposed ? Matrix(t.n, t.k, t.b_gap, t.offset, kNaN) : Matrix(t.k, t.n, t.b_gap, t.offset, kNaN);
  b.fill(rng.fork(2), -1, 1);
  Matrix c(c_height, t.n, t.c_gap, t.offset, kUntouched), residual(c_height, t.n, t.c_gap + 2, t.offset, kNaN);
  c.fill(rng.fork(3), -1, 1);
  const Matrix c_before = c;
  residual.fill(rng.fork(4), -1, 1);
  Matrix bias(1, t.n, 0, t.offset, kNaN), mean(1, source_rows, 0, t.offset, kNaN), rstd(1, source_rows, 0, t.offset, kNaN),
      gamma(1, t.k, 0, t.offset, kNaN), beta(1, t.k, 0, t.offset, kNaN), pre(t.m, t.n, 0, t.offset, kUntouched);
  bias.fill(rng.fork(5), -1, 1);
  mean.fill(rng.fork(6), -0.5, 0.5);
  rstd.fill(rng.fork(7), 0.5, 2);
  const bool own_statistics = t.norm && (t.m + t.n + t.k) % 2 == 0;  // computed by the product; else given, and not the true ones
  for (int64_t i = 0; i < source_rows && own_statistics; ++i) {
    double sum = 0, squares = 0;
    for (int64_t k = 0; k < t.k; ++k) sum += a.at(i, k);
    sum /= static_cast<double>(t.k);
    for (int64_t k = 0; k < t.k; ++k) squares += (a.at(i, k) - sum) * (a.at(i, k) - sum);
    mean.at(0, i) = static_cast<float>(sum);
    rstd.at(0, i) = static_cast<float>(1 / std::sqrt(squares / static_cast<double>(t.k) + kNormEpsilon));
  }
  gamma.fill(rng.fork(8), 0.5, 1.5);
  beta.fill(rng.fork(9), -1, 1);
  std::vector<int32_t> a_rows(static_cast<size_t>(t.m)), c_rows(static_cast<size_t>(t.m));
  for (int64_t i = 0; i < t.m; ++i) {
    a_rows[static_cast<size_t>(i)] = i % 5 == 3 ? -1 : static_cast<int32_t>((i * 7 + 1) % source_rows);
    c_rows[static_cast<size_t>(i)] = i % 4 == 2 ? -1 : static_cast<int32_t>(c_height - 1 - i);
  }

  Context ctx(table, DType::kF32, t.threads);
  std::vector<float> packed;
  GemmArgs g;
  g.m = t.m;
  g.n = t.n;
  g.k = t.k;
  g.a = a.p();
  g.a_stride = a.stride;
  g.a_transposed = t.a_transposed;
  if (t.b == B::kPlain || t.b == B::kTransposed) {
    g.b = b.p();
    g.b_stride = b.stride;
    g.b_transposed = b_transposed;
  } else {
    packed.assign(table.gemm_packed_bytes(ProductType::kOwn, t.k, t.n) / sizeof(float) + 1, kNaN);
    table.gemm_pack(ProductType::kOwn, t.k, t.n, b.p(), b.stride, b_transposed, packed.data(), ctx);
    EXPECT_TRUE(std::isnan(packed.back())) << "the packed form is longer than gemm_packed_bytes";
    g.b_packed = packed.data();
  }
  g.c = c.p();
  g.c_stride = c.stride;
  g.accumulate = t.accumulate;
  g.fine_sums = t.fine;
  if (t.gather) g.a_rows = a_rows.data();
  if (t.norm) {
    if (!own_statistics) {
      g.norm_mean = mean.p();
      g.norm_rstd = rstd.p();
    }
    g.norm_epsilon = kNormEpsilon;
    g.norm_gamma = gamma.p();
    g.norm_beta = beta.p();
  }
  if (t.bias) g.bias = bias.p();
  if (t.pre) g.pre_activation = pre.p();
  g.activation = t.activation;
  if (t.residual) {
    g.residual = t.in_place ? c.p() : residual.p();
    g.residual_stride = t.in_place ? c.stride : residual.stride;
  }
  if (t.scatter) g.c_rows = c_rows.data();
  table.gemm(g, ctx);
  EXPECT_EQ(ctx.scratch().used(), 0u);
  if (!verify) return {c.data, pre.data};

  Matrix expected = c_before;
  int wrong = 0;
  for (int64_t i = 0; i < t.m; ++i) {
    const int64_t source = t.gather ? a_rows[static_cast<size_t>(i)] : i;
    const int64_t row = t.scatter ? c_rows[static_cast<size_t>(i)] : i;
    for (int64_t j = 0; j < t.n; ++j) {
      double sum = 0, magnitude = 0;
      for (int64_t k = 0; k < t.k && source >= 0; ++k) {
        double x = t.a_transposed ? a.at(k, i) : a.at(source, k), x_magnitude = std::abs(x);
        if (t.norm) {
          const double m = mean.at(0, source), r = rstd.at(0, source), ga = gamma.at(0, k), be = beta.at(0, k);
          x_magnitude = (std::abs(x) + std::abs(m)) * r * std::abs(ga) + std::abs(be);
          x = (x - m) * r * ga + be;
        }
        const double w = b_transposed ? b.at(j, k) : b.at(k, j);
        sum += x * w;
        magnitude += x_magnitude * std::abs(w);
      }
      double tolerance = 4 * kEps * std::sqrt(static_cast<double>(std::max<int64_t>(t.k, 1))) * magnitude;
      if (t.bias) {
        sum += bias.at(0, j);
        tolerance += 4 * kEps * std::abs(static_cast<double>(bias.at(0, j)));
      }
      if (t.pre && !(std::abs(pre.at(i, j) - sum) <= tolerance) && ++wrong < 5)
        ADD_FAILURE() << "pre_activation (" << i << ", " << j << "): " << pre.at(i, j) << ", expected " << sum << " ± " << tolerance;
      if (row < 0) continue;
      double value = activate(t.activation, sum);
      if (t.activation != Activation::kNone && t.activation != Activation::kRelu) tolerance = 1.2 * tolerance + 1e-6;
      double plus = 0;
      if (t.accumulate || (t.residual && t.in_place)) plus = c_before.at(row, j);
      else if (t.residual) plus = residual.at(row, j);
      value += plus;
      tolerance += 2 * kEps * (std::abs(value) + std::abs(plus));
      if (!(std::abs(c.at(row, j) - value) <= tolerance) && ++wrong < 5)
        ADD_FAILURE() << "c (" << row << ", " << j << "): " << c.at(row, j) << ", expected " << value << " ± " << tolerance;
      expected.at(row, j) = c.at(row, j);
    }
  }
  EXPECT_EQ(std::memcmp(expected.data.data(), c.data.data(), c.data.size() * sizeof(float)), 0)
      << "elements outside the result were written";
  return {c.data, pre.data};
}

class Gemm : public testing::TestWithParam<size_t> {
 protected:
  const KernelTable& table() const { return tables()[GetParam()].table; }
};

const std::vector<int64_t> kOddSizes = {1, 2, 3, 13, 14, 15, 31, 32, 33, 49, 97, 197};

TEST_P(Gemm, OddSizesOfEveryOperandForm) {
  int form = 0;
  for (const int64_t m : kOddSizes)
    for (const int64_t n : kOddSizes)
      for (const int64_t k : {int64_t{1}, int64_t{3}, int64_t{14}, int64_t{33}, int64_t{97}}) {
        Case t{m, n, k};
        t.b = static_cast<B>(form % 4);
        t.a_transposed = form / 4 % 2 == 1;
        t.bias = form % 3 == 1;
        t.accumulate = form % 3 == 2;
        t.offset = form % 5;
        ++form;  // 720 sizes and 4 · 2 · 3 · 5 forms, 7 of which (coprime) are skipped now and then so that they mix
        if (form % 7 == 0) ++form;
        run_case(table(), t);
        if (HasFailure()) return;
      }
}

TEST_P(Gemm, LongSumsAreCutIntoBlocks) {
  for (const int64_t k : {127, 129, 255, 257, 512, 1023, 1024, 1025, 2051, 3072})
    for (const B b : {B::kPlain, B::kTransposed, B::kPackedTransposed})
      for (const bool a_transposed : {false, true}) {
        Case t{15, 33, k};  // one full and one partial tile a side, for the widest tile too
        t.b = b;
        t.a_transposed = a_transposed;
        run_case(table(), t);
        t.accumulate = true;
        run_case(table(), t);
        t.accumulate = false;
        t.bias = t.residual = t.in_place = true;
        run_case(table(), t);
        t.activation = Activation::kGelu;
        t.pre = true;
        run_case(table(), t);
        t.in_place = false;
        t.scatter = true;
        run_case(table(), t);
        t.residual = false;
        run_case(table(), t);
        t.scatter = false;
        run_case(table(), t);
      }
}

// A sum that grew from its bias would round every product to the bias' last place.
TEST_P(Gemm, ALargeBiasRoundsOnceARun) {
  constexpr float kBias = 8.0f;
  const Rng rng(5);
  for (const int64_t k : {33, 128, 300}) {
    const int64_t m = 15, n = 33;
    Matrix a(m, k, 0, 0, kNaN), b(k, n, 0, 0, kNaN);
    a.fill(rng.fork(1), -0.03, 0.03);
    b.fill(rng.fork(2), -0.03, 0.03);
    const std::vector<float> bias(static_cast<size_t>(n), kBias);
    std::vector<float> c(static_cast<size_t>(m * n));
    GemmArgs g;
    g.m = m;
    g.n = n;
    g.k = k;
    g.a = a.p();
    g.a_stride = a.stride;
    g.b = b.p();
    g.b_stride = b.stride;
    g.bias = bias.data();
    g.c = c.data();
    g.c_stride = n;
    Context ctx(table(), DType::kF32, 1);
    table().gemm(g, ctx);
    const double runs = std::ceil(static_cast<double>(k) / kSumRun), bound = 0.51 * kEps * kBias * runs;
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) {
        double exact = kBias;
        for (int64_t l = 0; l < k; ++l) exact += static_cast<double>(a.p()[i * a.stride + l]) * b.p()[l * b.stride + j];
        ASSERT_NEAR(c[static_cast<size_t>(i * n + j)], exact, bound) << "k " << k << " row " << i << " column " << j;
      }
  }
}

TEST_P(Gemm, FineSumsRoundLess) {
  for (const int64_t k : {96, 192, 768}) {
    double squares[2] = {};
    for (const bool fine : {false, true}) {
      Case t{2, 1000, k};
      t.b = B::kPackedTransposed;
      t.fine = fine;
      t.c_gap = 0;
      const Result r = run_case(table(), t);
      const Rng rng(17, static_cast<uint64_t>(t.m * 1000003 + t.n * 1009 + t.k));  // as run_case draws
      Matrix a(t.m, k, t.a_gap, t.offset, kNaN), b(t.n, k, t.b_gap, t.offset, kNaN);
      a.fill(rng.fork(1), -1, 1);
      b.fill(rng.fork(2), -1, 1);
      for (int64_t i = 0; i < t.m; ++i)
        for (int64_t j = 0; j < t.n; ++j) {
          double exact = 0;
          for (int64_t l = 0; l < k; ++l) exact += static_cast<double>(a.at(i, l)) * b.at(j, l);
          const double error = r.c[static_cast<size_t>(t.offset + i * t.n + j)] - exact;
          squares[fine] += error * error;
        }
    }
    EXPECT_LT(squares[1], 0.5 * squares[0]) << k;
  }
}

TEST_P(Gemm, RowsThatShareCacheSetsAreCopied) {
  for (const int64_t stride : {512, 1024, 3072})
    for (const bool a_transposed : {false, true}) {
      Case t{a_transposed ? stride : 61, 100, a_transposed ? 45 : stride};
      t.a_gap = 0;
      t.a_transposed = a_transposed;
      t.b = B::kPackedTransposed;
      run_case(table(), t);
    }
}

// Several blocks of rows against several groups of panels, each packed when it is first needed.
TEST_P(Gemm, BlocksAndGroupsOfUnpackedOperands) {
  for (const B b : {B::kPlain, B::kTransposed})
    for (const bool a_transposed : {false, true})
      for (const bool norm : {false, true}) {
        if (norm && a_transposed) continue;
        Case t{150, 333, 1001};
        t.b = b;
        t.a_transposed = a_transposed;
        t.norm = norm;
        t.threads = 2;
        run_case(table(), t);
      }
}

TEST_P(Gemm, SumsOfTransposedAComeBesides) {
  for (const int64_t m : {1, 15, 64, 71, 300})
    for (const int64_t k : {0, 1, 255, 600})
      for (const int threads : {1, 3}) {
        SCOPED_TRACE(fmt::format("m {} k {} threads {}", m, k, threads));
        const int64_t n = 70;
        Matrix a(k, m, 3, 1, kNaN), b(k, n, 0, 0, kNaN), c(m, n, 0, 0, kUntouched), sums(1, m, 0, 1, kUntouched);
        a.fill(Rng(1), -1, 1);
        b.fill(Rng(2), -1, 1);
        sums.fill(Rng(3), -1, 1);
        const Matrix before = sums;
        Context ctx(table(), DType::kF32, threads);
        GemmArgs g;
        g.m = m;
        g.n = n;
        g.k = k;
        g.a = a.p();
        g.a_stride = a.stride;
        g.a_transposed = true;
        g.a_sums = sums.p();
        g.b = b.p();
        g.b_stride = n;
        g.c = c.p();
        g.c_stride = n;
        table().gemm(g, ctx);
        for (int64_t i = 0; i < m; ++i) {
          double sum = before.at(0, i), magnitude = std::abs(sum);
          for (int64_t l = 0; l < k; ++l) {
            sum += a.at(l, i);
            magnitude += std::abs(a.at(l, i));
          }
          EXPECT_NEAR(sums.at(0, i), sum, 4 * kEps * std::sqrt(static_cast<double>(k + 1)) * magnitude) << i;
        }
        EXPECT_EQ(sums.data.back(), kUntouched);
      }
}

TEST_P(Gemm, EveryPrologueWithEveryEpilogue) {
  for (const int64_t n : {31, 64})
    for (int bits = 0; bits < 1024; ++bits) {
      Case t{37, n, 50};
      t.gather = bits & 1;
      t.norm = bits & 2;
      t.bias = bits & 4;
      t.pre = bits & 8;
      t.residual = bits & 16;
      t.in_place = bits & 32;
      t.scatter = bits & 64;
      t.activation = static_cast<Activation>(bits >> 7 & 3);
      t.b = bits & 512 ? B::kPackedTransposed : B::kTransposed;
      if (t.in_place && !t.residual) continue;
      run_case(table(), t);
      if (HasFailure()) return;
    }
  for (int bits = 0; bits < 8; ++bits) {
    Case t{37, 45, 50};
    t.gather = bits & 1;
    t.norm = bits & 2;
    t.scatter = bits & 4;
    t.accumulate = true;
    run_case(table(), t);
  }
}

TEST_P(Gemm, EmptyDimensions) {
  for (const int64_t m : {0, 5})
    for (const int64_t n : {0, 40})
      for (const int64_t k : {0, 7})
        for (const B b : {B::kPlain, B::kPackedTransposed})
          for (const bool epilogue : {false, true}) {
            Case t{m, n, k};
            t.b = b;
            t.bias = t.pre = t.residual = t.norm = t.gather = epilogue;
            t.activation = epilogue ? Activation::kRelu : Activation::kNone;
            run_case(table(), t);
            t = Case{m, n, k};
            t.b = b;
            t.accumulate = epilogue;
            t.a_transposed = true;
            run_case(table(), t);
          }
}

TEST_P(Gemm, SameBitsForAnyNumberOfThreads) {
  std::vector<Case> cases = {{49, 768, 96}, {197, 384, 130}, {3000, 33, 48}, {1, 1000, 200}, {500, 100, 2100}, {15, 15, 9}, {150, 333, 1001}};
  for (Case t : cases)
    for (int form = 0; form < 4; ++form) {
      t.b = form == 3 ? B::kPackedPlain : form % 2 == 0 ? B::kPlain : B::kPackedTransposed;
      t.a_transposed = form == 2;
      t.bias = t.residual = form != 2;
      t.accumulate = form == 2;
      t.gather = t.norm = t.scatter = form == 3;
      t.activation = form == 1 ? Activation::kGelu : Activation::kNone;
      t.threads = 1;
      const Result one = run_case(table(), t, false);
      for (const int threads : {2, 3, 5}) {
        t.threads = threads;
        const Result many = run_case(table(), t, false);
        EXPECT_EQ(std::memcmp(one.c.data(), many.c.data(), one.c.size() * sizeof(float)), 0) << describe(t);
      }
    }
}

TEST_P(Gemm, ARowsBitsDoNotDependOnTheOtherRows) {
  Case t{100, 80, 300};
  t.c_gap = 0;
  const Result whole = run_case(table(), t, false);
  for (const int64_t m : {1, 7, 14, 99}) {
    // The same operands, fewer rows: run_case draws by size, so the product is made by hand here.
    Context ctx(table(), DType::kF32, 2);
    Matrix a(100, t.k, t.a_gap, t.offset, kNaN), b(t.k, t.n, t.b_gap, t.offset, kNaN);
    const Rng rng(17, static_cast<uint64_t>(t.m * 1000003 + t.n * 1009 + t.k));
    a.fill(rng.fork(1), -1, 1);
    b.fill(rng.fork(2), -1, 1);
    std::vector<float> c(static_cast<size_t>(m * t.n));
    GemmArgs g;
    g.m = m;
    g.n = t.n;
    g.k = t.k;
    g.a = a.p() + (100 - m) * a.stride;
    g.a_stride = a.stride;
    g.b = b.p();
    g.b_stride = b.stride;
    g.c = c.data();
    g.c_stride = t.n;
    table().gemm(g, ctx);
    EXPECT_EQ(std::memcmp(c.data(), whole.c.data() + t.offset + (100 - m) * t.n, c.size() * sizeof(float)), 0) << m;
  }
}

TEST_P(Gemm, NotANumberStaysVisible) {
  for (const Activation activation : {Activation::kNone, Activation::kGelu, Activation::kGeluTanh, Activation::kRelu, Activation::kQuickGelu,
                                      Activation::kSilu, Activation::kTanh}) {
    Context ctx(table(), DType::kF32, 1);
    std::vector<float> a = {1, kNaN, 1, 1}, b = {1, 1, 1, 1}, c(4);
    GemmArgs g;
    g.m = g.n = g.k = 2;
    g.a = a.data();
    g.a_stride = 2;
    g.b = b.data();
    g.b_stride = 2;
    g.c = c.data();
    g.c_stride = 2;
    g.activation = activation;
    table().gemm(g, ctx);
    EXPECT_TRUE(std::isnan(c[0]) && std::isnan(c[1])) << static_cast<int>(activation);
    EXPECT_NEAR(c[2], activate(activation, 2), 1e-5);
  }
}

TEST_P(Gemm, RefusesContradictoryArguments) {
  Context ctx(table(), DType::kF32, 1);
  std::vector<float> x(16, 1.0f);
  GemmArgs g;
  g.m = g.n = g.k = 4;
  g.a = g.b = g.bias = x.data();
  g.a_stride = g.b_stride = g.c_stride = 4;
  std::vector<float> c(16);
  g.c = c.data();
  g.accumulate = true;
  EXPECT_THROW(table().gemm(g, ctx), InternalError);
  g.accumulate = false;
  g.a_transposed = true;
  const std::vector<int32_t> rows = {0, 1, 2, 3};
  g.a_rows = rows.data();
  EXPECT_THROW(table().gemm(g, ctx), InternalError);
}

INSTANTIATE_TEST_SUITE_P(Tables, Gemm, testing::Range(size_t{0}, tables().size()),
                         [](const testing::TestParamInfo<size_t>& i) { return tables()[i.param].name; });

TEST(GemmCode, GeneratedAndPortableTilesGiveTheSameBits) {
  for (size_t i = 0; i + 1 < tables().size(); i += 2)
    for (Case t : {Case{49, 97, 130}, Case{197, 33, 1500}, Case{14, 200, 3}}) {
      t.bias = true;
      t.fine = t.k != 130;
      const Result generated = run_case(tables()[i].table, t, false), portable = run_case(tables()[i + 1].table, t, false);
      EXPECT_EQ(std::memcmp(generated.c.data(), portable.c.data(), generated.c.size() * sizeof(float)), 0) << tables()[i].name;
    }
}

#if defined(__x86_64__) && defined(__linux__)
TEST(GemmCode, EveryTileShapeIsGenerated) {
  if (!__builtin_cpu_supports("avx2")) GTEST_SKIP() << "no AVX2 on this processor";
  for (const Isa isa : {Isa::kAvx2, Isa::kAvx512})
    for (int rows = 1; rows <= (isa == Isa::kAvx512 ? 14 : 6); ++rows)
      for (const int vectors : {1, 2})
        for (const AOrder order : {AOrder::kRows, AOrder::kColumns}) {
          const GemmTileKernel kernel = jit_gemm_kernel(isa, rows, vectors, order);
          EXPECT_NE(kernel, nullptr) << rows << " x " << vectors;
          EXPECT_EQ(kernel, jit_gemm_kernel(isa, rows, vectors, order));
        }
}
#endif

TEST(GemmBench, TwentyFourDistinctShapes) {
  std::vector<GemmShape> shapes = bench_gemm_shapes();
  EXPECT_EQ(shapes.size(), 24u);
  auto key = [](const GemmShape& s) { return std::make_tuple(s.m, s.k, s.n); };
  std::sort(shapes.begin(), shapes.end(), [&](auto& x, auto& y) { return key(x) < key(y); });
  EXPECT_EQ(std::adjacent_find(shapes.begin(), shapes.end(), [&](auto& x, auto& y) { return key(x) == key(y); }), shapes.end());
}

}  // namespace
}  // namespace fovea
