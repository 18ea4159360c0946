#include "fovea/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "cli/run_cli.h"
#include "fovea/info.h"
#include "tasks/load_model.h"
#include "weights/safetensors.h"

namespace fovea {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

void save_model(const std::string& path, const Classifier& model, std::map<std::string, std::string> metadata = {}) {
  std::vector<TensorToWrite> tensors;
  for (const Param& p : model.params().params()) tensors.push_back({p.name, DType::kF32, p.shape, p.value.data});
  metadata["fovea.config"] = to_json(model.config());
  write_safetensors(path, tensors, metadata);
}

std::vector<float> logits_of(const std::string& model, const std::string& dtype) {
  LoadOptions o;
  o.dtype = dtype;
  const Model m = Model::load(model, o);
  const ModelInfo info = m.info();
  std::vector<float> x(static_cast<size_t>(2 * info.channels * info.height * info.width));
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(0.37f * static_cast<float>(i));
  return Session(m).logits(x.data(), 2, info.height, info.width);
}

ConvertOptions to(const std::string& dtype) {
  ConvertOptions o;
  o.dtype = dtype;
  return o;
}

class Convert : public testing::Test {
 protected:
  // A model of which some layers read their weights plain.
  void SetUp() override {
    LoadOptions o;
    o.seed = 5;
    o.attention = "transformer_xl,global";
    o.set = {{"depth", "2"}};
    model_ = load_model("vit_mini", o, DType::kF32);
    save_model(original(), *model_.classifier, {{"note", "kept"}, {"fovea.training", "{}"}});
  }
  std::string original() const { return folder_ / "original.safetensors"; }

  TemporaryFolder folder_;
  LoadedModel model_;
};

// Packed in int8 a file in int8 has the very bytes that the original has.
TEST_F(Convert, Int8IsWhatProductsInInt8Read) {
  const std::string file = folder_ / "int8.safetensors";
  const Conversion c = convert(original(), file, to("int8"));
  EXPECT_EQ(c.dtype, "int8");
  EXPECT_EQ(c.from_dtype, "f32");
  EXPECT_GT(c.change, 1e-4);
  EXPECT_LT(c.change, 0.02);
  LoadOptions int8, own;
  int8.dtype = "int8";
  for (const KernelListing& k : list_kernels()) {
    SCOPED_TRACE(k.name);
    const KernelTable& table = kernel_table(k.name);
    Context ctx(table, table.dtype, 2);
    const LoadedModel a = load_for_inference(original(), int8, ctx), b = load_for_inference(file, own, ctx);
    EXPECT_EQ(b.type, ProductType::kInt8);
    EXPECT_EQ(b.dtype, "int8");
    const Buffer &x = a.classifier->params().packed_buffer(), &y = b.classifier->params().packed_buffer();
    ASSERT_EQ(x.size(), y.size());
    if (table.dtype == DType::kF64) {  // whose zeros may have a sign, which int8 loses
      const auto *p = static_cast<const double*>(x.data()), *q = static_cast<const double*>(y.data());
      EXPECT_TRUE(std::equal(p, p + x.size() / sizeof(double), q));
    } else {
      EXPECT_EQ(std::memcmp(x.data(), y.data(), x.size()), 0);
    }
  }
  EXPECT_EQ(logits_of(file, "auto"), logits_of(original(), "int8"));
  EXPECT_EQ(logits_of(file, "int8"), logits_of(original(), "int8"));
  EXPECT_NE(logits_of(file, "f32"), logits_of(original(), "f32"));  // but f32 products of what is left
  EXPECT_EQ(Model::load(file).info().dtype, "int8");

  const WeightFile written = open_weights(file);
  EXPECT_EQ(written.metadata().at("fovea.dtype"), "int8");
  EXPECT_EQ(written.at("blocks.0.mlp.fc1.weight").type, StoredType::kI8);
  EXPECT_EQ(written.at("blocks.0.mlp.fc1.weight_scale").type, StoredType::kF32);
  EXPECT_EQ(written.at("blocks.0.mlp.fc1.weight_scale").shape, Shape{written.at("blocks.0.mlp.fc1.weight").shape[0]});
  EXPECT_EQ(written.at("patch_embed.proj.weight").type, StoredType::kF32);
  EXPECT_EQ(written.at("head.weight").type, StoredType::kF32);

  // And again: nothing is lost any more.
  const std::string again = folder_ / "again.safetensors";
  EXPECT_EQ(convert(file, again).change, 0);
  EXPECT_EQ(text_of_file(again), text_of_file(file));
}

TEST_F(Convert, SmallFloatsAreUsualFiles) {
  for (const std::string dtype : {"f16", "bf16"}) {
    SCOPED_TRACE(dtype);
    const std::string file = folder_ / (dtype + ".safetensors");
    const Conversion c = convert(original(), file, to(dtype));
    EXPECT_LT(c.change, dtype == "f16" ? 4e-4 : 3e-3);
    const WeightFile written = open_weights(file);
    for (const WeightTensor& t : written.tensors()) EXPECT_EQ(t.type, dtype == "f16" ? StoredType::kF16 : StoredType::kBF16) << t.name;
    EXPECT_EQ(written.tensors().size(), model_.classifier->params().params().size());
    const Model m = Model::load(file);
    EXPECT_EQ(m.info().dtype, dtype);
    // Products in bf16 round the weights themselves, so these files give the same bits there where nothing else reads them.
    EXPECT_EQ(convert(file, folder_ / "again.safetensors").change, 0);
  }
}

TEST_F(Convert, F32IsTheSameAndKeepsTheMetadata) {
  const std::string file = folder_ / "f32.safetensors";
  const Conversion c = convert(original(), file);
  EXPECT_EQ(c.dtype, "f32");
  EXPECT_EQ(c.change, 0);
  EXPECT_EQ(c.bytes, static_cast<int64_t>(std::filesystem::file_size(file)));
  const WeightFile written = open_weights(file);
  EXPECT_EQ(written.metadata().at("note"), "kept");
  EXPECT_FALSE(written.metadata().contains("fovea.training"));
  for (const Param& p : model_.classifier->params().params()) {
    std::vector<float> values(static_cast<size_t>(p.shape.elements()));
    written.read_f32(p.name, values.data());
    EXPECT_EQ(std::memcmp(values.data(), p.value.data, p.value.bytes()), 0) << p.name;
  }
  convert(original(), original(), to("bf16"));  // over itself
  EXPECT_EQ(Model::load(original()).info().dtype, "bf16");
}

TEST_F(Convert, SaysWhatIsWrong) {
  const auto converting = [&](const std::string& in, const std::string& out, const ConvertOptions& o) { return [=] { (void)convert(in, out, o); }; };
  EXPECT_THAT(converting(original(), folder_ / "x.safetensors", to("int4")), ThrowsMessage<Error>(HasSubstr("--dtype int4: choose f32, f16, bf16 or int8")));
  EXPECT_THAT(converting(original(), folder_ / "x.pth", to("f16")), ThrowsMessage<Error>(HasSubstr("call it NAME.safetensors")));
  EXPECT_THAT(converting(original(), folder_ / "no/x.safetensors", to("f16")), ThrowsMessage<Error>(HasSubstr("cannot write")));
  EXPECT_THAT(converting(folder_ / "none.safetensors", folder_ / "x.safetensors", to("f16")), ThrowsMessage<Error>(HasSubstr("there is no file")));
  ConvertOptions dialect;
  dialect.to = "microsoft-swin";
  EXPECT_THAT(converting(original(), folder_ / "x.safetensors", dialect), ThrowsMessage<Error>(HasSubstr("which only fovea's own files hold")));

  Param& p = *model_.classifier->params().find("blocks.1.mlp.fc2.weight");
  p.value.as<float>()[7] = 1e6f;
  save_model(original(), *model_.classifier);
  EXPECT_THAT(converting(original(), folder_ / "x.safetensors", to("f16")), ThrowsMessage<Error>(HasSubstr("which f16 cannot hold")));
  p.value.as<float>()[7] = std::numeric_limits<float>::infinity();
  save_model(original(), *model_.classifier);
  EXPECT_THAT(converting(original(), folder_ / "x.safetensors", to("int8")), ThrowsMessage<Error>(HasSubstr("which int8 cannot hold")));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "x.safetensors"));

  // Integers without their scales.
  const std::vector<int8_t> integers(static_cast<size_t>(p.shape.elements()));
  std::vector<TensorToWrite> tensors;
  for (const Param& q : model_.classifier->params().params()) {
    if (&q == &p) tensors.push_back({q.name, DType::kI8, q.shape, integers.data()});
    else tensors.push_back({q.name, DType::kF32, q.shape, q.value.data});
  }
  write_safetensors(folder_ / "bare.safetensors", tensors, {{"fovea.config", to_json(model_.classifier->config())}});
  EXPECT_THAT([&] { (void)Model::load(folder_ / "bare.safetensors"); }, ThrowsMessage<Error>(HasSubstr("has no scale of each output")));
}

}  // namespace
}  // namespace fovea
