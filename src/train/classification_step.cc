#include "train/classification_step.h"

#include <array>
#include <cmath>

#include "core/convert.h"

namespace fovea {

namespace {

ParamStore& with_gradients(ParamStore& params) {
  params.add_gradients();
  return params;
}

}  // namespace

ClassificationStep::ClassificationStep(Classifier& model, const StepConfig& config)
    : model_(model), config_(config), optimizer_(with_gradients(model.params()), config.optimizer) {}

StepResult ClassificationStep::accumulate(ConstTensor images, const int32_t* labels, ConstTensor soft_targets, double weight,
                                          const Rng& rng, Context& ctx) {
  const int64_t batch = images.dim(0), classes = model_.config().classes;
  require(batch > 0, "a training step got no images");
  tape_.clear();
  ArenaScope scope(ctx.scratch());
  ctx.set_training(true, rng, weight);
  const Classifier::Output out = model_.forward(images, &tape_, ctx);
  const int heads = model_.heads();
  CrossEntropyArgs a;
  a.rows = batch;
  a.classes = classes;
  a.labels = labels;
  a.soft_targets = labels ? nullptr : soft_targets.data;
  a.smoothing = config_.label_smoothing;
  a.dloss = weight / static_cast<double>(batch * heads);
  const Tensor losses = ctx.scratch().take(Shape{batch}, ctx.dtype());
  a.loss = losses.data;
  StepResult result;
  result.loss = ctx.auxiliary_loss();
  std::array<Tensor, 2> dlogits;
  for (size_t h = 0; h < static_cast<size_t>(heads); ++h) {
    dlogits[h] = ctx.scratch().take(out.logits[h].shape, ctx.dtype());
    a.logits = out.logits[h].data;
    a.dlogits = dlogits[h].data;
    ctx.kernels().cross_entropy(a, ctx);
    ctx.kernels().cross_entropy_backward(a, ctx);
    for (int64_t b = 0; b < batch; ++b) result.loss += load_scalar(losses, b) / static_cast<double>(batch * heads);
    CrossEntropyArgs plain = a;
    plain.smoothing = 0;
    ctx.kernels().cross_entropy(plain, ctx);
    for (int64_t b = 0; b < batch; ++b) result.cross_entropy += load_scalar(losses, b) / static_cast<double>(batch * heads);
  }
  if (labels) {
    int32_t* predicted = ctx.scratch().take<int32_t>(batch);
    argmax_rows(out.logits[0], predicted);
    for (int64_t b = 0; b < batch; ++b) result.correct += predicted[b] == labels[b];
  }
  model_.backward(dlogits, {}, {}, {}, tape_, ctx);
  check(tape_.empty(), "the backward of the model left {} records on the tape", tape_.size());
  ctx.set_training(false);
  rng_ = rng;
  return result;
}

double ClassificationStep::update(double lr, Context& ctx) {
  const double norm = gradient_norm(model_.params(), ctx);
  if (!std::isfinite(norm)) return norm;
  optimizer_.step(lr, clip_scale(norm, config_.clip_norm), ctx);
  model_.params().zero_grads();
  // What layers draw anew after a step is a function of the step's random numbers too, so that a resumed run draws the same.
  ctx.set_training(true, rng_);
  model_.backbone().end_step(ctx);
  ctx.set_training(false);
  return norm;
}

void argmax_rows(ConstTensor logits, int32_t* index) {
  const int64_t rows = logits.rows(), classes = logits.last();
  for (int64_t r = 0; r < rows; ++r) {
    int32_t best = classes > 0 ? 0 : -1;
    for (int64_t c = 0; c < classes; ++c) {
      const double x = load_scalar(logits, r * classes + c);
      if (std::isnan(x)) {
        best = -1;
        break;
      }
      if (x > load_scalar(logits, r * classes + best)) best = static_cast<int32_t>(c);
    }
    index[r] = best;
  }
}

}  // namespace fovea
