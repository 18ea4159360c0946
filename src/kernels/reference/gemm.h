// Matrix product with every prologue and epilogue of GemmArgs.
#pragma once

#include <type_traits>

#include "core/convert.h"
#include "kernels/kernel_table.h"
#include "kernels/reference/activation.h"
#include "kernels/reference/scalar.h"

namespace fovea::reference {

// x rounded as a product of that type sees it; a row, or a column, of `count` numbers `stride` apart. In float arithmetic, as the
// rounding itself is part of the definition.
template <class T>
void round_operand(ProductType type, T* x, int64_t count, int64_t stride) {
  if (type == ProductType::kOwn) return;
  check(!std::is_same_v<T, Dual>, "products of another type than their own have no derivative");
  const auto value = [&](int64_t i) { return static_cast<float>(value_of(x[i * stride])); };
  if (type == ProductType::kBF16) {
    for (int64_t i = 0; i < count; ++i) x[i * stride] = T(from_bf16(to_bf16(value(i))));
    return;
  }
  float greatest = 0;
  bool finite = true;
  for (int64_t i = 0; i < count; ++i) {
    finite = finite && std::isfinite(value(i));
    greatest = std::max(greatest, std::fabs(value(i)));
  }
  const float inverse = greatest > 0 ? 127.0f / greatest : 0.0f, scale = finite ? greatest / 127.0f : std::numeric_limits<float>::quiet_NaN();
  for (int64_t i = 0; i < count; ++i)
    x[i * stride] = T(static_cast<double>(finite ? std::nearbyint(value(i) * inverse) : 1.0f) * static_cast<double>(scale));
}

template <class T>
size_t gemm_packed_bytes(ProductType, int64_t k, int64_t n) {
  return static_cast<size_t>(k * n) * sizeof(T);
}

// The packed form is a contiguous (k, n) copy, rounded.
template <class T>
void gemm_pack(ProductType type, int64_t k, int64_t n, const void* b, int64_t b_stride, bool b_transposed, void* packed, Context&) {
  const T* from = in<T>(b);
  T* to = out<T>(packed);
  for (int64_t l = 0; l < k; ++l)
    for (int64_t j = 0; j < n; ++j) to[l * n + j] = b_transposed ? from[j * b_stride + l] : from[l * b_stride + j];
  for (int64_t j = 0; j < n; ++j) round_operand(type, to + j, k, n);
}

// Row i of norm(a)[a_rows] as k contiguous numbers.
template <class T>
void gather_a_row(const GemmArgs& g, int64_t i, T* row) {
  const int64_t from = g.a_rows ? g.a_rows[i] : i;
  for (int64_t l = 0; l < g.k; ++l) {
    if (from < 0) {
      row[l] = T(0);
    } else if (g.a_uint8) {
      row[l] = T(static_cast<double>(static_cast<const uint8_t*>(g.a)[from * g.a_stride + l] - 128)) * in<T>(g.a_scale)[from];
    } else if (g.a_bf16) {
      row[l] = T(from_bf16(static_cast<const uint16_t*>(g.a)[g.a_transposed ? l * g.a_stride + from : from * g.a_stride + l]));
    } else if (g.a_transposed) {
      row[l] = in<T>(g.a)[l * g.a_stride + from];
    } else {
      row[l] = in<T>(g.a)[from * g.a_stride + l];
    }
  }
  if (!g.norm_gamma || from < 0) return;
  using std::sqrt;
  T mean(0), rstd(0);
  if (g.norm_mean) {
    mean = in<T>(g.norm_mean)[from];
    rstd = in<T>(g.norm_rstd)[from];
  } else {
    for (int64_t l = 0; l < g.k; ++l) mean += row[l];
    mean = mean / T(static_cast<double>(g.k));
    for (int64_t l = 0; l < g.k; ++l) rstd += (row[l] - mean) * (row[l] - mean);
    rstd = T(1) / sqrt(rstd / T(static_cast<double>(g.k)) + T(g.norm_epsilon));
  }
  for (int64_t l = 0; l < g.k; ++l) row[l] = (row[l] - mean) * rstd * in<T>(g.norm_gamma)[l] + in<T>(g.norm_beta)[l];
}

template <class T>
void gemm(const GemmArgs& g, Context& ctx) {
  check(g.type != ProductType::kInt8 || (g.b_packed != nullptr && !g.a_transposed), "a product in int8 needs packed weights and rows of a");
  ArenaScope scope(ctx.scratch());
  const T* b = in<T>(g.b_packed ? g.b_packed : g.b);
  int64_t b_stride = g.b_packed ? g.n : g.b_stride;
  if (!g.b_packed && (g.b_transposed || g.type != ProductType::kOwn)) {
    T* copy = ctx.scratch().take<T>(g.k * g.n);
    if (g.b_bf16)
      for (int64_t l = 0; l < g.k; ++l)
        for (int64_t j = 0; j < g.n; ++j) copy[l * g.n + j] = T(from_bf16(static_cast<const uint16_t*>(g.b)[l * g.b_stride + j]));
    else
      gemm_pack<T>(g.type, g.k, g.n, g.b, g.b_stride, g.b_transposed, copy, ctx);
    b = copy;
    b_stride = g.n;
  }
  T* a_row = ctx.scratch().take<T>(g.k);
  T* sum = ctx.scratch().take<T>(g.n);
  for (int64_t i = 0; i < g.m; ++i) {
    gather_a_row(g, i, a_row);
    for (int64_t l = 0; g.a_sums && l < g.k; ++l) out<T>(g.a_sums)[i] += a_row[l];
    if (!g.a_uint8) round_operand(g.type, a_row, g.k, 1);
    for (int64_t j = 0; j < g.n; ++j) sum[j] = T(0);
    for (int64_t l = 0; l < g.k; ++l)
      for (int64_t j = 0; j < g.n; ++j) sum[j] += a_row[l] * b[l * b_stride + j];

    const int64_t to = g.c_rows ? g.c_rows[i] : i;
    T* c = to < 0 || g.c_bf16 ? nullptr : out<T>(g.c) + to * g.c_stride;
    for (int64_t j = 0; j < g.n; ++j) {
      T x = sum[j];
      if (g.accumulate) {
        if (c) c[j] += x;
        continue;
      }
      if (g.bias) x += in<T>(g.bias)[j];
      if (g.pre_activation) out<T>(g.pre_activation)[i * g.n + j] = x;
      x = activate(g.activation, x);
      if (g.c_bf16 && to >= 0) static_cast<uint16_t*>(g.c)[to * g.c_stride + j] = to_bf16(static_cast<float>(value_of(x)));
      if (!c) continue;
      if (g.residual) x += in<T>(g.residual)[to * g.residual_stride + j];
      c[j] = x;
    }
  }
}

}  // namespace fovea::reference
