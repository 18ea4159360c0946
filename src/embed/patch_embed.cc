#include "embed/patch_embed.h"

#include <algorithm>
#include <array>

namespace fovea {

namespace {

struct StemRecord {
  ConstTensor normed;  // before the activation
};

struct EmbedRecord {
  Shape images;
};

}  // namespace

PatchEmbed::PatchEmbed(const Scope& scope, const PatchEmbedConfig& c) : config_(c) {
  require(c.patch > 0 && c.in_channels > 0, "a patch embedding needs a patch size and image channels");
  if (!c.convolutional_stem) {
    proj_.emplace(scope / "proj", Conv2dShape{c.in_channels, c.dim, c.patch, c.patch, c.patch, c.patch, 0, !c.drop_rest},
                  c.bias ? Bias::kYes : Bias::kNo, MapLayout::kChannelsFirst);
  } else {
    require(c.bias && !c.drop_rest, "a convolutional stem has biases and covers the whole image");
    require(c.patch == 2 || c.patch == 4 || c.patch == 8 || c.patch == 16,
            "a convolutional stem halves the image 1 to 4 times; the patch must be 2, 4, 8 or 16, got {}", c.patch);
    // The first convolution sees every pixel; each later one halves the map.
    std::vector<int64_t> strides = {1};
    for (int64_t p = c.patch; p > 1; p /= 2) strides.push_back(2);
    int64_t in = c.in_channels;
    for (size_t i = 0; i + 1 < strides.size(); ++i) {
      const int64_t out = std::max<int64_t>(8, c.dim >> (strides.size() - 1 - i));
      const Scope layer = scope / "stem" / static_cast<int64_t>(i);
      stem_.push_back({Conv2d(layer / "conv", Conv2dShape{in, out, 3, 3, strides[i], strides[i], 1, false}, Bias::kYes,
                              i == 0 ? MapLayout::kChannelsFirst : MapLayout::kChannelsLast),
                       LayerNorm(layer / "norm", out, c.norm_epsilon)});
      in = out;
    }
    proj_.emplace(scope / "proj", Conv2dShape{in, c.dim, 3, 3, 2, 2, 1, false}, Bias::kYes, MapLayout::kChannelsLast);
  }
  proj_->set_outermost();
  for (StemLayer& s : stem_) s.conv.set_outermost();
  if (c.norm) norm_.emplace(scope / "norm", c.dim, c.norm_epsilon);
}

int64_t PatchEmbed::out_height(int64_t height) const {
  for (const StemLayer& s : stem_) height = s.conv.out_height(height);
  return proj_->out_height(height);
}

int64_t PatchEmbed::out_width(int64_t width) const {
  for (const StemLayer& s : stem_) width = s.conv.out_width(width);
  return proj_->out_width(width);
}

void PatchEmbed::forward(ConstTensor images, Tensor y, Tape* tape, Context& ctx) const {
  require(images.shape.rank() == 4 && images.dim(1) == config_.in_channels, "images: got shape {}, expected [batch, {}, height, width]",
          images.shape, config_.in_channels);
  ArenaScope scope(ctx.scratch());
  ConstTensor x = images;
  int64_t height = images.dim(2), width = images.dim(3);
  for (const StemLayer& s : stem_) {
    height = s.conv.out_height(height);
    width = s.conv.out_width(width);
    const Tensor conv = ctx.activation(Shape{images.dim(0), height, width, s.norm.channels()}, tape);
    const Tensor normed = ctx.activation(conv.shape, tape), active = ctx.activation(conv.shape, tape);
    s.conv.forward(x, conv, tape, ctx);
    s.norm.forward(conv, normed, tape, ctx);
    ctx.kernels().activation(Activation::kGelu, conv.elements(), normed.data, active.data, ctx);
    if (tape) tape->push(StemRecord{normed});
    x = active;
  }
  if (tape == nullptr) return proj_->infer(x, norm_ ? &*norm_ : nullptr, y, ctx);
  const Tensor tokens = norm_ ? ctx.activation(y.shape, tape) : y;
  proj_->forward(x, tokens, tape, ctx);
  if (norm_) norm_->forward(tokens, y, tape, ctx);
  tape->push(EmbedRecord{images.shape});
}

void PatchEmbed::backward(ConstTensor dy, Tensor dimages, Tape& tape, Context& ctx) const {
  const auto record = tape.pop<EmbedRecord>();
  ArenaScope scope(ctx.scratch());
  ConstTensor d = dy;
  if (norm_) {
    const Tensor dtokens = ctx.scratch().take(dy.shape, dy.dtype);
    norm_->backward(dy, dtokens, Accumulate::kNo, tape, ctx);
    d = dtokens;
  }
  if (stem_.empty()) return proj_->backward(d, dimages, tape, ctx);
  std::array<Shape, 5> shapes;  // of the stem layers' outputs
  int64_t height = record.images[2], width = record.images[3];
  for (size_t i = 0; i < stem_.size(); ++i) {
    height = stem_[i].conv.out_height(height);
    width = stem_[i].conv.out_width(width);
    shapes[i] = Shape{record.images[0], height, width, stem_[i].norm.channels()};
  }
  Tensor dactive = ctx.scratch().take(shapes[stem_.size() - 1], ctx.dtype());
  proj_->backward(d, dactive, tape, ctx);
  for (size_t i = stem_.size(); i-- > 0;) {
    const auto stem = tape.pop<StemRecord>();
    ctx.kernels().activation_backward(Activation::kGelu, dactive.elements(), stem.normed.data, dactive.data, dactive.data, ctx);
    stem_[i].norm.backward(dactive, dactive, Accumulate::kNo, tape, ctx);
    const Tensor dinput = i > 0 ? ctx.scratch().take(shapes[i - 1], ctx.dtype()) : dimages;
    stem_[i].conv.backward(dactive, dinput, tape, ctx);
    dactive = dinput;
  }
}

double PatchEmbed::flops(int64_t batch, int64_t height, int64_t width) const {
  double total = 0;
  const auto add = [&](const Conv2d& conv) {
    height = conv.out_height(height);
    width = conv.out_width(width);
    const Conv2dShape& s = conv.shape();
    total += 2.0 * static_cast<double>(batch * height * width) * static_cast<double>(s.in * s.out * s.kernel_h * s.kernel_w);
  };
  for (const StemLayer& s : stem_) add(s.conv);
  add(*proj_);
  return total;
}

}  // namespace fovea
