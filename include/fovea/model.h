// Loading a model and asking it what an image shows.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace fovea {

// How work runs.
struct ExecutionOptions {
  int threads = 0;               // 0: all cores
  std::string kernels = "auto";  // auto, reference, cpu.baseline, cpu.avx2, cpu.avx512
};

// key=value changes to a model's configuration, in order: heads, mean, std, crop, interpolation, ... (see `fovea info`).
using Settings = std::vector<std::pair<std::string, std::string>>;

struct LoadOptions {
  Settings set;
  int64_t height = 0, width = 0;     // input size; 0: the model's own
  std::string kernels = "auto";      // the weights are kept in the form these kernels want
  std::string dtype = "auto";        // of weights and activations in matrix products: f32; bf16; int8 (by a scale for each output
                                     // and each token; the first and last layers in bf16). All else is f32. auto: int8 for a file whose
                                     // weights are in int8, else f32
  std::string attention;             // only for a preset: another attention SPEC than the preset's; empty: the preset's
  uint64_t seed = 0;                 // only for a preset: its weights are random
};

struct Prediction {
  std::string name;      // class name, or its number
  int64_t index = 0;
  double probability = 0;
};

// What the caller may want to know of a model.
struct ModelInfo {
  std::string name, family, attention, dialect, source;  // source: the file, or "preset (random weights)"
  std::string container;                              // of the file: safetensors, PyTorch zip, ...; empty for a preset
  std::string dtype;                                  // of the weights there: f32, f16, bf16, f64, int8
  int64_t parameters = 0, classes = 0;
  int64_t channels = 0, height = 0, width = 0;
  double gflop = 0;                                   // one image, multiply-adds times two
  std::vector<std::string> class_names;               // empty: numbers
  std::vector<std::pair<std::string, std::string>> preprocessing, architecture, metadata;
  std::vector<std::string> assumed;                   // what the file did not say and had to be assumed
  std::vector<std::string> left_out;                  // what the file holds beside the model: "'decoder.*' (24 tensors)"
};

// What a backbone makes of a batch of images; all values row-major.
struct Features {
  int64_t batch = 0, channels = 0;                    // of the tokens
  int64_t prefix_tokens = 0;                          // class, distillation and register tokens, which come first
  int64_t height = 0, width = 0;                      // of the map that the other tokens make up, in rows of `width`
  int64_t stride = 0;                                 // input pixels a token's side
  // (batch, prefix_tokens + height * width, channels), after the last norm; ViTs that average their tokens have theirs behind that,
  // so before it.
  std::vector<float> tokens;

  struct Stage {
    int64_t channels = 0, height = 0, width = 0, stride = 0;
    std::vector<float> values;                        // (batch, channels, height, width)
  };
  std::vector<Stage> pyramid;                         // hierarchical models: each stage's output before merging

  std::vector<float> pooled;                          // (batch, channels) of models that pool by attention (SigLIP's image features); else empty

  int64_t classes = 0;                                // 0: the model has no classification head
  std::vector<float> logits;                          // (batch, classes)
};

// Writes features to a .npz or .safetensors file, as a whole or not at all:
//   tokens (batch, tokens, channels), prefix_tokens (how many of the first are no part of the map), grid (height, width of the map),
//   stride; stage1, stage2, ... (batch, channels, height, width) and strides (one for each of them); pooled (batch, channels); logits
//   (batch, classes); and, in a .npz, files: the names `files` of the images.
// A .safetensors file holds the names and `model` in its metadata. Throws Error for another ending, or when writing fails.
void save_features(const Features& features, const std::string& out, const std::vector<std::string>& files, const std::string& model);

// Already normalised images: (batch, channels, height, width) row-major.
struct ImageBatch {
  int64_t batch = 0, channels = 0, height = 0, width = 0;
  std::vector<float> values;
};
// Reads them from a .npy, .safetensors (its only tensor, or the one named x, input, images or pixel_values) or .bin file: floats
// shaped [batch,] channels, height, width. A .bin file holds 32-bit little-endian floats alone: its images have the given size.
// Throws Error saying what the file holds instead.
ImageBatch read_image_batch(const std::filesystem::path& file, int64_t channels, int64_t height = 0, int64_t width = 0);
bool is_image_batch(const std::filesystem::path& file);  // by the end of its name

// A model with its weights. Constant after loading: any number of threads may use one model, each with its own Session.
class Model {
 public:
  // `model`: a preset name (random weights), a weights file in any known dialect, or a run directory that train() made.
  // Throws Error with one sentence that says what is wrong and what to do.
  static Model load(const std::string& model, const LoadOptions& options = {});

  ModelInfo info() const;
  // What load(model, options).info() says, without reading or drawing the weights.
  static ModelInfo describe(const std::string& model, const LoadOptions& options = {});

  struct Impl;
  explicit Model(std::shared_ptr<const Impl> impl);
  const Impl& impl() const { return *impl_; }

 private:
  std::shared_ptr<const Impl> impl_;
};

// One caller's workspace over a model; not for several threads at once.
class Session {
 public:
  explicit Session(const Model& model, const ExecutionOptions& options = {});
  ~Session();
  Session(Session&&) noexcept;

  // The `topk` most probable classes of an image file, best first. Throws Error when the file is no readable image.
  std::vector<Prediction> classify(const std::filesystem::path& image, int topk = 5);

  // Several images as one batch: one entry a file; `error` says why there are no predictions.
  struct Answer {
    std::filesystem::path file;
    std::vector<Prediction> top;
    std::string error;
  };
  std::vector<Answer> classify(const std::vector<std::filesystem::path>& images, int topk = 5);

  // Already normalised images, (batch, channels, height, width) row-major; returns logits (batch, classes) row-major.
  // Throws Error when the model has no classification head.
  std::vector<float> logits(const float* images, int64_t batch, int64_t height, int64_t width);

  // Features of already normalised images of any size, or of image files brought to the model's input size.
  // Throws Error when a file is no readable image.
  Features features(const float* images, int64_t batch, int64_t height, int64_t width);
  Features features(const std::vector<std::filesystem::path>& images);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The image files in a folder (recursively, by content-independent extension list) or the file itself, sorted.
std::vector<std::filesystem::path> list_images(const std::filesystem::path& file_or_folder);

}  // namespace fovea
