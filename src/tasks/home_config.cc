#include "tasks/home_config.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "attention/spec.h"
#include "core/check.h"
#include "weights/atomic_file.h"

namespace fovea {

namespace {

using HomeJson = nlohmann::ordered_json;

std::string class_label(const ModelConfig& c, int64_t i) {
  return c.class_names.empty() ? fmt::format("LABEL_{}", i) : c.class_names[static_cast<size_t>(i)];
}

// One number where both sides are equal, which is what transformers writes.
HomeJson sides(int64_t height, int64_t width) { return height == width ? HomeJson(height) : HomeJson({height, width}); }

std::string hugging_face_activation(const std::string& ours) {
  if (ours == "gelu_tanh") return "gelu_pytorch_tanh";
  return ours == "silu" || ours == "relu" || ours == "quick_gelu" ? ours : "gelu";
}

std::vector<int64_t> spec_sizes(const ModelConfig& c, const std::string& option) {
  std::vector<int64_t> out;
  for (const AttentionSpec& s : parse_attention_stages(c.attention)) {
    const auto at = s.options.find(option);
    out.push_back(at == s.options.end() ? 0 : std::strtoll(at->second.c_str(), nullptr, 10));
  }
  while (out.size() < c.depths.size()) out.push_back(out.empty() ? 0 : out.back());
  return out;
}

// What all of transformers' vision models have.
HomeJson hugging_face_common(const ModelConfig& c, const char* type, const std::string& architecture) {
  HomeJson j = {{"architectures", {architecture}},
                {"model_type", type},
                {"image_size", c.position_grid.empty() ? sides(c.input.height, c.input.width) : sides(c.position_grid[0] * c.patch, c.position_grid[1] * c.patch)},
                {"patch_size", c.patch},
                {"num_channels", c.input.channels},
                {"hidden_act", hugging_face_activation(c.activation)},
                {"layer_norm_eps", c.norm_epsilon},
                {"qkv_bias", c.qkv_bias},
                {"hidden_dropout_prob", 0.0},
                {"attention_probs_dropout_prob", 0.0}};
  if (c.classes > 0) {
    HomeJson names = HomeJson::object(), numbers = HomeJson::object();
    for (int64_t i = 0; i < c.classes; ++i) {
      names[std::to_string(i)] = class_label(c, i);
      numbers[class_label(c, i)] = i;
    }
    j["id2label"] = names;
    j["label2id"] = numbers;
  }
  return j;
}

HomeJson hugging_face_tower(const std::string& base, const ModelConfig& c);

HomeJson hugging_face_vit(std::string_view dialect, const ModelConfig& c) {
  if (dialect.starts_with("huggingface-clip")) return hugging_face_tower("CLIP", c);
  if (dialect.starts_with("huggingface-siglip")) return hugging_face_tower("Siglip", c);
  const bool dinov2 = dialect.find("dinov2") != std::string_view::npos, deit = dialect.find("deit") != std::string_view::npos;
  const bool registers = dialect.find("registers") != std::string_view::npos;
  const std::string base = registers ? "Dinov2WithRegisters" : dinov2 ? "Dinov2" : deit ? "DeiT" : "ViT";
  const char* type = registers ? "dinov2_with_registers" : dinov2 ? "dinov2" : deit ? "deit" : "vit";
  const std::string task = c.classes == 0 ? "Model" : deit && c.distillation_token && c.distillation_head ? "ForImageClassificationWithTeacher" : "ForImageClassification";
  HomeJson j = hugging_face_common(c, type, base + task);
  j["hidden_size"] = c.dim;
  j["num_hidden_layers"] = c.depth;
  j["num_attention_heads"] = c.heads;
  if (dinov2) {
    const bool swiglu = c.activation == "swiglu";
    j["mlp_ratio"] = swiglu ? 4 : static_cast<int64_t>(c.mlp_ratio);
    j["use_swiglu_ffn"] = swiglu;
    j["layerscale_value"] = 1.0;
    if (registers) j["num_register_tokens"] = c.register_tokens;
  } else {
    j["intermediate_size"] = mlp_width(c);
  }
  return j;
}

// An image tower; a classifier has it as one of two.
HomeJson hugging_face_tower(const std::string& base, const ModelConfig& c) {
  const bool clip = base == "CLIP";
  const std::string type = clip ? "clip" : "siglip";
  const char* task = c.classes == 0 ? "VisionModel" : c.head_bias ? "ForImageClassification" : "VisionModelWithProjection";
  HomeJson j = hugging_face_common(c, type.c_str(), base + task);
  HomeJson tower = {{"model_type", type + "_vision_model"}, {"hidden_size", c.dim}, {"num_hidden_layers", c.depth}, {"num_attention_heads", c.heads}, {"intermediate_size", mlp_width(c)}};
  if (!clip) tower["vision_use_head"] = c.pool == "map";
  if (clip && c.classes > 0 && !c.head_bias) tower["projection_dim"] = c.classes;
  for (const char* key : {"image_size", "patch_size", "num_channels", "hidden_act", "layer_norm_eps"}) {
    tower[key] = j[key];
    j.erase(key);
  }
  if (c.classes > 0 && c.head_bias) {
    j["vision_config"] = tower;
    return j;
  }
  tower["architectures"] = j["architectures"];
  return tower;
}

HomeJson hugging_face_swin(const ModelConfig& c) {
  const bool second = c.swin_v2();
  const std::string base = second ? "Swinv2" : "Swin";
  HomeJson j = hugging_face_common(c, second ? "swinv2" : "swin", base + (c.classes == 0 ? "Model" : "ForImageClassification"));
  j["embed_dim"] = c.dim;
  j["depths"] = c.depths;
  j["num_heads"] = c.stage_heads;
  j["window_size"] = spec_sizes(c, "size").front();
  j["mlp_ratio"] = c.mlp_ratio;
  j["use_absolute_embeddings"] = c.absolute_positions;
  if (second) j["pretrained_window_sizes"] = spec_sizes(c, "pretrained_window");
  return j;
}

HomeJson timm_config(const ModelConfig& c, const std::string& name) {
  return {{"architecture", name},
          {"num_classes", c.classes},
          {"num_features", c.hierarchical() ? c.dim << (c.depths.size() - 1) : c.dim},
          {"pretrained_cfg",
           {{"tag", ""},
            {"custom_load", false},
            {"input_size", {c.input.channels, c.input.height, c.input.width}},
            {"fixed_input_size", true},
            {"interpolation", c.input.interpolation},
            {"crop_pct", c.input.crop_pct},
            {"crop_mode", c.input.resize == "squash" ? "squash" : "center"},
            {"mean", c.input.mean},
            {"std", c.input.std},
            {"num_classes", c.classes}}}};
}

}  // namespace

std::optional<std::string> home_config(std::string_view dialect, const ModelConfig& c) {
  if (dialect.starts_with("huggingface")) return (c.hierarchical() ? hugging_face_swin(c) : hugging_face_vit(dialect, c)).dump(2) + "\n";
  if (dialect == "timm" && find_preset(c.name) != nullptr) return timm_config(c, find_preset(c.name)->config.name).dump(2) + "\n";
  return std::nullopt;
}

void write_beside(const std::string& path, const std::string& text) {
  if (std::ifstream in(path, std::ios::binary); in) {
    std::ostringstream there;
    there << in.rdbuf();
    require(there.str() == text, "there is another configuration at '{}' already, which may belong to other weights there; write to an empty folder", path);
    return;
  }
  AtomicFile file(path);
  file.write(text.data(), text.size());
  file.commit();
}

}  // namespace fovea
