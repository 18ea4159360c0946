#include "train/optimizer.h"

#include <algorithm>
#include <cmath>

namespace fovea {

AdamW::AdamW(ParamStore& params, const AdamWConfig& config)
    : params_(params),
      config_(config),
      m_(static_cast<size_t>(params.slab_elements()) * size_of(params.dtype())),
      v_(static_cast<size_t>(params.slab_elements()) * size_of(params.dtype())) {
  check(!params.grads().empty(), "an optimizer needs gradients");
}

void AdamW::update(int64_t begin, int64_t count, double decay, double lr, double grad_scale, Context& ctx) const {
  if (count == 0) return;
  AdamWArgs a;
  a.count = count;
  a.value = params_.values().slice(begin, count).data;
  a.grad = params_.grads().slice(begin, count).data;
  a.m = first_moment().slice(begin, count).data;
  a.v = second_moment().slice(begin, count).data;
  a.grad_scale = grad_scale;
  a.lr = lr;
  a.beta1 = config_.beta1;
  a.beta2 = config_.beta2;
  a.epsilon = config_.epsilon;
  a.weight_decay = decay;
  a.step = steps_;
  ctx.kernels().adamw(a, ctx);
}

void AdamW::step(double lr, double grad_scale, Context& ctx) {
  ++steps_;
  params_.drop_packed();
  const bool any_frozen =
      std::any_of(params_.params().begin(), params_.params().end(), [](const Param& p) { return p.frozen && !p.buffer; });
  if (!any_frozen) {
    const int64_t split = params_.decay_elements();
    update(0, split, config_.weight_decay, lr, grad_scale, ctx);
    update(split, params_.trained_elements() - split, 0, lr, grad_scale, ctx);
    return;
  }
  for (const Param& p : params_.params())
    if (!p.frozen)
      update(params_.slab_offset(p), p.shape.elements(), p.decay == Decay::kYes ? config_.weight_decay : 0, lr, grad_scale, ctx);
}

double gradient_norm(const ParamStore& params, Context& ctx) {
  const Tensor g = params.grads();
  return std::sqrt(ctx.kernels().sum_of_squares(g.elements(), g.data, ctx));
}

double clip_scale(double norm, double clip_norm) { return clip_norm <= 0 ? 1 : std::min(1.0, clip_norm / (norm + 1e-6)); }

}  // namespace fovea
