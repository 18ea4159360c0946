#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rows.cc"
#include "kernels/cpu/isa.h"

#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>

#include "kernels/cpu/loops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::rows_file {

void gather_rows(int64_t rows, int64_t channels, const void* x, const int32_t* index, void* out, Context& context) {
  parallel_for(context, rows, channels, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float* to = f32(out) + r * channels;
      if (index[r] < 0)
        std::fill_n(to, channels, 0.0f);
      else
        Transform(0, channels, to, [](VF v) { return v; }, f32(x) + index[r] * channels);
    }
  });
}

// Threads share the rows of dx, and everybody reads the whole index: a row of dx is summed in the order of its sources.
void scatter_add_rows(int64_t rows, int64_t channels, const void* dout, const int32_t* index, void* dx, Context& context) {
  const int64_t targets = rows == 0 ? 0 : int64_t{*std::max_element(index, index + rows)} + 1;
  if (targets <= 0) return;
  parallel_for(context, targets, rows * channels / targets + 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = 0; r < rows; ++r) {
      if (index[r] < begin || index[r] >= end) continue;
      float* to = f32(dx) + index[r] * channels;
      Transform(0, channels, to, [](VF sum, VF g) { return hn::Add(sum, g); }, static_cast<const float*>(to),
                f32(dout) + r * channels);
    }
  });
}

void table_bias(int64_t count, int64_t heads, const void* table, const int32_t* index, void* out, Context& context) {
  parallel_for(context, heads, count, [&](int64_t begin, int64_t end) {
    for (int64_t h = begin; h < end; ++h) {
      float* to = f32(out) + h * count;
      for (int64_t i = 0; i < count; ++i) to[i] = index[i] < 0 ? 0.0f : f32(table)[index[i] * heads + h];
    }
  });
}

void table_bias_backward(int64_t count, int64_t heads, const void* dout, const int32_t* index, void* dtable,
                         Context& context) {
  parallel_for(context, heads, count, [&](int64_t begin, int64_t end) {
    for (int64_t h = begin; h < end; ++h) {
      const float* from = f32(dout) + h * count;
      for (int64_t i = 0; i < count; ++i)
        if (index[i] >= 0) f32(dtable)[index[i] * heads + h] += from[i];
    }
  });
}

void mean_tokens(int64_t batch, int64_t tokens, int64_t begin, int64_t channels, const void* x, void* out,
                 Context& context) {
  constexpr int64_t kBlock = 64;  // channels
  constexpr int64_t kRun = 16;    // tokens
  const int64_t blocks = (channels + kBlock - 1) / kBlock;
  const float scale = tokens > begin ? static_cast<float>(1.0 / static_cast<double>(tokens - begin)) : 0.0f;
  parallel_for(context, batch * blocks, kBlock * tokens, [&](int64_t first, int64_t last) {
    const DF d;
    for (int64_t item = first; item < last; ++item) {
      const int64_t b = item / blocks, block = item % blocks;
      const float* from = f32(x) + b * tokens * channels;
      ForVectors(block * kBlock, std::min((block + 1) * kBlock, channels), [&](int64_t, auto load, auto store) {
        VF sum = hn::Zero(d);
        for (int64_t t = begin; t < tokens; t += kRun) {  // runs are summed apart: one chain over all tokens would round more
          VF part = load(from + t * channels);
          for (int64_t u = t + 1; u < std::min(t + kRun, tokens); ++u) part = hn::Add(part, load(from + u * channels));
          sum = hn::Add(sum, part);
        }
        store(hn::Mul(sum, hn::Set(d, scale)), f32(out) + b * channels);
      });
    }
  });
}

// dx token t = dout / (tokens - begin) for t >= begin, zeros before.
void mean_tokens_backward(int64_t batch, int64_t tokens, int64_t begin, int64_t channels, const void* dout, void* dx,
                          Context& context) {
  const float scale = tokens > begin ? static_cast<float>(1.0 / static_cast<double>(tokens - begin)) : 0.0f;
  parallel_for(context, batch * tokens, channels, [&](int64_t first, int64_t last) {
    const DF d;
    for (int64_t row = first; row < last; ++row) {
      const int64_t b = row / tokens, t = row % tokens;
      if (t < begin)
        std::fill_n(f32(dx) + row * channels, channels, 0.0f);
      else
        Transform(0, channels, f32(dx) + row * channels, [d, scale](VF g) { return hn::Mul(g, hn::Set(d, scale)); },
                  f32(dout) + b * channels);
    }
  });
}

void fill(KernelTable& t) {
  t.gather_rows = gather_rows;
  t.scatter_add_rows = scatter_add_rows;
  t.table_bias = table_bias;
  t.table_bias_backward = table_bias_backward;
  t.mean_tokens = mean_tokens;
  t.mean_tokens_backward = mean_tokens_backward;
}

}  // namespace fovea::HWY_NAMESPACE::rows_file
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fovea {
void fill_rows(KernelTable& t, Isa isa) { FOVEA_FILL(t, isa, rows_file); }
}  // namespace fovea
#endif
