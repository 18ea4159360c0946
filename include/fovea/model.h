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
                                     // and each token; the first and last layers in f32). All else is f32. auto: int8 for a file whose
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
  std::string dtype;                                  // of the weights there: f32, f16, bf16, f64, int8
  int64_t parameters = 0, classes = 0;
  int64_t channels = 0, height = 0, width = 0;
  double gflop = 0;                                   // one image, multiply-adds times two
  std::vector<std::string> class_names;               // empty: numbers
  std::vector<std::pair<std::string, std::string>> preprocessing, architecture, metadata;
  std::vector<std::string> assumed;                   // what the file did not say and had to be assumed
};

// A model with its weights. Constant after loading: any number of threads may use one model, each with its own Session.
class Model {
 public:
  // `model`: a preset name (random weights), a weights file in any known dialect, or a run directory that train() made.
  // Throws Error with one sentence that says what is wrong and what to do.
  static Model load(const std::string& model, const LoadOptions& options = {});

  ModelInfo info() const;

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
  std::vector<float> logits(const float* images, int64_t batch, int64_t height, int64_t width);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The image files in a folder (recursively, by content-independent extension list) or the file itself, sorted.
std::vector<std::filesystem::path> list_images(const std::filesystem::path& file_or_folder);

}  // namespace fovea
