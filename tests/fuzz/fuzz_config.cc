// Any text, as the configuration in a weights file or as the index of a sharded checkpoint, is read or gives an Error. A configuration that
// is read says the same when it is written and read again, and its model can be built, measured, and stated to other code bases.
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/check.h"
#include "attention/registry.h"
#include "heads/classifier.h"
#include "json_mutator.h"
#include "models/config.h"
#include "tasks/load_model.h"
#include "tasks/preprocess.h"
#include "tasks/stranger_config.h"
#include "weights/shard_index.h"

const std::vector<std::string>& known_words() {
  static const std::vector<std::string> kWords = [] {
    std::vector<std::string> words = {"vit", "swin", "cswin", "avg", "token_avg", "pooled", "none", "drop", "swiglu", "silu", "squash", "border", "down",
                                      "weight_map", "metadata", "model-00001-of-00002.safetensors", "7", "7x5", "16384", "1073741824", "-1", "1e9",
                                      ",", "+", "/", "@2", "@1e9", "x", "_"};
    json_mutator::add_keys(words, json_mutator::Json::parse(fovea::to_json(fovea::ModelConfig())));
    for (const fovea::AttentionKind& kind : fovea::attention_kinds()) {
      words.push_back(kind.name);
      for (const auto& option : kind.options) words.push_back(":" + option.name + "=" + option.default_value);
    }
    return words;
  }();
  return kWords;
}

namespace {

// Blocks of a stage are alike, so few of them show what many do; and some mechanisms count the pairs of a map one by one.
bool is_small(const fovea::ModelConfig& c) {
  constexpr int64_t kMostBlocks = 16, kMostTokens = 1024;
  return (c.input.height / c.patch + 1) * (c.input.width / c.patch + 1) <= kMostTokens && (c.hierarchical() ? std::accumulate(c.depths.begin(), c.depths.end(), int64_t{0}) : c.depth) <= kMostBlocks;
}

void use(const fovea::ModelConfig& c) {
  (void)fovea::preprocess_of(c.input, c.input.height, c.input.width);
  (void)fovea::preprocess_of(c.input, 1, 16384);
  try {
    (void)fovea::complete_windows(c, c.attention);
    (void)fovea::facts_of(c);
  } catch (const fovea::Error&) {
  }
  const fovea::Classifier model(c);
  if (model.params().count() < 0) __builtin_trap();
  // Unions, and windows larger than any map, count their pairs for too long to be tried often.
  const auto digit = [](unsigned char ch) { return ch >= '0' && ch <= '9'; };
  int64_t digits = 0;
  for (const char ch : c.attention)
    if (digits = digit(static_cast<unsigned char>(ch)) ? digits + 1 : 0; digits > 2 || ch == '+') return;
  const std::pair<int64_t, int64_t> sizes[] = {{c.input.height, c.input.width}, {1, 1}, {2, 50}};
  for (const auto& [height, width] : sizes)
    if (model.backbone().unsupported(height, width).empty() && !(model.backbone().flops(1, height, width) >= 0)) __builtin_trap();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const fovea::ModelConfig config = fovea::config_from_json(text, "fuzz");
    const std::string written = fovea::to_json(config);
    if (fovea::to_json(fovea::config_from_json(written, "fuzz")) != written) __builtin_trap();
    if (is_small(config)) use(config);
  } catch (const fovea::Error&) {
  }
  try {
    (void)fovea::looks_like_shard_index(text);
    (void)fovea::parse_shard_index({"fuzz", std::as_bytes(std::span(text)), nullptr});
  } catch (const fovea::Error&) {
  }
  return 0;
}
