// Any text, as the config.json or the preprocessor_config.json beside a checkpoint, states something or nothing, or gives an Error; what it
// states of the input can be taken over.
#include <string>
#include <tuple>
#include <vector>

#include "core/check.h"
#include "json_mutator.h"
#include "models/config.h"
#include "tasks/home_windows.h"
#include "tasks/preprocess.h"
#include "tasks/stated_architecture.h"
#include "tasks/stated_input.h"
#include "temporary_folder.h"

const std::vector<std::string>& known_words() {
  static const std::vector<std::string> kWords = {
      "architecture", "num_classes", "pretrained_cfg", "model_args", "input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std", "squash", "border",
      "bicubic", "random", "label_names", "label_descriptions", "id2label", "0", "1", "2", "LABEL_0", "image_size", "img_size", "window_size",
      "pretrained_window_sizes", "num_attention_heads", "num_heads", "layer_norm_eps", "hidden_act", "act_layer", "gelu", "gelu_new", "quick_gelu", "swish",
      "image_processor_type", "feature_extractor_type", "DeiTImageProcessor", "BitImageProcessor", "CLIPImageProcessor", "ConvNextImageProcessor",
      "ViTImageProcessor", "do_resize", "do_center_crop", "do_rescale", "do_normalize", "rescale_factor", "image_mean", "image_std", "resample", "size",
      "crop_size", "shortest_edge", "height", "width"};
  return kWords;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const FuzzFolder kFolder;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  kFolder.write("config.json", text);
  kFolder.write("preprocessor_config.json", text);
  const std::string path = kFolder / "model.safetensors";
  try {
    for (const std::string& side : fovea::windows_beside(path).sizes)
      if (side.empty()) __builtin_trap();
    (void)fovea::stated_architecture_beside(path);
  } catch (const fovea::Error&) {
  }
  try {
    const fovea::StatedInput stated = fovea::stated_beside(path);
    fovea::ModelConfig config;
    if (stated.size) std::tie(config.input.height, config.input.width) = *stated.size;
    fovea::apply_stated(stated, config.input);
    fovea::validate(config);
    for (const auto& [height, width] : {std::pair<int64_t, int64_t>{config.input.height, config.input.width}, {1, 16384}})
      (void)fovea::preprocess_of(config.input, height, width);
  } catch (const fovea::Error&) {
  }
  return 0;
}
