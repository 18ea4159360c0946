// Session::features: tokens, pyramid and logits of images.
#include <algorithm>

#include "core/convert.h"
#include "image/decode.h"
#include "tasks/model_impl.h"
#include "tasks/preprocess.h"

namespace fovea {

namespace {

constexpr int64_t kTogether = 16;  // images in one pass

void append_values(const Tensor& from, std::vector<float>& to) {
  for (int64_t i = 0; i < from.elements(); ++i) to.push_back(static_cast<float>(load_scalar(from, i)));
}

// (B, H * W, C) -> (B, C, H, W).
void append_map(const FeatureMap& from, std::vector<float>& to) {
  const int64_t tokens = from.grid.height * from.grid.width, channels = from.tokens.last();
  for (int64_t b = 0; b < from.grid.batch; ++b)
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t t = 0; t < tokens; ++t) to.push_back(static_cast<float>(load_scalar(from.tokens, (b * tokens + t) * channels + c)));
}

// Adds the features of one pass to those of the passes before.
void append_features(const Classifier& classifier, ConstTensor images, Features& f, Context& ctx) {
  ctx.scratch().reset();
  ArenaScope scope(ctx.scratch());
  if (images.dtype != ctx.dtype()) {
    const Tensor converted = ctx.scratch().take(images.shape, ctx.dtype());
    convert(images, converted);
    images = converted;
  }
  const Classifier::Output out = classifier.forward(images, nullptr, ctx);
  const BackboneOutput& b = out.backbone;
  f.batch += b.grid.batch;
  f.channels = b.features.last();
  f.prefix_tokens = b.grid.prefix;
  f.height = b.grid.height;
  f.width = b.grid.width;
  f.stride = b.pyramid.empty() ? classifier.config().patch : b.pyramid.back().stride;
  append_values(b.features, f.tokens);
  f.pyramid.resize(b.pyramid.size());
  for (size_t i = 0; i < b.pyramid.size(); ++i) {
    const FeatureMap& map = b.pyramid[i];
    f.pyramid[i].channels = map.tokens.last();
    f.pyramid[i].height = map.grid.height;
    f.pyramid[i].width = map.grid.width;
    f.pyramid[i].stride = map.stride;
    append_map(map, f.pyramid[i].values);
  }
  if (!out.pooled.empty()) append_values(out.pooled, f.pooled);
  f.classes = classifier.config().classes;
  const int heads = f.classes > 0 ? classifier.heads() : 0;
  const int64_t values = b.grid.batch * f.classes;
  for (int64_t i = 0; i < values && heads > 0; ++i) {  // evaluation takes the heads' mean
    double sum = 0;
    for (int h = 0; h < heads; ++h) sum += load_scalar(out.logits[static_cast<size_t>(h)], i);
    f.logits.push_back(static_cast<float>(sum / heads));
  }
}

}  // namespace

Features Session::features(const float* images, int64_t batch, int64_t height, int64_t width) {
  require(batch >= 0 && height > 0 && width > 0, "features: got {} images of {}x{}", batch, height, width);
  const Model::Impl& model = impl_->model.impl();
  require_size(model, height, width);
  Features f;
  const int64_t channels = model.config().input.channels;
  for (int64_t begin = 0; begin < batch; begin += kTogether) {
    const Shape shape{std::min(kTogether, batch - begin), channels, height, width};
    append_features(model.classifier(), ConstTensor(images + begin * channels * height * width, shape, DType::kF32), f, impl_->ctx);
  }
  return f;
}

Features Session::features(const std::vector<std::filesystem::path>& images) {
  const Model::Impl& model = impl_->model.impl();
  require_pictures(model.config().input);
  const Preprocess& p = model.preprocess;
  const size_t size = static_cast<size_t>(p.channels) * static_cast<size_t>(p.height) * static_cast<size_t>(p.width);
  Features f;
  const auto together = static_cast<size_t>(kTogether);
  for (size_t begin = 0; begin < images.size(); begin += together) {
    const size_t count = std::min(together, images.size() - begin);
    impl_->pixels.resize(count * size);
    impl_->ctx.pool().for_each(static_cast<int64_t>(count), [&](int64_t i) {
      const auto n = static_cast<size_t>(i);
      preprocess(read_image(images[begin + n]), p, impl_->pixels.data() + n * size);
    });
    const Shape shape{static_cast<int64_t>(count), p.channels, p.height, p.width};
    append_features(model.classifier(), ConstTensor(impl_->pixels.data(), shape, DType::kF32), f, impl_->ctx);
  }
  return f;
}

}  // namespace fovea
