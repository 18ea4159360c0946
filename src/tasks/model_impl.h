// What the public Model and Session hold.
#pragma once

#include "core/context.h"
#include "fovea/model.h"
#include "image/imagenet_classes.h"
#include "image/transforms.h"
#include "kernels/kernel_table.h"
#include "tasks/load_model.h"

namespace fovea {

// ImageNet's where the model has none of its own and as many as one of its lists; else empty.
inline const std::vector<std::string>& class_names_of(const ModelConfig& config) {
  const ImageNetClasses* known = config.class_names.empty() ? imagenet_classes(config.classes) : nullptr;
  return known != nullptr ? known->names : config.class_names;
}

// Constant once made; its weights are packed for `table`.
struct Model::Impl {
  LoadedModel loaded;
  const KernelTable* table = nullptr;
  Preprocess preprocess;

  const Classifier& classifier() const { return *loaded.classifier; }
  const ModelConfig& config() const { return loaded.classifier->config(); }
  const std::vector<std::string>& class_names() const { return class_names_of(config()); }
  std::string class_name(int64_t index) const {
    const auto& names = class_names();
    return names.empty() ? std::to_string(index) : names[static_cast<size_t>(index)];
  }
};

struct Session::Impl {
  Impl(const Model& model, const ExecutionOptions& options);

  Model model;  // shares the weights
  Context ctx;
  std::vector<float> pixels;
  std::vector<double> logits;
};

// Throws Error when the model has no classification head, saying what can be done.
void require_head(const Model::Impl& model);
// Throws Error with the reasons when images of this size cannot run.
void require_size(const Model::Impl& model, int64_t height, int64_t width);

// The table for a session of `model`: its own. Throws Error when `kernels` asks for another one.
const KernelTable& table_for(const Model::Impl& model, const std::string& kernels);

// images (B, C, H, W) f32 -> logits (B, classes) f64, row-major. Takes its memory from ctx.scratch() and gives it back.
void classify_batch(const Model::Impl& model, ConstTensor images, std::vector<double>& logits, Context& ctx);

}  // namespace fovea
