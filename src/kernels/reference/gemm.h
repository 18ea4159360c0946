// Matrix product with every prologue and epilogue of GemmArgs.
#pragma once

#include "kernels/kernel_table.h"
#include "kernels/reference/activation.h"
#include "kernels/reference/scalar.h"

namespace fovea::reference {

template <class T>
size_t gemm_packed_bytes(int64_t k, int64_t n) {
  return static_cast<size_t>(k * n) * sizeof(T);
}

// The packed form is a contiguous (k, n) copy.
template <class T>
void gemm_pack(int64_t k, int64_t n, const void* b, int64_t b_stride, bool b_transposed, void* packed, Context&) {
  const T* from = in<T>(b);
  T* to = out<T>(packed);
  for (int64_t l = 0; l < k; ++l)
    for (int64_t j = 0; j < n; ++j) to[l * n + j] = b_transposed ? from[j * b_stride + l] : from[l * b_stride + j];
}

// Row i of norm(a)[a_rows] as k contiguous numbers.
template <class T>
void gather_a_row(const GemmArgs& g, int64_t i, T* row) {
  const int64_t from = g.a_rows ? g.a_rows[i] : i;
  for (int64_t l = 0; l < g.k; ++l) {
    if (from < 0) {
      row[l] = T(0);
    } else if (g.a_transposed) {
      row[l] = in<T>(g.a)[l * g.a_stride + from];
    } else {
      row[l] = in<T>(g.a)[from * g.a_stride + l];
      if (g.norm_mean) {
        row[l] = (row[l] - in<T>(g.norm_mean)[from]) * in<T>(g.norm_rstd)[from] * in<T>(g.norm_gamma)[l] +
                 in<T>(g.norm_beta)[l];
      }
    }
  }
}

template <class T>
void gemm(const GemmArgs& g, Context& ctx) {
  ArenaScope scope(ctx.scratch());
  const T* b = in<T>(g.b_packed ? g.b_packed : g.b);
  int64_t b_stride = g.b_packed ? g.n : g.b_stride;
  if (!g.b_packed && g.b_transposed) {
    T* copy = ctx.scratch().take<T>(g.k * g.n);
    gemm_pack<T>(g.k, g.n, g.b, g.b_stride, true, copy, ctx);
    b = copy;
    b_stride = g.n;
  }
  T* a_row = ctx.scratch().take<T>(g.k);
  T* sum = ctx.scratch().take<T>(g.n);
  for (int64_t i = 0; i < g.m; ++i) {
    gather_a_row(g, i, a_row);
    for (int64_t j = 0; j < g.n; ++j) sum[j] = T(0);
    for (int64_t l = 0; l < g.k; ++l)
      for (int64_t j = 0; j < g.n; ++j) sum[j] += a_row[l] * b[l * b_stride + j];

    const int64_t to = g.c_rows ? g.c_rows[i] : i;
    T* c = to < 0 ? nullptr : out<T>(g.c) + to * g.c_stride;
    for (int64_t j = 0; j < g.n; ++j) {
      T x = sum[j];
      if (g.accumulate) {
        if (c) c[j] += x;
        continue;
      }
      if (g.bias) x += in<T>(g.bias)[j];
      if (g.pre_activation) out<T>(g.pre_activation)[i * g.n + j] = x;
      x = activate(g.activation, x);
      if (!c) continue;
      if (g.residual) x += in<T>(g.residual)[to * g.residual_stride + j];
      c[j] = x;
    }
  }
}

}  // namespace fovea::reference
