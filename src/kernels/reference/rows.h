// Moving, scaling and summing rows.
#pragma once

#include "kernels/kernel_table.h"
#include "kernels/reference/scalar.h"

namespace fovea::reference {

template <class T>
void gather_rows(int64_t rows, int64_t channels, const void* x, const int32_t* index, void* y, Context&) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < channels; ++c)
      out<T>(y)[r * channels + c] = index[r] < 0 ? T(0) : in<T>(x)[index[r] * channels + c];
}

template <class T>
void scatter_add_rows(int64_t rows, int64_t channels, const void* dy, const int32_t* index, void* dx, Context&) {
  for (int64_t r = 0; r < rows; ++r) {
    if (index[r] < 0) continue;
    for (int64_t c = 0; c < channels; ++c) out<T>(dx)[index[r] * channels + c] += in<T>(dy)[r * channels + c];
  }
}

template <class T>
void table_bias(int64_t count, int64_t heads, const void* table, const int32_t* index, void* y, Context&) {
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t i = 0; i < count; ++i)
      out<T>(y)[h * count + i] = index[i] < 0 ? T(0) : in<T>(table)[index[i] * heads + h];
}

template <class T>
void table_bias_backward(int64_t count, int64_t heads, const void* dy, const int32_t* index, void* dtable, Context&) {
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t i = 0; i < count; ++i)
      if (index[i] >= 0) out<T>(dtable)[index[i] * heads + h] += in<T>(dy)[h * count + i];
}

template <class T>
void scale_rows(int64_t rows, int64_t channels, int64_t rows_per_scale, const void* scale, const void* x,
                const void* residual, void* y, Context&) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = r * channels; i < (r + 1) * channels; ++i) {
      const T scaled = in<T>(scale)[r / rows_per_scale] * in<T>(x)[i];
      out<T>(y)[i] = residual ? scaled + in<T>(residual)[i] : scaled;
    }
}

template <class T>
void scale_columns(int64_t rows, int64_t channels, const void* gamma, const void* x, const void* residual, void* y,
                   Context&) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t i = r * channels + c;
      const T scaled = in<T>(x)[i] * in<T>(gamma)[c];
      out<T>(y)[i] = residual ? scaled + in<T>(residual)[i] : scaled;
    }
}

// dx = dy · gamma, dgamma += sum over rows of dy · x
template <class T>
void scale_columns_backward(int64_t rows, int64_t channels, const void* gamma, const void* x, const void* dy, void* dx,
                            void* dgamma, Context&) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t i = r * channels + c;
      if (dgamma) out<T>(dgamma)[c] += in<T>(dy)[i] * in<T>(x)[i];
      if (dx) out<T>(dx)[i] = in<T>(dy)[i] * in<T>(gamma)[c];
    }
}

template <class T>
void column_sum(int64_t rows, int64_t channels, int64_t stride, const void* x, void* sum, Context&) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < channels; ++c) out<T>(sum)[c] += in<T>(x)[r * stride + c];
}

template <class T>
void mean_tokens(int64_t batch, int64_t tokens, int64_t begin, int64_t channels, const void* x, void* y, Context&) {
  const T count(static_cast<double>(tokens - begin));
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t c = 0; c < channels; ++c) {
      T sum(0);
      for (int64_t t = begin; t < tokens; ++t) sum += in<T>(x)[(b * tokens + t) * channels + c];
      out<T>(y)[b * channels + c] = tokens > begin ? sum / count : T(0);
    }
}

// dx token t = dout / (tokens - begin) for t >= begin, zeros before.
template <class T>
void mean_tokens_backward(int64_t batch, int64_t tokens, int64_t begin, int64_t channels, const void* dy, void* dx,
                          Context&) {
  const T count(static_cast<double>(tokens - begin));
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t c = 0; c < channels; ++c)
        out<T>(dx)[(b * tokens + t) * channels + c] = t < begin ? T(0) : in<T>(dy)[b * channels + c] / count;
}

}  // namespace fovea::reference
