// Any names and shapes of tensors, in a file with any metadata and any config.json beside it, are those of a model that can be built, or
// give an Error. The input is JSON: {"file": name, "tensors": {name: [dimensions]}, "metadata": {key: text}, "config": a config.json}. Tensors
// are f32 and zeros, which a file with a hole holds without taking room.
#include <unistd.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/json.h"
#include "json_mutator.h"
#include "tasks/load_model.h"
#include "temporary_folder.h"

const std::vector<std::string>& known_words() {
  static const std::vector<std::string> kWords = {
      "file", "tensors", "metadata", "config", "fovea.config", "fovea.model", "swinv2_tiny_window8_256.bin", "vit_tiny_patch16_224.bin",
      "window_size", "pretrained_window_sizes", "image_size", "architecture", "model_args", "num_attention_heads", "pretrained_cfg", "input_size",
      "patch_embed.proj.weight", "pos_embed", "cls_token", "dist_token", "reg_token", "head.weight", "head.fc.weight", "head_dist.weight", "norm.weight",
      "fc_norm.weight", "norm0.weight", "norm_pre.weight", "pre_logits.fc.weight", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight",
      "blocks.0.attn.q_norm.weight", "layers.0.blocks.0.attn.logit_scale", "layers.0.blocks.0.attn.relative_position_bias_table",
      "layers.0.blocks.0.attn.relative_coords_table", "layers.0.blocks.0.attn.relative_position_index", "layers.0.blocks.0.attn.cpb_mlp.0.weight"};
  return kWords;
}

namespace {

using json_mutator::Json;

constexpr int64_t kMostElements = int64_t{1} << 22;

// A file of safetensors with these tensors; false where it would be too large.
bool write_file(const std::string& path, const Json& tensors, const Json& metadata) {
  Json header = Json::object();
  if (metadata.is_object())
    for (const auto& [key, value] : metadata.items()) header["__metadata__"][key] = value.is_string() ? value : Json(value.dump());
  int64_t end = 0;
  for (const auto& [name, value] : tensors.items()) {
    std::vector<int64_t> dims;
    if (!fovea::read_json(value, dims)) continue;
    int64_t elements = 1;
    for (const int64_t d : dims)
      if (d < 0 || __builtin_mul_overflow(elements, d, &elements)) return false;
    if (elements > kMostElements - end / 4) return false;
    header[name] = {{"dtype", "F32"}, {"shape", dims}, {"data_offsets", {end, end + 4 * elements}}};
    end += 4 * elements;
  }
  const std::string text = header.dump(-1, ' ', false, Json::error_handler_t::replace);
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(text.size() >> (8 * i));
  std::ofstream(path, std::ios::binary) << bytes << text;
  return ::truncate(path.c_str(), static_cast<off_t>(8 + text.size()) + end) == 0;
}

void open(const std::string& path, const fovea::LoadOptions& options) {
  try {
    const fovea::OpenedModel opened = fovea::open_model(path, options, "window_v2:size=8");
    const fovea::LoadedModel& m = opened.loaded;
    if (!(m.classifier->flops(1, m.height, m.width) >= 0)) __builtin_trap();
  } catch (const fovea::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const FuzzFolder kFolder;
  const auto input = fovea::parse_json<Json>({reinterpret_cast<const char*>(data), size});
  if (!input.is_object() || !input.contains("tensors") || !input["tensors"].is_object()) return 0;
  std::string name = "model.safetensors";
  if (input.contains("file") && input["file"].is_string()) name = input["file"].get<std::string>();
  if (name.size() > 200 || name.find('/') != std::string::npos || name.find('\0') != std::string::npos || name == "config.json" || name.empty() || name[0] == '.')
    return 0;
  const std::string path = kFolder / name, beside = kFolder / "config.json";
  if (write_file(path, input["tensors"], input.contains("metadata") ? input["metadata"] : Json())) {
    if (input.contains("config")) kFolder.write("config.json", input["config"].dump(-1, ' ', false, Json::error_handler_t::replace));
    open(path, {});
    fovea::LoadOptions odd;
    odd.height = 37;
    odd.width = 500;
    odd.set = {{"heads", "4"}, {"stage_heads", "2,4,8,16"}, {"mean", "0.5"}};
    open(path, odd);
  }
  ::unlink(path.c_str());
  ::unlink(beside.c_str());
  return 0;
}
