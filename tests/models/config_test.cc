// Presets and configurations of models: what they say, cost and refuse.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "heads/classifier.h"
#include "models/small_models.h"

namespace fovea {
namespace {

// timm's parameter counts.
TEST(Presets, ParameterCountsAreTimms) {
  const std::pair<const char*, int64_t> expected[] = {
      {"vit_tiny_patch16_224", 5717416},    {"vit_small_patch16_224", 22050664},           {"vit_base_patch16_224", 86567656},
      {"vit_large_patch16_224", 304326632}, {"vit_base_patch16_384", 86859496},            {"deit_tiny_patch16_224", 5717416},
      {"deit3_small_patch16_224", 22059496}, {"deit3_base_patch16_224", 86585320}, {"vit_small_patch14_dinov2", 22056192}, {"vit_b_16", 86567656},
      {"deit_tiny_distilled_patch16_224", 5910800}, {"deit_base_distilled_patch16_224", 87338192},
      {"swin_tiny_patch4_window7_224", 28288354}, {"swin_small_patch4_window7_224", 49606258},
      {"swin_base_patch4_window7_224", 87768224}, {"swin_large_patch4_window12_384", 196735516},
      {"swinv2_tiny_window8_256", 28347154}, {"swinv2_tiny_window16_256", 28347154}, {"swinv2_small_window8_256", 49728418},
      {"swinv2_small_window16_256", 49728418}, {"swinv2_base_window8_256", 87918816}, {"swinv2_base_window16_256", 87918816},
      {"swinv2_base_window12to24_192to384", 87918816}, {"swinv2_large_window12to16_192to256", 196739932}};
  for (const auto& [name, count] : expected) EXPECT_EQ(Classifier(preset_config(name)).params().count(), count) << name;
}

// Sums over the published shapes: 23, 35, 78 and 173 million.
TEST(Presets, ParameterCountsOfCSwin) {
  const std::pair<const char*, int64_t> expected[] = {{"cswin_tiny_224", 22320552},  {"cswin_small_224", 34643304}, {"cswin_base_224", 77382184},
                                                      {"cswin_base_384", 77382184}, {"cswin_large_224", 173262664}, {"cswin_large_384", 173262664}};
  for (const auto& [name, count] : expected) EXPECT_EQ(Classifier(preset_config(name)).params().count(), count) << name;
}

TEST(Presets, OtherNames) {
  EXPECT_EQ(preset_config("cswin_tiny").name, "cswin_tiny_224");
  EXPECT_EQ(preset_config("CSWin_64_12211_tiny_224").name, "cswin_tiny_224");
  EXPECT_EQ(preset_config("CSWin_96_24322_base_384").attention,
            "cross_shaped:stripe=1/cross_shaped:stripe=2/cross_shaped:stripe=12/cross_shaped:branches=1");
  EXPECT_EQ(find_preset("CSWin_64_12211_tiny_384"), nullptr);
}

TEST(Presets, FlopsAreTheDefinitions) {
  EXPECT_NEAR(Classifier(preset_config("swin_tiny_patch4_window7_224")).flops(1, 224, 224) / 2e9, 4.49, 0.05);
  EXPECT_NEAR(Classifier(preset_config("vit_small_patch16_224")).flops(1, 224, 224) / 2e9, 4.6, 0.05);
  EXPECT_NEAR(Classifier(preset_config("cswin_tiny_224")).flops(1, 224, 224) / 2e9, 4.3, 0.1);
  EXPECT_NEAR(Classifier(preset_config("cswin_base_384")).flops(1, 384, 384) / 2e9, 47.0, 0.5);
  EXPECT_NEAR(Classifier(preset_config("swinv2_tiny_window8_256")).flops(1, 256, 256) / 2e9, 5.96, 0.06);
}

TEST(Config, EvenAndOddBlocksCostWhatTheyCost) {
  const auto flops = [](int64_t depth) {
    ModelConfig c = preset_config("vit_mini");
    c.attention = "sparse:mode=alternate:pattern=fixed";
    c.depth = depth;
    return Classifier(c).backbone().flops(1, 64, 32);
  };
  const double even = flops(3) - flops(2), odd = flops(2) - flops(1);
  EXPECT_NE(even, odd);
  EXPECT_DOUBLE_EQ(flops(8), flops(1) + 3 * even + 4 * odd);
}

TEST(Config, AttentionsInAllAreBounded) {
  ModelConfig c = preset_config("vit_mini");
  c.depth = 1000;
  c.parallel = 16;
  c.attention = "global,global,global,window+window";
  try {
    validate(c);
    FAIL();
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "1000 blocks with 80 attentions each are more than 65536 in all; take fewer blocks or parts");
  }
  c.attention = "global,global,global,window";
  EXPECT_NO_THROW(validate(c));
  ModelConfig swin = preset_config("swin_tiny_patch4_window7_224");
  swin.depths = {1000, 1000, 1000, 1000};
  swin.attention = "window";
  EXPECT_NO_THROW(validate(swin));
  for (int i = 1; i < 17; ++i) swin.attention += "+window";
  EXPECT_THROW(validate(swin), Error);
}

TEST(Presets, AMisspeltNameSuggestsTheRightOne) {
  try {
    (void)preset_config("swin_mni");
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), testing::HasSubstr("did you mean 'swin_mini'"));
  }
}

TEST(ModelConfig, JsonRoundTripAndMistakes) {
  EXPECT_EQ(config_from_json("{\"family\": \"swin\"}", "f").swin_version, 1);  // stored before there were two
  EXPECT_THROW((void)config_from_json("{\"family\": \"swin\", \"swin_version\": 3}", "f"), Error);
  for (const ModelPreset& p : model_presets()) EXPECT_EQ(to_json(config_from_json(to_json(p.config), "test")), to_json(p.config));
  EXPECT_THROW((void)config_from_json("[1]", "f"), Error);
  EXPECT_THROW((void)config_from_json("{\"dim\": \"wide\"}", "f"), Error);
  EXPECT_THROW((void)config_from_json("{\"heads\": 7}", "f"), Error);
  EXPECT_THROW((void)config_from_json("{\"family\": \"cswin\"}", "f"), Error);  // patch 16
  EXPECT_THROW((void)config_from_json("{\"pyramid_norms\": true}", "f"), Error);
  for (const char* wrong : {"{\"pool\": \"max\"}", "{\"last_norm\": \"first\"}", "{\"last_norm\": \"pooled\", \"pool\": \"token_avg\"}",
                            "{\"patch_rest\": \"crop\"}", "{\"patch_rest\": \"drop\", \"height\": 8}", "{\"position_grid\": [14]}",
                            "{\"position_grid\": [0, 14]}", "{\"position_resampling\": \"nearest\"}", "{\"representation\": -1}",
                            "{\"representation\": 8, \"distillation_token\": true}", "{\"activation\": \"swiglu\", \"dim\": 3, \"heads\": 1, \"mlp_ratio\": 1}",
                            "{\"activation\": \"swiglu\", \"family\": \"swin\", \"patch\": 4}", "{\"pool\": \"token_avg\", \"distillation_token\": true}",
                            "{\"pool\": \"token_avg\", \"class_token\": false}", "{\"pre_norm\": true, \"convolutional_stem\": true}", "{\"classes\": -1}"})
    EXPECT_THROW((void)config_from_json(wrong, "f"), Error) << wrong;
  for (const char* wrong : {"{\"patch\": 0}", "{\"patch\": 9223372036854775807}", "{\"dim\": 65537}", "{\"heads\": 0}", "{\"heads\": -1, \"head_dim\": 4}",
                            "{\"head_dim\": -1}", "{\"head_dim\": 9223372036854775807}", "{\"register_tokens\": 9223372036854775807}", "{\"depth\": 0}",
                            "{\"mlp_ratio\": 1e300}", "{\"mlp_ratio\": 1e-300}", "{\"mlp_ratio\": -1}", "{\"dim\": 1e300}", "{\"dim\": 768.0}",
                            "{\"std\": [0, 1, 1]}", "{\"norm_epsilon\": 0}", "{\"dim\": 18446744073709551615}"})
    EXPECT_THROW((void)config_from_json(wrong, "f"), Error) << wrong;
  // More stages than there are, whose widths would leave 64 bits.
  std::string ones = "1";
  for (int i = 0; i < 70; ++i) ones += ", 1";
  EXPECT_THROW((void)config_from_json(fmt::format("{{\"family\": \"swin\", \"patch\": 4, \"depths\": [{}], \"stage_heads\": [{}]}}", ones, ones), "f"), Error);
  // A value of the wrong kind is told in few words, and brackets alone do not exhaust the stack.
  try {
    (void)config_from_json("{\"dim\": [" + ones + ", " + ones + "]}", "f");
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), testing::AllOf(testing::HasSubstr("'dim' is [1,1,1"), testing::HasSubstr("..."), testing::HasSubstr("expected a whole number")));
  }
  EXPECT_THROW((void)config_from_json("{\"dim\": " + std::string(1000000, '[') + std::string(1000000, ']') + "}", "f"), Error);
  for (const char* wrong : {"{\"channels\": 0}", "{\"channels\": 1025}", "{\"merge_norm_epsilon\": 1e-5}", "{\"family\": \"swin\", \"patch\": 4, \"merge_norm_epsilon\": -1}",
                            "{\"family\": \"swin\", \"patch\": 4, \"positions\": false}"})
    EXPECT_THROW((void)config_from_json(wrong, "f"), Error) << wrong;
  ModelConfig c = small_vit();
  for (const char* key : {"mean", "std", "layer_scale", "norm_epsilon", "mlp_ratio"})
    for (const char* value : {"inf", "nan"}) {
      ModelConfig wrong = c;
      set_option(wrong, key, value);
      EXPECT_THROW(validate(wrong), Error) << key << "=" << value;
    }
  set_option(c, "channels", "9223372036854775807");
  set_option(c, "mean", "0.5");  // takes no memory for so many
  c = small_vit();
  EXPECT_THROW(set_option(c, "hads", "4"), Error);
  EXPECT_THROW(set_option(c, "heads", "four"), Error);
  set_option(c, "mean", "0.25");
  EXPECT_EQ(c.input.mean, (std::vector<double>{0.25, 0.25, 0.25}));
}

// Whoever is asked for a setting finds it and its values.
TEST(ModelConfig, EveryKeyIsDocumented) {
  std::ifstream in(FOVEA_TEST_FIXTURES "/../../docs/weights.md");
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  const size_t begin = text.find("### Settings"), end = text.find("### f16");
  ASSERT_TRUE(begin < end && end != std::string::npos);
  const std::string section = text.substr(begin, end - begin);
  const std::string json = to_json(ModelConfig());
  int keys = 0;
  for (size_t at = json.find("\n  \""); at != std::string::npos; at = json.find("\n  \"", at + 1)) {
    const size_t first = at + 4;
    EXPECT_THAT(section, testing::HasSubstr("`" + json.substr(first, json.find('"', first) - first) + "`"));
    ++keys;
  }
  EXPECT_GT(keys, 50);
}

}  // namespace
}  // namespace fovea
