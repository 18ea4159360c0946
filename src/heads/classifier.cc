#include "heads/classifier.h"

namespace fovea {

namespace {

struct ClassifierRecord {
  TokenGrid grid;
  Tensor features;
};

// Row of the class (0) or distillation (1) token of each batch element.
const std::vector<int32_t>& token_index(const TokenGrid& g, int token, Context& ctx) {
  return ctx.cached<std::vector<int32_t>>(fmt::format("token {} of {} x {}", token, g.batch, g.tokens()), [&] {
    std::vector<int32_t> index;
    for (int64_t b = 0; b < g.batch; ++b) index.push_back(static_cast<int32_t>(b * g.tokens() + token));
    return index;
  });
}

}  // namespace

Classifier::Classifier(const ModelConfig& config) : config_(config) {
  const Scope root(params_);
  backbone_ = make_backbone(config, root);
  const int64_t c = backbone_->channels();
  if (config.hierarchical()) {
    head_.emplace(config.family == "cswin" ? root / "head" : root / "head" / "fc", c, config.classes, Bias::kYes);
    head_->set_outermost();
    return;
  }
  if (config.pool == "avg") fc_norm_.emplace(root / "fc_norm", c, config.norm_epsilon);
  head_.emplace(root / "head", c, config.classes, Bias::kYes);
  head_->set_outermost();
  if (!config.distillation_token) return;
  head_dist_.emplace(root / "head_dist", c, config.classes, Bias::kYes);
  head_dist_->set_outermost();
}

// (B, C) of one head: the token, or the mean over the map (and its norm).
ConstTensor Classifier::pooled(const BackboneOutput& out, int head, Tape* tape, Context& ctx) const {
  const int64_t c = backbone_->channels();
  const TokenGrid& g = out.grid;
  const Tensor p = ctx.activation(Shape{g.batch, c}, tape);
  if (config_.hierarchical() || config_.pool == "avg") {
    ctx.kernels().mean_tokens(g.batch, g.tokens(), g.prefix, c, out.features.data, p.data, ctx);
    if (!fc_norm_) return p;
    const Tensor normed = ctx.activation(p.shape, tape);
    fc_norm_->forward(p, normed, tape, ctx);
    return normed;
  }
  ctx.kernels().gather_rows(g.batch, c, out.features.data, token_index(g, head, ctx).data(), p.data, ctx);
  return p;
}

Classifier::Output Classifier::forward(ConstTensor images, Tape* tape, Context& ctx) const {
  Output out;
  out.backbone = backbone_->forward(images, tape, ctx);
  for (int h = 0; h < heads(); ++h) {
    Tensor& logits = out.logits[static_cast<size_t>(h)];
    logits = ctx.activation(Shape{out.backbone.grid.batch, config_.classes}, tape);
    (h == 0 ? head_ : head_dist_)->forward(pooled(out.backbone, h, tape, ctx), logits, tape, ctx);
  }
  if (tape) tape->push(ClassifierRecord{out.backbone.grid, out.backbone.features});
  return out;
}

void Classifier::classify(ConstTensor images, Tensor logits, Context& ctx) const {
  ArenaScope scope(ctx.scratch());
  const Output out = forward(images, nullptr, ctx);
  std::memcpy(logits.data, out.logits[0].data, logits.bytes());
  if (heads() == 1) return;
  const int64_t n = logits.elements();
  const KernelTable& k = ctx.kernels();
  k.add(n, logits.data, out.logits[1].data, logits.data, ctx);
  k.scale_add(n, -0.5, logits.data, logits.data, ctx);
}

void Classifier::backward(const std::array<Tensor, 2>& dlogits, ConstTensor dfeatures, const std::vector<Tensor>& dpyramid,
                          Tensor dimages, Tape& tape, Context& ctx) const {
  const auto r = tape.pop<ClassifierRecord>();
  ArenaScope scope(ctx.scratch());
  const KernelTable& k = ctx.kernels();
  const int64_t c = backbone_->channels();
  const TokenGrid& g = r.grid;
  const bool mean = config_.hierarchical() || config_.pool == "avg";
  const Tensor d = ctx.scratch().take(r.features.shape, r.features.dtype);
  const Tensor dpooled = ctx.scratch().take(Shape{g.batch, c}, ctx.dtype());
  if (!mean) d.zero();
  for (int h = heads() - 1; h >= 0; --h) {
    (h == 0 ? head_ : head_dist_)->backward(dlogits[static_cast<size_t>(h)], dpooled, Accumulate::kNo, tape, ctx);
    if (fc_norm_) fc_norm_->backward(dpooled, dpooled, Accumulate::kNo, tape, ctx);
    if (mean)
      k.mean_tokens_backward(g.batch, g.tokens(), g.prefix, c, dpooled.data, d.data, ctx);
    else
      k.scatter_add_rows(g.batch, c, dpooled.data, token_index(g, h, ctx).data(), d.data, ctx);
  }
  if (!dfeatures.empty()) k.scale_add(d.elements(), 1.0, dfeatures.data, d.data, ctx);
  backbone_->backward(d, dpyramid, dimages, tape, ctx);
}

double Classifier::flops(int64_t batch, int64_t height, int64_t width) const {
  return backbone_->flops(batch, height, width) +
         2.0 * static_cast<double>(heads() * batch * backbone_->channels() * config_.classes);
}

}  // namespace fovea
