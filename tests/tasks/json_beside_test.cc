#include "tasks/json_beside.h"

#include <gtest/gtest.h>

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/run_cli.h"
#include "core/check.h"
#include "tasks/home_windows.h"
#include "tasks/stated_architecture.h"
#include "tasks/stated_input.h"

namespace fovea {
namespace {

TEST(JsonBeside, IsFoundInAFileFolderOrTheFolderItself) {
  const TemporaryFolder folder;
  EXPECT_EQ(file_beside(folder / "model.safetensors", "config.json"), folder / "config.json");
  EXPECT_EQ(file_beside(folder / "", "config.json"), folder / "config.json");
  EXPECT_TRUE(json_object_in(folder / "config.json").is_null());
  std::ofstream(folder / "config.json") << "{\"a\": 1}";
  EXPECT_EQ(json_object_in(folder / "config.json").at("a"), 1);
  for (const std::string& text : {std::string("[1]"), std::string("{"), std::string(), "{\"a\": " + std::string(1000000, '[') + std::string(1000000, ']') + "}"}) {
    std::ofstream(folder / "config.json") << text;
    EXPECT_TRUE(json_object_in(folder / "config.json").is_null()) << text.substr(0, 20);
  }
  EXPECT_TRUE(json_object_in(folder / "").is_null());
  const std::string largest((size_t{4} << 20) - 2, ' ');
  std::ofstream(folder / "config.json") << "{}" << largest;
  EXPECT_TRUE(json_object_in(folder / "config.json").is_object());
  std::ofstream(folder / "config.json") << "{} " << largest;
  EXPECT_TRUE(json_object_in(folder / "config.json").is_null()) << "larger than any such file";
}

// Writes config.json and reads it in both manners.
class ConfigBeside {
 public:
  HomeWindows windows(const std::string& text) const { return windows_beside(written(text)); }
  StatedArchitecture architecture(const std::string& text) const { return stated_architecture_beside(written(text)); }
  std::string weights() const { return folder_ / "model.safetensors"; }

 private:
  std::string written(const std::string& text) const {
    std::ofstream(folder_ / "config.json") << text;
    return weights();
  }
  TemporaryFolder folder_;
};

using Image = std::optional<std::pair<int64_t, int64_t>>;
using Texts = std::vector<std::string>;

TEST(JsonBeside, WindowsAndImagesInEveryManner) {
  const ConfigBeside b;
  EXPECT_TRUE(windows_beside(b.weights()).sizes.empty());  // no file
  EXPECT_EQ(b.windows(R"({"architecture": "swin_x"})").architecture, "swin_x");
  EXPECT_EQ(b.windows(R"({"window_size": 7, "pretrained_window_sizes": [0, 12]})").sizes, Texts{"7"});
  EXPECT_EQ(b.windows(R"({"window_size": 7, "pretrained_window_sizes": [0, 12]})").pretrained, (Texts{"0", "12"}));
  std::string many = "7";
  for (int i = 1; i < 64; ++i) many += ", 7";
  EXPECT_EQ(b.windows("{\"window_size\": [" + many + "]}").sizes.size(), 64u);
  for (const std::string& list : {"[" + many + ", 7]", std::string("[7, [\"7\", 7]]"), std::string("[[7, -1]]"), std::string("[[7, 7, 7]]"), std::string("[7, \"7\"]")})
    EXPECT_TRUE(b.windows("{\"window_size\": " + list + "}").sizes.empty()) << list;
  for (const char* key : {"image_size", "img_size"}) {
    const auto image = [&](const std::string& value) { return b.windows(fmt::format(R"({{"{}": {}}})", key, value)).image; };
    EXPECT_EQ(image("192"), Image(std::pair(192, 192))) << key;
    EXPECT_EQ(image("[192, 224]"), Image(std::pair(192, 224))) << key;
    for (const char* none : {"0", "[]", "[224]", "[0, 224]", "[224, 0]", "[\"a\", 224]", "[224, \"a\"]"}) EXPECT_EQ(image(none), std::nullopt) << key << none;
  }
  // What timm was asked for goes before what the weights' card says.
  EXPECT_EQ(b.windows(R"({"image_size": 1, "pretrained_cfg": {"input_size": [3, 256, 320]}})").image, Image(std::pair(256, 320)));
  EXPECT_EQ(b.windows(R"({"pretrained_cfg": {"input_size": [3, 256, 320]}, "window_size": 3, "model_args": {"img_size": 384, "window_size": [6, 12]}})").image, Image(std::pair(384, 384)));
  EXPECT_EQ(b.windows(R"({"window_size": 3, "model_args": {"window_size": [[6, 12]]}})").sizes, Texts{"6x12"});
}

TEST(JsonBeside, ArchitecturesInEveryManner) {
  const ConfigBeside b;
  EXPECT_EQ(stated_architecture_beside(b.weights()).heads, 0);  // no file
  EXPECT_EQ(b.architecture(R"({"num_attention_heads": 3, "hidden_act": "gelu_new", "layer_norm_eps": 0.5})").heads, 3);
  EXPECT_EQ(b.architecture(R"({"num_attention_heads": 3, "hidden_act": "gelu_new"})").activation, "gelu_tanh");
  EXPECT_EQ(b.architecture(R"({"layer_norm_eps": 0.5})").norm_epsilon, 0.5);
  const StatedArchitecture tower = b.architecture(R"({"num_attention_heads": 3, "vision_config": {"num_attention_heads": 5, "hidden_act": "quick_gelu"}})");
  EXPECT_EQ(tower.heads, 5);
  EXPECT_EQ(tower.activation, "quick_gelu");
  EXPECT_EQ(b.architecture(R"({"num_attention_heads": 3, "vision_config": [5]})").heads, 3);
  const auto timm = [&](const std::string& args) { return b.architecture(R"({"architecture": "vit_x", "global_pool": "avg", "model_args": )" + args + "}"); };
  EXPECT_EQ(timm(R"({"num_heads": 7})").heads, 7);
  EXPECT_EQ(timm(R"({"num_heads": 7})").pool, "avg");
  EXPECT_EQ(timm(R"({"global_pool": "token"})").pool, "token");
  EXPECT_EQ(timm("[1]").preset, "vit_x");
  EXPECT_EQ(timm(R"({"act_layer": "quick_gelu"})").activation, "quick_gelu");
  EXPECT_EQ(timm(R"({"act_layer": "gelu_tanh"})").activation, "gelu_tanh");
  EXPECT_TRUE(timm("{}").positions && timm(R"({"pos_embed": "learn"})").positions);
  EXPECT_FALSE(timm(R"({"pos_embed": "none"})").positions || timm(R"({"pos_embed": ""})").positions);
  EXPECT_EQ(timm(R"({"act_layer": "gelu"})").activation, "");  // timm's own, as every ViT has it
}

TEST(JsonBeside, NumbersBeyondAnyModelsStateNothing) {
  const TemporaryFolder folder;
  const std::string weights = folder / "model.safetensors";
  for (const char* number : {"1e300", "-1", "9223372036854775808", "16385", "\"7\"", "[[]]", "{}", "null"}) {
    std::ofstream(folder / "config.json") << "{\"window_size\": " << number << ", \"pretrained_window_sizes\": [" << number << "], \"image_size\": " << number
                                          << ", \"model_args\": " << number << ", \"pretrained_cfg\": " << number << ", \"architecture\": " << number
                                          << ", \"hidden_act\": [1]}";
    const HomeWindows h = windows_beside(weights);
    EXPECT_TRUE(h.sizes.empty() && h.pretrained.empty() && !h.image) << number;
    EXPECT_EQ(stated_architecture_beside(weights).heads, 0) << number;
  }
  std::ofstream(folder / "config.json") << "{\"window_size\": [8, [8, 12]], \"image_size\": [3, 224, 192], \"num_attention_heads\": 1e300}";
  const HomeWindows h = windows_beside(weights);
  EXPECT_EQ(h.sizes, (std::vector<std::string>{"8", "8x12"}));
  EXPECT_EQ(h.image, std::pair(int64_t{224}, int64_t{192}));
  EXPECT_EQ(stated_architecture_beside(weights).heads, 0);
  std::ofstream(folder / "config.json") << "{\"window_size\": [" << std::string(200, '1') << "], \"hidden_act\": \"mish\"}";
  EXPECT_TRUE(windows_beside(weights).sizes.empty());
  EXPECT_THROW((void)stated_architecture_beside(weights), Error);
  std::ofstream(folder / "preprocessor_config.json") << R"({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 1e-300})";
  EXPECT_THROW((void)stated_beside(weights), Error);
}

}  // namespace
}  // namespace fovea
