#include "tasks/json_beside.h"

#include <gtest/gtest.h>

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
