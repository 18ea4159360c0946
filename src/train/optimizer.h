// AdamW over a model's parameter slab (Loshchilov and Hutter 2019, 1711.05101, algorithm 2).
#pragma once

#include "core/param_store.h"
#include "kernels/kernel_table.h"

namespace fovea {

struct AdamWConfig {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double weight_decay = 0.05;  // of the parameters registered with Decay::kYes
};

class AdamW {
 public:
  AdamW(ParamStore& params, const AdamWConfig& config);  // params must have gradients

  // One update with gradient · grad_scale. Drops packed weights, since values change. Frozen parameters stay.
  void step(double lr, double grad_scale, Context& ctx);

  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }
  Tensor first_moment() const { return moment_view(m_); }   // slabs like ParamStore::values()
  Tensor second_moment() const { return moment_view(v_); }

 private:
  Tensor moment_view(const Buffer& b) const { return {b.data(), Shape{params_.slab_elements()}, params_.dtype()}; }
  void update(int64_t begin, int64_t count, double decay, double lr, double grad_scale, Context& ctx) const;

  ParamStore& params_;
  AdamWConfig config_;
  Buffer m_, v_;
  int64_t steps_ = 0;
};

// Global L2 norm of all gradients, in double; NaN or infinity where a gradient has one.
double gradient_norm(const ParamStore& params, Context& ctx);

// The factor that clips a gradient of this norm to `clip_norm`: min(1, clip / (norm + 1e-6)); 1 when clip_norm <= 0.
double clip_scale(double norm, double clip_norm);

}  // namespace fovea
