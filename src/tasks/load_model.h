// From a name to a classifier with weights: presets, weights files in any known dialect, run directories.
#pragma once

#include <memory>

#include "fovea/model.h"
#include "heads/classifier.h"
#include "weights/key_map.h"

namespace fovea {

struct LoadedModel {
  std::unique_ptr<Classifier> classifier;
  int64_t height = 0, width = 0;        // input size to use: the one asked for, else the model's own
  std::vector<std::string> assumed;     // sentences: what the file did not say
  std::vector<std::string> left_out;    // groups of tensors beside the model: "'decoder.*' (24 tensors)"
  std::string dialect, source;          // "fovea", "timm", ...; the file, or "preset (random weights)"
  std::string container;                // of the file: "safetensors", ...; empty for a preset
  std::string dtype;                    // that the source keeps most of its weights in: f32, f16, bf16, f64, int8
  ProductType type = ProductType::kOwn; // of products, where it was loaded for inference
  WeightFile::Metadata metadata;        // the file's own, without the configuration
};

// In the metadata of a file with another code base's names: our configuration, for what those do not tell.
inline constexpr const char* kForeignConfigKey = "fovea.model";

// A model before its weights are read: its classifier has no memory yet.
struct OpenedModel {
  LoadedModel loaded;
  WeightFile file;        // empty for a preset
  MappedWeights weights;  // the file's tensors under our names: what the classifier wants, exactly
};
OpenedModel open_model(const std::string& model, const LoadOptions& options, const std::string& untold_attention = "");

// Throws Error with one sentence for a misspelt preset, a missing or unreadable file, weights that do not fit, wrong
// settings. Weights are in `dtype` and not packed. `options.kernels` is not looked at. `untold_attention` is that of files whose
// tensors do not tell theirs (Swin V2 in timm's names); empty: such files need a preset in their name or --set attention.
LoadedModel load_model(const std::string& model, const LoadOptions& options, DType dtype, const std::string& untold_attention = "");

// The same for inference with the kernels of `ctx`: weights are packed while they are read, for products in `options.dtype`, and only
// what layers read plain is kept in plain form. The file is given back page by page, so that about one copy is in memory.
LoadedModel load_for_inference(const std::string& model, const LoadOptions& options, Context& ctx);

// f32, bf16 or int8: how the products of an inference read weights and activations. Throws Error for another name. "auto" is f32, as
// long as no file in int8 is meant.
ProductType product_type(const std::string& dtype);
ProductType training_product_type(const std::string& dtype);  // f32 or bf16
std::string_view name_of(ProductType type);

// The --set options on a configuration. Their order does not matter: the number of channels goes first, and one value of
// mean or std serves all channels. Throws Error naming the key.
void apply_settings(ModelConfig& config, const Settings& settings);

}  // namespace fovea
