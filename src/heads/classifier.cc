#include "heads/classifier.h"

#include "models/vit.h"

namespace fovea {

namespace {

struct ClassifierRecord {
  TokenGrid grid;
  Tensor features;
};

struct RepresentationRecord {
  ConstTensor before_activation;
};

enum class Pooling : uint8_t { kToken, kMean, kTokenAndMean, kAttention };

Pooling pooling_of(const ModelConfig& c) {
  if (c.hierarchical() || c.pool == "avg") return Pooling::kMean;
  if (c.pool == "map") return Pooling::kAttention;
  return c.pool == "token_avg" ? Pooling::kTokenAndMean : Pooling::kToken;
}

// Row of the class (0) or distillation (1) token of each batch element.
const std::vector<int32_t>& token_index(const TokenGrid& g, int token, Context& ctx) {
  return ctx.cached<std::vector<int32_t>>(fmt::format("token {} of {} x {}", token, g.batch, g.tokens()), [&] {
    std::vector<int32_t> index;
    for (int64_t b = 0; b < g.batch; ++b) index.push_back(static_cast<int32_t>(b * g.tokens() + token));
    return index;
  });
}

// Token and mean side by side, (B, 2 C), are rows by turns of (2 B, C): the class token's row for each even one, and the odd rows.
struct SideBySide {
  std::vector<int32_t> token, odd;
};

const SideBySide& side_by_side(const TokenGrid& g, Context& ctx) {
  return ctx.cached<SideBySide>(fmt::format("token and mean of {} x {}", g.batch, g.tokens()), [&] {
    SideBySide s;
    for (int64_t b = 0; b < g.batch; ++b) {
      s.token.push_back(static_cast<int32_t>(b * g.tokens()));
      s.token.push_back(-1);
      s.odd.push_back(static_cast<int32_t>(2 * b + 1));
    }
    return s;
  });
}

AttentionPoolConfig attention_pool(const ModelConfig& c) {
  AttentionPoolConfig p;
  p.dim = c.dim;
  p.heads = c.heads;
  p.mlp_hidden = mlp_width(c);
  p.activation = activation_named(c.activation);
  p.norm_epsilon = c.norm_epsilon;
  if (!c.pool_prefix) p.first_token = vit_tokens(c).prefix();
  return p;
}

}  // namespace

Classifier::Classifier(const ModelConfig& config) : config_(config) {
  const Scope root(params_);
  backbone_ = make_backbone(config, root);
  const int64_t c = backbone_->channels();
  if (config.hierarchical()) {
    if (config.classes == 0) return;
    head_.emplace(config.family == "cswin" ? root / "head" : root / "head" / "fc", c, config.classes, Bias::kYes);
    head_->set_outermost();
    return;
  }
  if (pooling_of(config) == Pooling::kAttention) attn_pool_.emplace(root / "attn_pool", attention_pool(config));
  if (config.norms_pooled()) fc_norm_.emplace(root / "fc_norm", c, config.norm_epsilon);
  if (config.classes == 0) return;
  int64_t width = config.pool == "token_avg" ? 2 * c : c;
  if (config.representation > 0) {
    representation_.emplace(root / "pre_logits" / "fc", width, config.representation, Bias::kYes);
    representation_->set_outermost();
    width = config.representation;
  }
  head_.emplace(root / "head", width, config.classes, config.head_bias ? Bias::kYes : Bias::kNo);
  head_->set_outermost();
  if (!config.distillation_token || !config.distillation_head) return;
  head_dist_.emplace(root / "head_dist", c, config.classes, Bias::kYes);
  head_dist_->set_outermost();
}

// (B, C) of one head: the token, the mean over the map, or what attention pools (and their norm); (B, 2 C): token and mean.
Tensor Classifier::pooled(const BackboneOutput& out, int head, Tape* tape, Context& ctx) const {
  const int64_t c = backbone_->channels();
  const TokenGrid& g = out.grid;
  const KernelTable& k = ctx.kernels();
  const Pooling pooling = pooling_of(config_);
  const Tensor p = ctx.activation(Shape{g.batch, pooling == Pooling::kTokenAndMean ? 2 * c : c}, tape);
  if (pooling == Pooling::kMean) {
    k.mean_tokens(g.batch, g.tokens(), g.prefix, c, out.features.data, p.data, ctx);
  } else if (pooling == Pooling::kAttention) {
    attn_pool_->forward(out.features, p, tape, ctx);
  } else if (pooling == Pooling::kToken) {
    k.gather_rows(g.batch, c, out.features.data, token_index(g, head, ctx).data(), p.data, ctx);
  } else {
    ArenaScope scope(ctx.scratch());
    const Tensor mean = ctx.scratch().take(Shape{g.batch, c}, ctx.dtype());
    const SideBySide& rows = side_by_side(g, ctx);
    k.gather_rows(2 * g.batch, c, out.features.data, rows.token.data(), p.data, ctx);
    k.mean_tokens(g.batch, g.tokens(), g.prefix, c, out.features.data, mean.data, ctx);
    k.scatter_add_rows(g.batch, c, mean.data, rows.odd.data(), p.data, ctx);
  }
  if (!fc_norm_) return p;
  const Tensor normed = ctx.activation(p.shape, tape);
  fc_norm_->forward(p, normed, tape, ctx);
  return normed;
}

// dfeatures (B, N, C), which kMean and kAttention write and the others add to.
void Classifier::pooled_backward(ConstTensor dpooled, int head, const TokenGrid& g, Tensor dfeatures, Tape& tape, Context& ctx) const {
  const int64_t c = backbone_->channels();
  const KernelTable& k = ctx.kernels();
  switch (pooling_of(config_)) {
    case Pooling::kMean: k.mean_tokens_backward(g.batch, g.tokens(), g.prefix, c, dpooled.data, dfeatures.data, ctx); break;
    case Pooling::kToken: k.scatter_add_rows(g.batch, c, dpooled.data, token_index(g, head, ctx).data(), dfeatures.data, ctx); break;
    case Pooling::kAttention: attn_pool_->backward(dpooled, dfeatures, tape, ctx); break;
    case Pooling::kTokenAndMean: {
      ArenaScope scope(ctx.scratch());
      const Tensor dmean = ctx.scratch().take(Shape{g.batch, c}, ctx.dtype());
      const SideBySide& rows = side_by_side(g, ctx);
      k.gather_rows(g.batch, c, dpooled.data, rows.odd.data(), dmean.data, ctx);
      k.mean_tokens_backward(g.batch, g.tokens(), g.prefix, c, dmean.data, dfeatures.data, ctx);
      k.scatter_add_rows(2 * g.batch, c, dpooled.data, rows.token.data(), dfeatures.data, ctx);
      break;
    }
  }
}

ConstTensor Classifier::represented(ConstTensor pooled, Tape* tape, Context& ctx) const {
  if (!representation_) return pooled;
  const Tensor before = ctx.activation(Shape{pooled.dim(0), config_.representation}, tape), after = ctx.activation(before.shape, tape);
  representation_->forward(pooled, before, tape, ctx);
  ctx.kernels().activation(Activation::kTanh, before.elements(), before.data, after.data, ctx);
  if (tape) tape->push(RepresentationRecord{before});
  return after;
}

Classifier::Output Classifier::forward(ConstTensor images, Tape* tape, Context& ctx) const {
  Output out;
  out.backbone = backbone_->forward(images, tape, ctx);
  for (int h = 0; h < heads(); ++h) {
    Tensor& logits = out.logits[static_cast<size_t>(h)];
    logits = ctx.activation(Shape{out.backbone.grid.batch, config_.classes}, tape);
    const Tensor read = pooled(out.backbone, h, tape, ctx);
    if (attn_pool_) out.pooled = read;
    (h == 0 ? head_ : head_dist_)->forward(represented(read, tape, ctx), logits, tape, ctx);
  }
  if (attn_pool_ && heads() == 0 && !tape) out.pooled = pooled(out.backbone, 0, tape, ctx);
  if (tape) tape->push(ClassifierRecord{out.backbone.grid, out.backbone.features});
  return out;
}

void Classifier::classify(ConstTensor images, Tensor logits, Context& ctx) const {
  require(heads() > 0, "{} has no classification head, only features", config_.name.empty() ? "the model" : config_.name);
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
  const Tensor d = ctx.scratch().take(r.features.shape, r.features.dtype);
  const Tensor dpooled = ctx.scratch().take(Shape{g.batch, config_.pool == "token_avg" && !config_.hierarchical() ? 2 * c : c}, ctx.dtype());
  if (heads() == 0 || pooling_of(config_) == Pooling::kToken) d.zero();  // the others write it
  for (int h = heads() - 1; h >= 0; --h) {
    const Tensor dinput = representation_ ? ctx.scratch().take(Shape{g.batch, config_.representation}, ctx.dtype()) : dpooled;
    (h == 0 ? head_ : head_dist_)->backward(dlogits[static_cast<size_t>(h)], dinput, Accumulate::kNo, tape, ctx);
    if (representation_) {
      const auto z = tape.pop<RepresentationRecord>().before_activation;
      k.activation_backward(Activation::kTanh, z.elements(), z.data, dinput.data, dinput.data, ctx);
      representation_->backward(dinput, dpooled, Accumulate::kNo, tape, ctx);
    }
    if (fc_norm_) fc_norm_->backward(dpooled, dpooled, Accumulate::kNo, tape, ctx);
    pooled_backward(dpooled, h, g, d, tape, ctx);
  }
  if (!dfeatures.empty()) k.scale_add(d.elements(), 1.0, dfeatures.data, d.data, ctx);
  backbone_->backward(d, dpyramid, dimages, tape, ctx);
}

double Classifier::flops(int64_t batch, int64_t height, int64_t width) const {
  double total = backbone_->flops(batch, height, width);
  const auto add = [&](const std::optional<Linear>& layer) {
    if (layer) total += 2.0 * static_cast<double>(batch * layer->in() * layer->out());
  };
  if (attn_pool_) {
    ModelConfig sized = config_;
    sized.position_grid.clear();
    sized.input.height = height;
    sized.input.width = width;
    const TokenEmbedConfig tokens = vit_tokens(sized);
    total += attn_pool_->flops(batch, tokens.prefix() + tokens.grid_height * tokens.grid_width);
  }
  add(representation_);
  add(head_);
  add(head_dist_);
  return total;
}

}  // namespace fovea
