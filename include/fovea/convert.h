// Weights in another element type.
#pragma once

#include "fovea/model.h"

namespace fovea {

struct ConvertOptions {
  std::string dtype = "auto";  // of the weights: f32, f16, bf16, int8; auto: as the source has them (f64 becomes f32)
  std::string to = "fovea";    // names and layout: "fovea" (timm's names, and the configuration in the metadata), or another code
                               // base's: timm, torchvision, huggingface, microsoft, ... (docs/checkpoints.md)
  Settings set;                // for what the source does not tell
  int64_t height = 0, width = 0;
  uint64_t seed = 0;           // only for a preset
};

struct Conversion {
  std::string source, from_dtype, out, dtype, dialect;
  int64_t parameters = 0, bytes = 0;  // of the file that was written
  double change = 0;                  // root mean square of the weights' changes over that of the weights
  std::string beside;                 // the config.json that was written with it, or empty
  std::vector<std::string> assumed, left_out;  // as in ModelInfo
};

// Writes the weights of `model` (a file, a run directory, a preset) to the safetensors file `out`, as a whole or not at all.
//   f16, bf16  every parameter; state that is no parameter stays f32
//   int8       the weights that products in int8 read, with a scale for each output beside them (docs/weights.md); the rest is f32
// What is loaded from it answers as the source does with the same dtype. Under another code base's names (options.to) the types are
// f64, f32, f16 and bf16; auto leaves every tensor as it is stored, so that a way there and back gives the same bits. What that code
// base needs besides is written too: its buffers, and a config.json beside `out`.
// Throws Error saying what is wrong, or what the code base has no place for.
Conversion convert(const std::string& model, const std::string& out, const ConvertOptions& options = {});

}  // namespace fovea
