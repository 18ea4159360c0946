// Products in bf16 and int8 on every table against the reference, which rounds operands by the same definition.
#include <cmath>

#include "core/convert.h"
#include "kernels/small_kernels.h"

namespace fovea::test {
namespace {

struct ProductSizes {
  int64_t m, k, n;
};
constexpr ProductSizes kProducts[] = {{1, 1, 1},     {3, 2, 5},     {14, 3, 16},   {15, 4, 17},   {31, 5, 33},  {49, 31, 32},
                                      {2, 97, 100},  {197, 96, 31}, {29, 384, 64}, {5, 1100, 40}, {3, 4500, 7}, {0, 8, 8}};

std::string name_of_type(ProductType type) { return type == ProductType::kBF16 ? "bf16" : "int8"; }

// Where packed weights begin in memory that is a line longer than they are.
void* aligned(std::vector<char>& memory) {
  return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
}

std::vector<char> packed(const KernelTable& t, ProductType type, const ProductSizes& s, const Data& b, bool transposed, Context& ctx) {
  std::vector<char> to(t.gemm_packed_bytes(type, s.k, s.n) + 64, 0);
  t.gemm_pack(type, s.k, s.n, b.p(), transposed ? s.k : s.n, transposed, aligned(to), ctx);
  return to;
}

// A product of A (m, k) and packed weights.
GemmArgs product_of(ProductType type, const ProductSizes& s, const void* a, void* weights, void* c) {
  GemmArgs g;
  g.m = s.m;
  g.k = s.k;
  g.n = s.n;
  g.a = a;
  g.a_stride = s.k;
  g.b_packed = weights;
  g.type = type;
  g.c = c;
  g.c_stride = s.n;
  return g;
}

// Rounding of sums, and what one rounding of an operand in the other direction would change.
double tolerance_of(ProductType type, const ProductSizes& s, double a, double b, double flips) {
  const double sums = 4 * kEps * std::sqrt(static_cast<double>(s.k)) * static_cast<double>(s.k) / 4 * a * b;
  return sums + 8 * kEps * a * b + flips * (type == ProductType::kBF16 ? 0x1p-8 : 1.0 / 127) * a * b;
}

TEST(ProductTypes, MatchTheReference) {
  for (const ProductType type : {ProductType::kBF16, ProductType::kInt8})
    for (const ProductSizes& s : kProducts)
      for (const bool transposed : {true, false})
        expect_like_reference(fmt::format("{} {} x {} x {}", name_of_type(type), s.m, s.k, s.n), [&](const KernelTable& t, Context& ctx) {
          const Data a = random_data(t.dtype, s.m * s.k, 1, 2.0), b = random_data(t.dtype, s.k * s.n, 2), bias = random_data(t.dtype, s.n, 3);
          Data c(t.dtype, s.m * s.n, 7), sum = random_data(t.dtype, s.m * s.n, 4);
          std::vector<char> memory = packed(t, type, s, b, transposed, ctx);
          GemmArgs g = product_of(type, s, a.p(), aligned(memory), c.p());
          g.bias = bias.p();
          t.gemm(g, ctx);
          GemmArgs more = g;
          more.bias = nullptr;
          more.c = sum.p();
          more.accumulate = true;
          t.gemm(more, ctx);
          const double tolerance = tolerance_of(type, s, a.largest(), b.largest(), 0) + 8 * kEps * (c.largest() + sum.largest());
          return Outputs{{c, tolerance}, {sum, tolerance}};
        });
}

// Every prologue and epilogue: LayerNorm, gathered and scattered rows, activation, residual, the value before the activation.
TEST(ProductTypes, PrologueAndEpilogue) {
  for (const ProductType type : {ProductType::kBF16, ProductType::kInt8})
    for (const ProductSizes& s : {ProductSizes{31, 33, 35}, ProductSizes{20, 128, 64}})
      for (const bool norm : {false, true})
        expect_like_reference(fmt::format("{} {} x {} x {} norm {}", name_of_type(type), s.m, s.k, s.n, norm), [&](const KernelTable& t, Context& ctx) {
          const int64_t rows = s.m + 3;
          const Data a = random_data(t.dtype, rows * s.k, 1), b = random_data(t.dtype, s.k * s.n, 2, 0.1), bias = random_data(t.dtype, s.n, 3);
          const Data residual = random_data(t.dtype, rows * s.n, 4), gamma = random_data(t.dtype, s.k, 5, 0.2, 1), beta = random_data(t.dtype, s.k, 6, 0.2);
          Data mean(t.dtype, rows), rstd(t.dtype, rows), c(t.dtype, rows * s.n, 5), pre(t.dtype, s.m * s.n);
          std::vector<int32_t> from, to;
          for (int64_t i = 0; i < s.m; ++i) {
            from.push_back(i == 4 ? -1 : static_cast<int32_t>((i * 7) % rows));
            to.push_back(i == 9 ? -1 : static_cast<int32_t>(rows - 1 - i));
          }
          LayerNormArgs l;
          l.channels = s.k;
          l.x_rows = RowLayout::contiguous(rows, s.k);
          l.x = a.p();
          l.mean = mean.p();
          l.rstd = rstd.p();
          t.layer_norm(l, ctx);
          std::vector<char> memory = packed(t, type, s, b, true, ctx);
          GemmArgs g = product_of(type, s, a.p(), aligned(memory), c.p());
          g.a_rows = from.data();
          if (norm) {
            if (s.k % 2 == 0) {  // else the product computes them itself
              g.norm_mean = mean.p();
              g.norm_rstd = rstd.p();
            }
            g.norm_epsilon = l.epsilon;
            g.norm_gamma = gamma.p();
            g.norm_beta = beta.p();
          }
          g.bias = bias.p();
          g.pre_activation = pre.p();
          g.activation = Activation::kGelu;
          g.residual = residual.p();
          g.residual_stride = s.n;
          g.c_rows = to.data();
          t.gemm(g, ctx);
          const double tolerance = tolerance_of(type, s, norm ? 6 : a.largest(), b.largest(), norm ? 3 : 0) + 16 * kEps * c.largest();
          return Outputs{{c, 1.2 * tolerance}, {pre, tolerance}};
        });
}

// C kept as bfloat16, then read as the next product's A.
TEST(ProductTypes, BetweenTwoProductsInBf16) {
  for (const ProductType type : {ProductType::kBF16, ProductType::kInt8})
    for (const int64_t hidden : {7, 33, 64, 2100})
      expect_like_reference(fmt::format("{} through {}", name_of_type(type), hidden), [&](const KernelTable& t, Context& ctx) {
        const int64_t rows = 29, channels = 40;
        const ProductSizes up{rows, channels, hidden}, down{rows, hidden, channels};
        const Data x = random_data(t.dtype, rows * channels, 1), a = random_data(t.dtype, channels * hidden, 2, 0.2),
                   b = random_data(t.dtype, channels * hidden, 3, 0.2);
        std::vector<uint16_t> h(static_cast<size_t>(rows * hidden + 1), 0x7fc0);
        Data y(t.dtype, rows * channels), wide(t.dtype, rows * hidden);
        std::vector<char> first = packed(t, type, up, a, true, ctx), second = packed(t, type, down, b, true, ctx);
        GemmArgs g = product_of(type, up, x.p(), aligned(first), h.data());
        g.activation = Activation::kGelu;
        g.c_bf16 = true;
        t.gemm(g, ctx);
        EXPECT_EQ(h.back(), 0x7fc0) << "written past the end";
        for (int64_t i = 0; i < rows * hidden; ++i) wide.set(i, from_bf16(h[static_cast<size_t>(i)]));
        GemmArgs n = product_of(type, down, h.data(), aligned(second), y.p());
        n.a_bf16 = true;
        t.gemm(n, ctx);
        const double one = wide.largest() * (type == ProductType::kBF16 ? 0x1p-8 : 2.0 / 127);
        return Outputs{{wide, 0x1p-8 * wide.largest()}, {y, one * b.largest() * 8 + tolerance_of(type, down, wide.largest(), b.largest(), 0)}};
      });
}

// The products of a training step: weights as they are, and sums over tokens, of floats or of what is kept in bfloat16.
TEST(ProductTypes, Bf16OfUnpackedOperands) {
  for (const ProductSizes& s : {ProductSizes{1, 1, 1}, ProductSizes{15, 4, 17}, ProductSizes{49, 31, 32}, ProductSizes{2, 97, 100},
                                ProductSizes{70, 515, 90}, ProductSizes{29, 1100, 40}, ProductSizes{150, 300, 700}, ProductSizes{5, 0, 3}})
    for (int form = 0; form < 16; ++form) {
      const bool a_transposed = form & 1, b_transposed = form & 2, a_bf16 = form & 4, b_bf16 = form & 8;
      if (b_transposed && b_bf16) continue;
      expect_like_reference(fmt::format("{} x {} x {}, form {}", s.m, s.k, s.n, form), [&](const KernelTable& t, Context& ctx) {
        const Data a = random_data(t.dtype, s.m * s.k, 1, 2.0), b = random_data(t.dtype, s.k * s.n, 2);
        Data c(t.dtype, s.m * s.n, 7), sum = random_data(t.dtype, s.m * s.n, 4), sums = random_data(t.dtype, s.m, 5);
        std::vector<uint16_t> a16, b16;
        for (int64_t i = 0; i < a.count(); ++i) a16.push_back(to_bf16(static_cast<float>(a.get(i))));
        for (int64_t i = 0; i < b.count(); ++i) b16.push_back(to_bf16(static_cast<float>(b.get(i))));
        GemmArgs g;
        g.m = s.m;
        g.k = s.k;
        g.n = s.n;
        g.type = ProductType::kBF16;
        g.a_transposed = a_transposed;
        g.a_stride = a_transposed ? s.m : s.k;
        g.a_bf16 = a_bf16;
        g.a = a_bf16 ? static_cast<const void*>(a16.data()) : a.p();
        g.b_transposed = b_transposed;
        g.b_stride = b_transposed ? s.k : s.n;
        g.b_bf16 = b_bf16;
        g.b = b_bf16 ? static_cast<const void*>(b16.data()) : b.p();
        g.c = c.p();
        g.c_stride = s.n;
        t.gemm(g, ctx);
        g.c = sum.p();
        g.accumulate = true;
        if (a_transposed) g.a_sums = sums.p();
        t.gemm(g, ctx);
        const double tolerance = tolerance_of(g.type, s, a.largest(), b.largest(), 0) + 8 * kEps * (c.largest() + sum.largest());
        return Outputs{{c, tolerance}, {sum, tolerance}, {sums, 4 * kEps * static_cast<double>(s.k + 1) * a.largest()}};
      });
    }
}

// Rows that are bytes already: read where they stand (k and stride in whole fours), gathered, and copied.
TEST(ProductTypes, RowsOfBytes) {
  for (const ProductSizes& s : {ProductSizes{1, 4, 1}, ProductSizes{31, 96, 35}, ProductSizes{29, 37, 64}, ProductSizes{5, 4500, 7}, ProductSizes{40, 4096, 70}})
    for (const int64_t gap : {0, 3, 4})
      for (const bool gather : {false, true})
        expect_like_reference(fmt::format("{} x {} x {}, gap {}, gather {}", s.m, s.k, s.n, gap, gather), [&](const KernelTable& t, Context& ctx) {
          const int64_t rows = s.m + 2, stride = s.k + gap;
          const Data b = random_data(t.dtype, s.k * s.n, 2), bias = random_data(t.dtype, s.n, 3), scale = random_data(t.dtype, rows, 4, 0.002, 0.02);
          std::vector<uint8_t> bytes(static_cast<size_t>(rows * stride), 255);
          for (int64_t i = 0; i < rows; ++i)
            for (int64_t k = 0; k < s.k; ++k) bytes[static_cast<size_t>(i * stride + k)] = static_cast<uint8_t>(1 + (i * 71 + k * 37) % 255);
          std::vector<int32_t> from;
          for (int64_t i = 0; i < s.m; ++i) from.push_back(i % 7 == 3 ? -1 : static_cast<int32_t>(rows - 1 - i));
          Data c(t.dtype, s.m * s.n, 7);
          std::vector<char> memory = packed(t, ProductType::kInt8, s, b, true, ctx);
          GemmArgs g = product_of(ProductType::kInt8, s, bytes.data(), aligned(memory), c.p());
          g.a_stride = stride;
          g.a_uint8 = true;
          g.a_scale = scale.p();
          if (gather) g.a_rows = from.data();
          g.bias = bias.p();
          t.gemm(g, ctx);
          return Outputs{{c, tolerance_of(ProductType::kInt8, s, 127 * scale.largest(), b.largest(), 0) + 8 * kEps * c.largest()}};
        });
}

// A row that is not finite makes its own results NaN (int8) or not finite, and no other's.
TEST(ProductTypes, NotFiniteStaysVisible) {
  for (const ProductType type : {ProductType::kBF16, ProductType::kInt8})
    for_each_f32_table([&](const KernelTable& t, Context& ctx) {
      const ProductSizes s{5, 40, 20};
      Data a = random_data(t.dtype, s.m * s.k, 1);
      const Data b = random_data(t.dtype, s.k * s.n, 2);
      a.set(1 * s.k + 39, std::numeric_limits<double>::quiet_NaN());
      a.set(3 * s.k + 2, std::numeric_limits<double>::infinity());
      Data c(t.dtype, s.m * s.n);
      std::vector<char> memory = packed(t, type, s, b, true, ctx);
      t.gemm(product_of(type, s, a.p(), aligned(memory), c.p()), ctx);
      for (int64_t i = 0; i < s.m; ++i)
        for (int64_t j = 0; j < s.n; ++j) EXPECT_EQ(std::isfinite(c.get(i * s.n + j)), i != 1 && i != 3) << name_of_type(type) << " " << i << " " << j;
    });
}

}  // namespace
}  // namespace fovea::test
