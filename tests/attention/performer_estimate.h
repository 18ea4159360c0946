// How far attention on random features is from the softmax attention that it estimates.
#pragma once

#include <cmath>
#include <vector>

#include "attention/performer.h"
#include "core/convert.h"
#include "harness/host_tensor.h"

namespace fovea::harness {

// The relative error (Frobenius) of the estimate of softmax attention on q, k ~ N(0, deviation²) with M features.
inline double performer_error_of_draw(int64_t features, double epsilon, double deviation, uint64_t seed) {
  const int64_t n = 64, d = 16;
  const KernelTable& table = kernel_table("auto");
  Context ctx(table, DType::kF32, 1);
  const Rng rng(seed, 9);
  const auto draw = [&](uint64_t tag, double scale) { return random_tensor(Shape{n, d}, rng.fork(tag), DType::kF32, scale); };
  const HostTensor q = draw(1, deviation), k = draw(2, deviation), v = draw(3, 1);
  HostTensor w(Shape{features, d}, DType::kF32), out(Shape{n, d}, DType::kF32);
  draw_orthogonal_features(rng.fork(4), FeatureNorms::kGaussian, w);
  FeatureAttentionArgs a;
  a.batch = a.heads = 1;
  a.head_dim = a.value_dim = d;
  a.queries = a.keys = n;
  a.features = features;
  a.projection = w.data;
  a.input_scale = feature_input_scale(a.map, d);
  a.epsilon = epsilon;
  a.q = {q.data, 0, d, 0};
  a.k = {k.data, 0, d, 0};
  a.v = {v.data, 0, d, 0};
  a.out = {out.data, 0, d, 0};
  ctx.kernels().feature_attention(a, ctx);
  double error = 0, norm = 0;
  for (int64_t i = 0; i < n; ++i) {
    double weights = 0;
    std::vector<double> row(static_cast<size_t>(d));
    for (int64_t j = 0; j < n; ++j) {
      double dot = 0;
      for (int64_t c = 0; c < d; ++c) dot += load_scalar(q, i * d + c) * load_scalar(k, j * d + c);
      const double p = std::exp(dot / std::sqrt(static_cast<double>(d)));
      weights += p;
      for (int64_t c = 0; c < d; ++c) row[static_cast<size_t>(c)] += p * load_scalar(v, j * d + c);
    }
    for (int64_t c = 0; c < d; ++c) {
      const double expected = row[static_cast<size_t>(c)] / weights;
      error += std::pow(load_scalar(out, i * d + c) - expected, 2);
      norm += expected * expected;
    }
  }
  return std::sqrt(error / norm);
}

// Its root mean square over draws.
inline double performer_error(int64_t features, double epsilon, double deviation) {
  double square = 0;
  constexpr int kDraws = 64;
  for (uint64_t seed = 0; seed < kDraws; ++seed) square += std::pow(performer_error_of_draw(features, epsilon, deviation, seed), 2) / kDraws;
  return std::sqrt(square);
}

}  // namespace fovea::harness
