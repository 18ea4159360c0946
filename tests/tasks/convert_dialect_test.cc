// Conversions between the dialects: there and back, bit by bit.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/run_cli.h"
#include "core/check.h"
#include "fovea/convert.h"
#include "tasks/load_model.h"
#include "tasks/stranger_config.h"
#include "weights/safetensors.h"

namespace fovea {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

struct SmallModel {
  std::string preset;
  Settings set;
};

// One of each kind, as small as its family allows.
std::vector<SmallModel> small_models() {
  const Settings vit = {{"dim", "128"}, {"depth", "2"}, {"heads", "2"}, {"classes", "7"}};
  const Settings swin = {{"dim", "32"}, {"depths", "1,2,1,1"}, {"stage_heads", "1,2,4,8"}, {"classes", "7"}};
  return {{"vit_tiny_patch16_224", vit}, {"deit_tiny_distilled_patch16_224", vit}, {"swin_tiny_patch4_window7_224", swin},
          {"swinv2_tiny_window8_256", swin}, {"cswin_tiny_224", {{"depths", "1,1,2,1"}, {"classes", "7"}}}};
}

ConvertOptions to_dialect(std::string_view dialect, const std::string& dtype = "auto") {
  ConvertOptions o;
  o.to = dialect;
  o.dtype = dtype;
  return o;
}

void expect_same_tensors(const std::string& a, const std::string& b) {
  const WeightFile x = open_weights(a), y = open_weights(b);
  EXPECT_EQ(x.tensors().size(), y.tensors().size());
  for (const WeightTensor& t : x.tensors()) {
    const WeightTensor* u = y.find(t.name);
    ASSERT_NE(u, nullptr) << t.name;
    ASSERT_EQ(u->type, t.type) << t.name;
    ASSERT_EQ(u->shape, t.shape) << t.name;
    EXPECT_EQ(std::memcmp(t.data, u->data, static_cast<size_t>(t.elements()) * size_of(t.type)), 0) << t.name;
  }
}

TEST(ConvertDialect, ThereAndBackGivesTheSameBits) {
  for (const SmallModel& model : small_models()) {
    SCOPED_TRACE(model.preset);
    const TemporaryFolder folder;
    ConvertOptions first;
    first.set = model.set;
    const std::string original = folder / "original.safetensors";
    convert(model.preset, original, first);
    const std::string kind = facts_of(load_model(original, {}, DType::kF32).classifier->config()).kind;
    int written = 0;
    for (const Dialect& d : dialects()) {
      if (!d.holds(kind) || d.name == "lucidrains-vit-patch-norm") continue;  // whose models normalise patches
      SCOPED_TRACE(d.name);
      const std::string there = std::string(folder / std::string(d.name)) + "/model.safetensors", back = folder / "back.safetensors";
      std::filesystem::create_directory(folder / std::string(d.name));
      Conversion c;
      try {
        c = convert(original, there, to_dialect(d.name));
      } catch (const Error& e) {
        // Only what a dialect says it has no place for.
        EXPECT_THAT(e.what(), testing::AnyOf(HasSubstr("the model cannot be written as"), HasSubstr("would be taken for"), HasSubstr("would not come back"))) << e.what();
        continue;
      }
      ++written;
      EXPECT_EQ(c.dialect, d.name);
      const LoadedModel loaded = load_model(there, {}, DType::kF32);
      EXPECT_EQ(loaded.dialect, d.name);
      EXPECT_TRUE(loaded.assumed.empty()) << loaded.assumed.front();
      convert(there, back, to_dialect("fovea"));
      expect_same_tensors(original, back);
      const std::string again = folder / "again.safetensors";
      std::filesystem::remove(folder / "config.json");
      convert(back, again, to_dialect(d.name));
      expect_same_tensors(there, again);
    }
    EXPECT_GE(written, 1);
  }
}

TEST(ConvertDialect, TypesChangeOrStay) {
  const TemporaryFolder folder;
  ConvertOptions small = to_dialect("timm", "bf16");
  small.set = small_models()[0].set;
  const std::string half = folder / "half.safetensors", kept = folder / "kept.safetensors";
  EXPECT_EQ(convert("vit_tiny_patch16_224", half, small).dtype, "bf16");
  for (const WeightFile file = open_weights(half); const WeightTensor& t : file.tensors()) EXPECT_EQ(t.type, StoredType::kBF16);
  EXPECT_EQ(convert(half, kept, to_dialect("lucidrains-vit")).dtype, "bf16");
  for (const WeightFile file = open_weights(kept); const WeightTensor& t : file.tensors()) EXPECT_EQ(t.type, StoredType::kBF16);
  const std::string wide = folder / "wide.safetensors", narrow = folder / "narrow.safetensors";
  convert(half, wide, to_dialect("timm", "f64"));
  convert(wide, narrow, to_dialect("timm", "bf16"));
  expect_same_tensors(half, narrow);
}

TEST(ConvertDialect, RefusesWithTheReason) {
  const TemporaryFolder folder;
  const auto converting = [&](const std::string& model, const std::string& dialect, const Settings& set = {}) {
    ConvertOptions o = to_dialect(dialect);
    o.set = set;
    return [=, out = std::string(folder / "x.safetensors")] { convert(model, out, o); };
  };
  const std::string swin = "swin_tiny_patch4_window7_224";
  EXPECT_THAT(converting(swin, "microsoft-cswin"), ThrowsMessage<Error>(HasSubstr("has no swin models; for this one there are fovea, ")));
  EXPECT_THAT(converting(swin, "onnx"), ThrowsMessage<Error>(HasSubstr("--to onnx: there is no such naming scheme")));
  EXPECT_THAT(converting("vit_mini", "lucidrains-vit"), ThrowsMessage<Error>(HasSubstr("has a stem of convolutions, which only fovea's own files hold")));
  EXPECT_THAT(converting("vit_tiny_patch16_224", "lucidrains-vit", {{"layer_scale", "1e-5"}}), ThrowsMessage<Error>(HasSubstr("has no name for 24 of its tensors")));
  EXPECT_THAT(converting(swin, "timm", {{"attention", "longformer"}}), ThrowsMessage<Error>(HasSubstr("which only fovea's own files hold")));
  EXPECT_THAT(converting("deit_tiny_patch16_224", "timm", {{"attention", "performer"}}), ThrowsMessage<Error>(HasSubstr("fovea's own files")));
  // What one layout of a home cannot hold, another one may; where none can, each says why.
  EXPECT_THAT(converting("vit_tiny_patch16_224", "hf", {{"depth", "1"}, {"prefix_positions", "false"}}),
              ThrowsMessage<Error>(HasSubstr("its position table has a row for the class token, and the model has none")));
  EXPECT_THAT(converting("vit_tiny_patch16_224", "torchvision", {{"depth", "1"}, {"positions", "false"}}), ThrowsMessage<Error>(HasSubstr("its tokens have no positions")));
  // Two epsilons only transformers has, and there one of them is fixed.
  EXPECT_THAT(converting(swin, "timm", {{"norm_epsilon", "1e-6"}, {"merge_norm_epsilon", "1e-5"}}), ThrowsMessage<Error>(HasSubstr("have another epsilon than those in them")));
  EXPECT_THAT(converting(swin, "huggingface", {{"norm_epsilon", "1e-6"}}), ThrowsMessage<Error>(HasSubstr("have the epsilon 1e-06, and those of transformers' Swin always 1e-05")));
  EXPECT_FALSE(std::filesystem::exists(folder / "x.safetensors"));
}

TEST(ConvertDialect, TransformersSwinKeepsItsTwoEpsilons) {
  const TemporaryFolder folder;
  ConvertOptions o = to_dialect("huggingface");
  o.set = {{"dim", "32"}, {"depths", "1,1"}, {"stage_heads", "1,2"}, {"norm_epsilon", "1e-3"}, {"merge_norm_epsilon", "1e-5"}};
  std::filesystem::create_directory(folder / "there");
  convert("swin_tiny_patch4_window7_224", folder / "there/model.safetensors", o);
  const ModelConfig there = load_model(folder / "there/model.safetensors", {}, DType::kF32).classifier->config();
  EXPECT_EQ(there.norm_epsilon, 1e-3);
  EXPECT_EQ(there.between_norm_epsilon(), 1e-5);
}

// What the names do not tell travels in the metadata, the rest does not.
TEST(ConvertDialect, HeadsAndPreprocessingTravel) {
  const TemporaryFolder folder;
  ConvertOptions o = to_dialect("timm");
  o.set = {{"dim", "96"}, {"depth", "1"}, {"heads", "4"}, {"classes", "2"}, {"class_names", "cat,dog"}, {"mean", "0.1,0.2,0.3"}, {"crop", "0.8"}};
  const std::string file = folder / "a.safetensors";
  convert("vit_tiny_patch16_224", file, o);
  const LoadedModel m = load_model(file, {}, DType::kF32);
  const ModelConfig& c = m.classifier->config();
  EXPECT_EQ(c.heads, 4);
  EXPECT_EQ(c.class_names, (std::vector<std::string>{"cat", "dog"}));
  EXPECT_EQ(c.input.mean, (std::vector<double>{0.1, 0.2, 0.3}));
  EXPECT_EQ(c.input.crop_pct, 0.8);
  EXPECT_TRUE(m.assumed.empty());
  LoadOptions other;
  other.set = {{"heads", "2"}};
  EXPECT_EQ(load_model(file, other, DType::kF32).classifier->config().heads, 2);  // --set has the last word
}

}  // namespace
}  // namespace fovea
