#include "tasks/load_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "cli/run_cli.h"
#include "harness/expect.h"
#include "weights/safetensors.h"

namespace fovea {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

LoadOptions with(Settings set) {
  LoadOptions o;
  o.set = std::move(set);
  return o;
}

void save(const std::string& path, const ParamStore& params, const std::map<std::string, std::string>& metadata, bool extra = false) {
  std::vector<TensorToWrite> tensors;
  for (const Param& p : params.params()) tensors.push_back({p.name, DType::kF32, p.shape, p.value.data});
  const float moment = 0;
  if (extra) tensors.push_back({"optimizer.m", DType::kF32, Shape{1}, &moment});
  write_safetensors(path, tensors, metadata);
}

TEST(LoadModel, SettingsApplyInAnyOrder) {
  for (const Settings& set : {Settings{{"channels", "1"}, {"mean", "0.1307"}}, Settings{{"mean", "0.1307"}, {"channels", "1"}}}) {
    const LoadedModel m = load_model("vit_mini", with(set), DType::kF32);
    EXPECT_EQ(m.classifier->config().input.mean, std::vector<double>{0.1307});
    EXPECT_EQ(m.classifier->config().input.std.size(), 1u);
  }
}

TEST(LoadModel, APresetsWeightsFollowTheSeed) {
  LoadOptions a, b;
  b.seed = 1;
  const auto weights = [](const LoadOptions& o) {
    const LoadedModel m = load_model("swin_mini", o, DType::kF32);
    const Tensor v = m.classifier->params().values();
    return std::vector<float>(v.as<float>(), v.as<float>() + v.elements());
  };
  EXPECT_EQ(weights(a), weights(a));
  EXPECT_NE(weights(a), weights(b));
}

TEST(LoadModel, OwnFilesComeBackAndLeaveTheOptimizerOut) {
  const TemporaryFolder f;
  std::filesystem::create_directory(f / "run");
  LoadOptions o = with({{"classes", "3"}, {"class_names", "x,y,z"}});
  o.seed = 7;
  const LoadedModel first = load_model("vit_mini", o, DType::kF32);
  save(f / "run/last.safetensors", first.classifier->params(), {{"fovea.config", to_json(first.classifier->config())}}, true);
  const LoadedModel second = load_model(f / "run", {}, DType::kF32);
  EXPECT_EQ(second.dialect, "fovea");
  EXPECT_TRUE(second.assumed.empty());
  EXPECT_EQ(second.classifier->config().class_names, (std::vector<std::string>{"x", "y", "z"}));
  const Tensor a = first.classifier->params().values(), b = second.classifier->params().values();
  EXPECT_EQ(std::memcmp(a.data, b.data, a.bytes()), 0);
}

// The configuration of a file without ours: shapes, then the preset that the name mentions, then assumptions.
TEST(LoadModel, AStrangersFileIsReadOffItsShapesAndItsName) {
  const TemporaryFolder f;
  const LoadedModel tiny = load_model("vit_tiny_patch16_224", {}, DType::kF32);
  save(f / "vit_tiny_patch16_224.safetensors", tiny.classifier->params(), {});
  save(f / "weights.safetensors", tiny.classifier->params(), {});
  const LoadedModel named = load_model(f / "vit_tiny_patch16_224.safetensors", {}, DType::kF32);
  EXPECT_EQ(named.dialect, "timm");
  EXPECT_EQ(named.classifier->config().heads, 3);
  EXPECT_EQ(named.classifier->config().input.mean, tiny.classifier->config().input.mean);
  EXPECT_THAT(named.assumed, testing::Contains(HasSubstr("vit_tiny_patch16_224")));
  const LoadedModel bare = load_model(f / "weights.safetensors", with({{"mean", "0.4"}, {"heads", "6"}}), DType::kF32);
  EXPECT_EQ(bare.classifier->config().input.mean, (std::vector<double>{0.4, 0.4, 0.4}));
  EXPECT_EQ(bare.classifier->config().heads, 6);
  EXPECT_EQ(bare.classifier->config().head_dim, 0);  // 192 / 6
  EXPECT_THAT(bare.assumed, testing::Not(testing::Contains(HasSubstr("mean="))));
  EXPECT_THAT(bare.assumed, testing::Contains(HasSubstr("std=")));

  std::ofstream(f / "config.json") << R"({"pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "crop_pct": 0.8, "interpolation": "bilinear"}})";
  const LoadedModel stated = load_model(f / "weights.safetensors", {}, DType::kF32);
  EXPECT_EQ(stated.classifier->config().input.mean, (std::vector<double>{0.1, 0.2, 0.3}));
  EXPECT_EQ(stated.classifier->config().input.crop_pct, 0.8);
  EXPECT_EQ(stated.classifier->config().input.interpolation, "bilinear");
}

// Poolings, activations and epsilons show in no tensor; timm and transformers write them beside the weights.
TEST(LoadModel, ConfigurationsTellWhatTensorsCannot) {
  const TemporaryFolder f;
  const auto beside = [&](const std::string& config) {
    std::ofstream(f / "config.json") << config;
    return load_model(f / "weights.safetensors", {}, DType::kF32).classifier->config();
  };
  save(f / "weights.safetensors", load_model("vit_tiny_patch16_224", with({{"depth", "1"}}), DType::kF32).classifier->params(), {});
  EXPECT_EQ(beside(R"({"architecture": "vit_tiny_patch16_224", "global_pool": "token"})").pool, "token");
  const ModelConfig mean = beside(R"({"architecture": "vit_tiny_patch16_224", "model_args": {"global_pool": "avg", "fc_norm": false}})");
  EXPECT_EQ(mean.pool, "avg");
  EXPECT_TRUE(mean.norms_tokens());
  std::ofstream(f / "config.json") << "{}";
  const ModelConfig asked = load_model(f / "weights.safetensors", with({{"pool", "avg"}}), DType::kF32).classifier->config();
  EXPECT_EQ(asked.pool, "avg");
  EXPECT_TRUE(asked.norms_tokens());
  EXPECT_EQ(beside(R"({"architecture": "vit_base_patch32_clip_224"})").norm_epsilon, 1e-5);
  EXPECT_THAT([&] { beside(R"({"model_args": {"global_pool": "max"}})"); }, ThrowsMessage<Error>(HasSubstr("the pooling 'max', which fovea's models do not have")));

  save(f / "weights.safetensors", load_model("vit_tiny_patch16_224", with({{"depth", "1"}, {"pool", "avg"}, {"last_norm", "pooled"}}), DType::kF32).classifier->params(), {});
  const ModelConfig token = beside(R"({"model_args": {"global_pool": "token", "fc_norm": true}})");
  EXPECT_EQ(token.pool, "token");
  EXPECT_TRUE(token.norms_pooled());

  save(f / "weights.safetensors", load_model("swin_tiny_patch4_window7_224", with({{"depths", "1,1"}, {"stage_heads", "3,6"}}), DType::kF32).classifier->params(), {});
  EXPECT_EQ(beside(R"({"hidden_act": "gelu_new"})").activation, "gelu_tanh");
  EXPECT_EQ(beside(R"({"layer_norm_eps": 1e-3})").norm_epsilon, 1e-3);
  EXPECT_THAT([&] { beside(R"({"global_pool": "max"})"); }, ThrowsMessage<Error>(HasSubstr("the pooling 'max', which fovea's Swin does not have")));
}

// A ViT without a table of positions: a damaged file, unless it is stated that there are none.
TEST(LoadModel, AVitWithoutPositionsMustBeStated) {
  const TemporaryFolder f;
  const std::string path = f / "weights.safetensors";
  save(path, load_model("vit_tiny_patch16_224", with({{"depth", "1"}, {"positions", "false"}}), DType::kF32).classifier->params(), {});
  EXPECT_THAT([&] { load_model(path, with({{"height", "224"}}), DType::kF32); },
              ThrowsMessage<Error>(testing::AllOf(HasSubstr("missing: 'pos_embed'"), HasSubstr("--set positions=false"))));
  const LoadedModel set = load_model(path, with({{"positions", "false"}}), DType::kF32);
  EXPECT_FALSE(set.classifier->config().positions);
  EXPECT_EQ(set.height, 224);
  std::ofstream(f / "config.json") << R"({"architecture": "vit_tiny_patch16_224", "model_args": {"pos_embed": "none"}})";
  EXPECT_FALSE(load_model(path, {}, DType::kF32).classifier->config().positions);
}

// A table that is no square belongs to the first size of as many patches that is stated or asked for, with or without positions of prefix tokens.
TEST(LoadModel, AVitOfRectanglesIsToldItsSides) {
  const TemporaryFolder f;
  const std::string path = f / "vit_tiny_patch16_224.safetensors";
  for (const char* prefix : {"true", "false"}) {
    SCOPED_TRACE(prefix);
    save(path, load_model("vit_tiny_patch16_224", with({{"depth", "1"}, {"height", "32"}, {"width", "96"}, {"prefix_positions", prefix}}), DType::kF32).classifier->params(), {});
    const auto loading = [&](const Settings& set) { return [=] { (void)load_model(path, with(set), DType::kF32); }; };
    EXPECT_THAT(loading({}), ThrowsMessage<Error>(HasSubstr("make up no square; tell their rows and columns as --set position_grid=H,W")));
    EXPECT_THAT(loading({{"height", "64"}}), ThrowsMessage<Error>(HasSubstr("make up no square")));
    EXPECT_THAT(loading({{"position_grid", "3,5"}}), ThrowsMessage<Error>(HasSubstr("make up no square")));
    const LoadedModel sized = load_model(path, with({{"height", "32"}, {"width", "96"}}), DType::kF32);
    EXPECT_EQ(sized.classifier->config().position_grid, (std::vector<int64_t>{2, 6}));
    EXPECT_EQ(sized.classifier->config().prefix_positions, std::string(prefix) == "true");
    const LoadedModel other = load_model(path, with({{"position_grid", "2,6"}, {"height", "64"}, {"width", "48"}}), DType::kF32);
    EXPECT_EQ(other.classifier->config().input.width, 96);
    EXPECT_EQ(other.width, 48);
  }
  std::ofstream(f / "config.json") << R"({"architecture": "vit_tiny_patch16_224", "model_args": {"img_size": [32, 96]}})";
  EXPECT_EQ(load_model(path, {}, DType::kF32).classifier->config().position_grid, (std::vector<int64_t>{2, 6}));
  // As many patches as a square has.
  save(path, load_model("vit_tiny_patch16_224", with({{"depth", "1"}, {"height", "32"}, {"width", "128"}}), DType::kF32).classifier->params(), {});
  std::ofstream(f / "config.json") << R"({"architecture": "vit_tiny_patch16_224", "model_args": {"img_size": [32, 128]}})";
  EXPECT_EQ(load_model(path, {}, DType::kF32).classifier->config().position_grid, (std::vector<int64_t>{2, 8}));
  std::ofstream(f / "config.json") << "{}";
  EXPECT_EQ(load_model(path, {}, DType::kF32).classifier->config().input.width, 64);
}

TEST(LoadModel, SwinIsReadOffItsShapes) {
  const TemporaryFolder f;
  const LoadedModel tiny = load_model("swin_tiny_patch4_window7_224", {}, DType::kF32);
  save(f / "weights.safetensors", tiny.classifier->params(), {});
  const LoadedModel m = load_model(f / "weights.safetensors", {}, DType::kF32);
  const ModelConfig &a = tiny.classifier->config(), &b = m.classifier->config();
  EXPECT_EQ(a.depths, b.depths);
  EXPECT_EQ(a.stage_heads, b.stage_heads);
  EXPECT_EQ(b.attention, a.attention + ":resample=geometric");  // timm's manner with other sizes
  EXPECT_EQ(a.mlp_ratio, b.mlp_ratio);
  EXPECT_EQ(b.input.height, 224);
  // The last map is one window, whatever the first ones are.
  save(f / "weights.safetensors", load_model("swin_tiny_patch4_window7_224", with({{"depths", "1,1,1,1"}, {"attention", "window:size=12/window:size=12/window:size=12/window:size=8"}}), DType::kF32)
           .classifier->params(), {});
  EXPECT_EQ(load_model(f / "weights.safetensors", {}, DType::kF32).classifier->config().input.height, 256);
}

// The official files: names as ours; heads by the width, stripes by the size of the images.
TEST(LoadModel, CSwinIsReadOffItsShapesAndItsName) {
  const TemporaryFolder f;
  const LoadedModel base = load_model("CSWin_64_12211_tiny_224", {}, DType::kF32);
  save(f / "cswin_tiny_224.safetensors", base.classifier->params(), {});
  save(f / "weights.safetensors", base.classifier->params(), {});
  const ModelConfig& a = base.classifier->config();
  for (const char* name : {"cswin_tiny_224.safetensors", "weights.safetensors"}) {
    const LoadedModel m = load_model(f / name, {}, DType::kF32);
    const ModelConfig& b = m.classifier->config();
    EXPECT_EQ(m.dialect, "microsoft-cswin");
    EXPECT_EQ(a.depths, b.depths);
    EXPECT_EQ(a.stage_heads, b.stage_heads);
    EXPECT_EQ(a.attention, b.attention);
    EXPECT_EQ(a.mlp_ratio, b.mlp_ratio);
    EXPECT_EQ(b.input.height, 224);
    EXPECT_EQ(b.input.crop_pct, 0.9);
    EXPECT_EQ(std::string(name) == "weights.safetensors",
              std::any_of(m.assumed.begin(), m.assumed.end(), [](const std::string& s) { return s.starts_with("attention="); }));
    const Tensor x = base.classifier->params().values(), y = m.classifier->params().values();
    EXPECT_EQ(std::memcmp(x.data, y.data, x.bytes()), 0);
  }
  LoadOptions other = with({{"stage_heads", "4,8,16,32"}});
  other.height = other.width = 200;  // any size runs
  const LoadedModel m = load_model(f / "weights.safetensors", other, DType::kF32);
  EXPECT_EQ(m.classifier->config().stage_heads, (std::vector<int64_t>{4, 8, 16, 32}));
  EXPECT_EQ(m.classifier->config().attention, a.attention);
  EXPECT_EQ(m.height, 200);
}

// In timm's names nothing in a file tells the windows of Swin V2; official files hold buffers that do, and that tell too which window
// the position bias was trained with.
TEST(LoadModel, SwinV2FindsItsWindows) {
  const TemporaryFolder f;
  LoadOptions narrow = with({{"dim", "16"}, {"depths", "1,2"}, {"stage_heads", "1,2"}, {"attention", "window_v2:size=6/window_v2:size=4:pretrained_window=3"}});
  const LoadedModel preset = load_model("swinv2_tiny_window8_256", narrow, DType::kF32);
  const ParamStore& params = preset.classifier->params();
  save(f / "weights.safetensors", params, {});
  EXPECT_THAT([&] { (void)load_model(f / "weights.safetensors", {}, DType::kF32); },
              ThrowsMessage<Error>(HasSubstr("--set attention=window_v2:size=N")));
  const LoadedModel told = load_model(f / "weights.safetensors", with({{"attention", "window_v2:size=6"}}), DType::kF32);
  EXPECT_EQ(told.classifier->config().attention, "window_v2:size=6");
  EXPECT_EQ(told.classifier->config().swin_version, 2);
  EXPECT_EQ(told.classifier->config().input.height, 256);

  const LoadedModel for_another = load_model(f / "weights.safetensors", {}, DType::kF32, "window_v2:size=5");
  EXPECT_EQ(for_another.classifier->config().attention, "window_v2:size=5");

  // The official layout: merging at the end of a stage, one name for the head, buffers.
  std::vector<TensorToWrite> tensors;
  std::vector<std::vector<float>> buffers;
  for (const Param& p : params.params()) {
    std::string name = p.name;
    if (name.starts_with("layers.1.downsample.")) name.replace(0, 8, "layers.0");
    if (name.starts_with("head.fc.")) name.replace(0, 8, "head.");
    tensors.push_back({name, DType::kF32, p.shape, p.value.data});
  }
  const auto coordinates = [&](int64_t window, int64_t reference) {
    std::vector<float>& table = buffers.emplace_back();
    for (int64_t y = 1 - window; y < window; ++y)
      for (int64_t x = 1 - window; x < window; ++x)
        for (const int64_t o : {y, x}) {
          const double u = 8.0 * static_cast<double>(o) / static_cast<double>(reference - 1);
          table.push_back(static_cast<float>(std::copysign(std::log2(std::fabs(u) + 1) / 3, u)));
        }
    return table.data();
  };
  tensors.push_back({"layers.0.blocks.0.attn.relative_coords_table", DType::kF32, Shape{1, 11, 11, 2}, coordinates(6, 6)});
  tensors.push_back({"layers.1.blocks.0.attn.relative_coords_table", DType::kF32, Shape{1, 7, 7, 2}, coordinates(4, 3)});
  write_safetensors(f / "official.safetensors", tensors, {});
  const LoadedModel official = load_model(f / "official.safetensors", {}, DType::kF32);
  EXPECT_EQ(official.dialect, "microsoft-swin");
  EXPECT_EQ(official.classifier->config().attention, "window_v2:size=6:rule=microsoft/window_v2:size=4:rule=microsoft:pretrained_window=3");
  for (const Param& p : params.params()) {
    const Param* q = official.classifier->params().find(p.name);
    ASSERT_NE(q, nullptr) << p.name;
    EXPECT_EQ(std::memcmp(q->value.data, p.value.data, p.value.bytes()), 0) << p.name;
  }
}

TEST(LoadModel, SwinV2TakesItsWindowsFromAPresetInTheFilesName) {
  const TemporaryFolder f;
  const LoadedModel tiny = load_model("swinv2_tiny_window16_256", {}, DType::kF32);
  save(f / "swinv2_tiny_window16_256.ms_in1k.safetensors", tiny.classifier->params(), {});
  const LoadedModel m = load_model(f / "swinv2_tiny_window16_256.ms_in1k.safetensors", {}, DType::kF32);
  EXPECT_EQ(m.classifier->config().attention, "window_v2:size=16");
  EXPECT_EQ(m.classifier->config().input.height, 256);
  EXPECT_THAT(m.assumed, testing::Contains(HasSubstr("attention=window_v2:size=16 (as swinv2_tiny_window16_256 has it)")));
}

TEST(LoadModel, SaysWhatIsWrong) {
  const TemporaryFolder f;
  const auto loading = [](const std::string& model, const LoadOptions& o = {}) { return [=] { (void)load_model(model, o, DType::kF32); }; };
  EXPECT_THAT(loading("swin_minni"), ThrowsMessage<Error>(HasSubstr("did you mean 'swin_mini'")));
  EXPECT_THAT(loading("a/b.safetensors"), ThrowsMessage<Error>(HasSubstr("there is no file or folder 'a/b.safetensors'")));
  std::filesystem::create_directory(f / "empty");
  EXPECT_THAT(loading(f / "empty"), ThrowsMessage<Error>(HasSubstr("no run directory")));
  EXPECT_THAT(loading("vit_mini", with({{"height", "0"}})), ThrowsMessage<Error>(HasSubstr("1 to 16384")));
  EXPECT_THAT(loading("vit_mini", with({{"channels", "1025"}})), ThrowsMessage<Error>(HasSubstr("1 to 1024 channels")));

  const LoadedModel vit = load_model("vit_mini", {}, DType::kF32);
  ModelConfig other = vit.classifier->config();
  other.depth = 7;
  save(f / "other.safetensors", vit.classifier->params(), {{"fovea.config", to_json(other)}});
  EXPECT_THAT(loading(f / "other.safetensors"), ThrowsMessage<Error>(HasSubstr("missing: 'blocks.6.norm{1,2}.weight'")));
  save(f / "broken.safetensors", vit.classifier->params(), {{"fovea.config", "{"}});
  EXPECT_THAT(loading(f / "broken.safetensors"), ThrowsMessage<Error>(HasSubstr("broken.safetensors")));
  LoadOptions attention;
  attention.attention = "global";
  save(f / "good.safetensors", vit.classifier->params(), {{"fovea.config", to_json(vit.classifier->config())}});
  EXPECT_THAT(loading(f / "good.safetensors", attention), ThrowsMessage<Error>(HasSubstr("for a preset only")));
}

// Shapes that no model has: without elements, so that the file's size does not bound them.
TEST(LoadModel, AStrangersAbsurdShapesAreErrors) {
  const TemporaryFolder f;
  const std::string path = f / "model.safetensors";
  const auto tensors = [](const std::string& patches, const std::string& positions) {
    std::vector<std::pair<std::string, std::string>> t = {{"cls_token", "1, 1, 0"}, {"pos_embed", positions}, {"patch_embed.proj.weight", patches}};
    for (const char* name : {"norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight", "attn.proj.bias", "norm2.weight", "norm2.bias",
                             "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias"})
      t.emplace_back(std::string("blocks.0.") + name, std::string(name).ends_with("weight") && std::string(name).find("norm") == std::string::npos ? "0, 0" : "0");
    t.emplace_back("norm.weight", "0");
    t.emplace_back("head.weight", "10, 0");
    return t;
  };
  const auto error_of = [&](const std::string& patches, const std::string& positions) -> std::string {
    std::string header;
    for (const auto& [name, shape] : tensors(patches, positions))
      header += fmt::format("{}\"{}\": {{\"dtype\": \"F32\", \"shape\": [{}], \"data_offsets\": [0, 0]}}", header.empty() ? "{" : ", ", name, shape);
    header += "}";
    std::string length(8, '\0');
    for (size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(header.size() >> (8 * i));
    std::ofstream(path, std::ios::binary) << length << header;
    try {
      (void)open_model(path, {});
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_THAT(error_of("192, 3, 0, 0", "1, 197, 0"), HasSubstr("has no patch embedding"));
  EXPECT_THAT(error_of("0, 3, 16, 16", "1, 197, 0"), HasSubstr("has no patch embedding"));
  EXPECT_THAT(error_of("192, 0, 16, 16", "1, 197, 0"), HasSubstr("has no patch embedding"));
  EXPECT_THAT(error_of("0, 3, 16, 16", "0, 4611686018427387904, 0"), HasSubstr("a dimension beyond any tensor's"));
  EXPECT_THAT(error_of("0, 4611686018427387904, 16, 16", "1, 197, 0"), HasSubstr("a dimension beyond any tensor's"));
}

}  // namespace
}  // namespace fovea
