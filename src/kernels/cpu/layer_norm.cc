#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/layer_norm.cc"
#include "kernels/cpu/isa.h"

#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/native_rows.h"
#include "kernels/cpu/row_layout.h"
#include "kernels/cpu/row_statistics-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::layer_norm_file {

// Rows are taken four at a time, so that their reductions share instructions; a row's bits do not depend on its place.
// What reaches memory (the first look at an input, every output) goes row after row all the same: the processor's
// prefetchers follow that, and not four rows side by side.
constexpr int kGroup = kSumRows;

// R rows from `row` on: mean and variance, then the output.
template <int R>
HWY_INLINE void norm_rows(const LayerNormArgs& a, int64_t row) {
  const DF d;
  const float* x[R];
  for (int r = 0; r < R; ++r) x[r] = f32(a.x) + row_offset(a.x_rows, row + r);

  HWY_ALIGN float mean[kGroup], rstd[kGroup];
  RowStatistics(x, a.channels, static_cast<float>(a.epsilon), mean, rstd);
  for (int r = 0; r < R; ++r) {
    if (a.mean) f32(a.mean)[row + r] = mean[r];
    if (a.rstd) f32(a.rstd)[row + r] = rstd[r];
  }
  if (!a.y) return;

  for (int r = 0; r < R; ++r) {
    float* y = f32(a.y) + row_offset(a.y_rows, row + r);
    const VF shift = hn::Set(d, mean[r]), scale = hn::Set(d, rstd[r]);
    ForVectors(0, a.channels, [&](int64_t, auto load, auto store) {
      const VF gamma = a.gamma ? load(f32(a.gamma)) : hn::Set(d, 1.0f);
      const VF beta = a.beta ? load(f32(a.beta)) : hn::Zero(d);
      store(hn::MulAdd(hn::Mul(hn::Sub(load(x[r]), shift), scale), gamma, beta), y);
    });
  }
}

// Rows one behind the other, in whole vectors, whose statistics nobody asks for, as a product normalises its own.
bool plain_rows(const LayerNormArgs& a) {
  return kLanes == 16 && a.channels % kLanes == 0 && a.y && !a.mean && !a.rstd && a.gamma && a.beta && a.x_rows.inner == 1 && a.y_rows.inner == 1;
}

void norm_plain_rows(const LayerNormArgs& a, int64_t begin, int64_t end) {
  GemmStage s;
  s.rows = end - begin;
  s.k = s.row_k = a.channels;
  s.a = f32(a.x) + begin * a.x_rows.outer_stride;
  s.a_stride = a.x_rows.outer_stride;
  s.gamma = f32(a.gamma);
  s.beta = f32(a.beta);
  s.epsilon = static_cast<float>(a.epsilon);
  s.out = f32(a.y) + begin * a.y_rows.outer_stride;
  s.out_stride = a.y_rows.outer_stride;
  stage_native_rows(s);
}

void layer_norm(const LayerNormArgs& a, Context& context) {
  const int64_t rows = a.x_rows.rows();
  if (plain_rows(a)) return parallel_for(context, rows, a.channels, [&](int64_t begin, int64_t end) { norm_plain_rows(a, begin, end); });
  parallel_for(context, (rows + kGroup - 1) / kGroup, kGroup * a.channels, [&](int64_t begin, int64_t end) {
    int64_t row = begin * kGroup;
    const int64_t last = std::min(end * kGroup, rows);
    for (; row + kGroup <= last; row += kGroup) norm_rows<kGroup>(a, row);
    for (; row < last; ++row) norm_rows<1>(a, row);
  });
}

// With n = (x - mean) rstd and g = dy gamma:
// dx = rstd (g - mean(g) - n mean(g n)), dgamma += sum dy n, dbeta += sum dy.
template <int R>
HWY_INLINE void backward_rows(const LayerNormBackwardArgs& a, int64_t row, float* dgamma, float* dbeta) {
  const DF d;
  const D4 d4;
  const float *x[R], *dy[R];
  VF center[R], scale[R], sum_g[R], sum_gn[R];
  for (int r = 0; r < R; ++r) {
    x[r] = f32(a.x) + row_offset(a.x_rows, row + r);
    dy[r] = f32(a.dy) + row_offset(a.dy_rows, row + r);
    center[r] = hn::Set(d, f32(a.mean)[row + r]);
    scale[r] = hn::Set(d, f32(a.rstd)[row + r]);
    const VF shift = center[r], factor = scale[r];
    VF total_g = hn::Zero(d), total_gn = hn::Zero(d);
    ForVectors(0, a.channels, [&](int64_t, auto load, auto) {  // dy is zero past a partial vector, and so is g
      const VF n = hn::Mul(hn::Sub(load(x[r]), shift), factor);
      const VF up = load(dy[r]);
      const VF g = a.gamma ? hn::Mul(up, load(f32(a.gamma))) : up;
      total_g = hn::Add(total_g, g);
      total_gn = hn::MulAdd(g, n, total_gn);
    });
    sum_g[r] = total_g;
    sum_gn[r] = total_gn;
  }
  if (dgamma || dbeta)
    ForVectors(0, a.channels, [&](int64_t, auto load, auto store) {
      VF column_gamma = dgamma ? load(dgamma) : hn::Zero(d);
      VF column_beta = dbeta ? load(dbeta) : hn::Zero(d);
      for (int r = 0; r < R; ++r) {
        const VF up = load(dy[r]);
        column_gamma = hn::MulAdd(up, hn::Mul(hn::Sub(load(x[r]), center[r]), scale[r]), column_gamma);
        column_beta = hn::Add(column_beta, up);
      }
      if (dgamma) store(column_gamma, dgamma);
      if (dbeta) store(column_beta, dbeta);
    });
  const V4 count = hn::Set(d4, static_cast<float>(a.channels));
  HWY_ALIGN float mean_g[kGroup], mean_gn[kGroup];
  hn::Store(hn::Div(SumsOf(sum_g), count), d4, mean_g);
  hn::Store(hn::Div(SumsOf(sum_gn), count), d4, mean_gn);
  for (int r = 0; r < R; ++r) {
    float* dx = f32(a.dx) + row_offset(a.dx_rows, row + r);
    const VF shift = center[r], factor = scale[r];
    const VF all_g = hn::Set(d, mean_g[r]), all_gn = hn::Set(d, mean_gn[r]);
    ForVectors(0, a.channels, [&](int64_t, auto load, auto store) {
      const VF n = hn::Mul(hn::Sub(load(x[r]), shift), factor);
      const VF up = load(dy[r]);
      const VF g = a.gamma ? hn::Mul(up, load(f32(a.gamma))) : up;
      const VF rest = hn::NegMulAdd(n, all_gn, hn::Sub(g, all_g));
      store(a.accumulate_dx ? hn::MulAdd(factor, rest, load(dx)) : hn::Mul(factor, rest), dx);
    });
  }
}

void layer_norm_backward(const LayerNormBackwardArgs& a, Context& context) {
  const RowChunks chunks(a.x_rows.rows());
  ArenaScope scope(context.scratch());
  const int64_t partial = chunks.count * a.channels;
  float* dgamma = a.dgamma ? context.scratch().take<float>(partial) : nullptr;
  float* dbeta = a.dbeta ? context.scratch().take<float>(partial) : nullptr;
  parallel_for(context, chunks.count, chunks.size * a.channels, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      float* chunk_dgamma = dgamma ? dgamma + chunk * a.channels : nullptr;
      float* chunk_dbeta = dbeta ? dbeta + chunk * a.channels : nullptr;
      if (dgamma) std::fill_n(chunk_dgamma, a.channels, 0.0f);
      if (dbeta) std::fill_n(chunk_dbeta, a.channels, 0.0f);
      int64_t row = chunks.begin(chunk);
      const int64_t last = chunks.end(chunk);
      for (; row + kGroup <= last; row += kGroup) backward_rows<kGroup>(a, row, chunk_dgamma, chunk_dbeta);
      for (; row < last; ++row) backward_rows<1>(a, row, chunk_dgamma, chunk_dbeta);
    }
  });
  if (dgamma) AddPartials(chunks.count, a.channels, dgamma, f32(a.dgamma));
  if (dbeta) AddPartials(chunks.count, a.channels, dbeta, f32(a.dbeta));
}

void fill(KernelTable& t) {
  t.layer_norm = layer_norm;
  t.layer_norm_backward = layer_norm_backward;
}

}  // namespace fovea::HWY_NAMESPACE::layer_norm_file
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fovea {
void fill_layer_norm(KernelTable& t, Isa isa) { FOVEA_FILL(t, isa, layer_norm_file); }
}  // namespace fovea
#endif
