// A model loaded for inference has its weights packed alone and answers with the same bits as one that keeps everything.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "cli/run_cli.h"
#include "core/convert.h"
#include "fovea/info.h"
#include "ops/pack_weights.h"
#include "tasks/load_model.h"
#include "weights/safetensors.h"

namespace fovea {
namespace {

std::vector<double> answer(const LoadedModel& m, Context& ctx) {
  const Classifier& c = *m.classifier;
  ctx.scratch().reset();
  ArenaScope scope(ctx.scratch());
  const Tensor images = ctx.scratch().take(Shape{2, c.config().input.channels, m.height, m.width}, ctx.dtype());
  for (int64_t i = 0; i < images.elements(); ++i) store_scalar(images, i, std::sin(0.37 * static_cast<double>(i)));
  const Tensor logits = ctx.scratch().take(Shape{2, c.config().classes}, ctx.dtype());
  c.classify(images, logits, ctx);
  std::vector<double> out;
  for (int64_t i = 0; i < logits.elements(); ++i) out.push_back(load_scalar(logits, i));
  return out;
}

// Both ways of loading `model`, in every type; returns the first type's answer.
std::vector<double> expect_same_answers(const std::string& model, LoadOptions options, const std::string& kernels = "auto") {
  std::vector<double> first;
  for (const char* dtype : {"f32", "bf16", "int8"}) {
    SCOPED_TRACE(dtype);
    options.dtype = dtype;
    const KernelTable& table = kernel_table(kernels);
    Context ctx(table, table.dtype, 2);
    const LoadedModel whole = load_model(model, options, table.dtype), lean = load_for_inference(model, options, ctx);
    pack_weights(whole.classifier->params(), ctx, product_type(dtype));
    const auto expected = answer(whole, ctx);
    EXPECT_EQ(answer(lean, ctx), expected);
    EXPECT_LT(lean.classifier->params().value_bytes(), whole.classifier->params().value_bytes());
    for (const Param& p : lean.classifier->params().params()) {
      EXPECT_EQ(p.value.empty(), p.packable && !p.read_plain) << p.name;
      EXPECT_EQ(p.packed == nullptr, !p.packable) << p.name;
    }
    if (first.empty()) first = expected;
  }
  return first;
}

// Whoever reads a weight plain in an inference must say so (Param::read_plain): this meets every mechanism.
TEST(LoadForInference, EveryAttentionAnswersFromWhatIsKept) {
  int met = 0;
  for (const AttentionListing& a : list_attentions()) {
    SCOPED_TRACE(a.name);
    LoadOptions options;
    options.attention = a.name;
    for (const char* model : {"vit_mini", "swin_mini"}) {
      try {
        (void)load_model(model, options, DType::kF32);
      } catch (const Error&) {
        continue;  // not with this family
      }
      expect_same_answers(model, options);
      ++met;
      break;
    }
  }
  EXPECT_GE(met, static_cast<int>(list_attentions().size()) - 1);
}

TEST(LoadForInference, EveryFamilyAndEveryTable) {
  LoadOptions options;
  options.set = {{"depth", "1"}, {"classes", "5"}};
  for (const KernelListing& k : list_kernels()) expect_same_answers("vit_mini", options, k.name);
  expect_same_answers("swin_mini", {});
  options.set = {{"depths", "1,1,1,1"}, {"dim", "32"}, {"stage_heads", "1,2,4,8"}};
  options.height = options.width = 64;
  expect_same_answers("CSWin_64_12211_tiny_224", options);
  expect_same_answers("swinv2_tiny_window8_256", options);
}

// Files of other types and with tensors at odd addresses are converted on the way.
TEST(LoadForInference, FilesOfEveryType) {
  const TemporaryFolder f;
  LoadOptions fresh;
  fresh.seed = 3;
  const LoadedModel m = load_model("vit_mini", fresh, DType::kF32);
  const auto save = [&](const std::string& name, DType dtype) {
    std::vector<std::vector<char>> memory;
    std::vector<TensorToWrite> tensors;
    for (const Param& p : m.classifier->params().params()) {
      auto& bytes = memory.emplace_back(static_cast<size_t>(p.shape.elements()) * size_of(dtype));
      convert(p.value, Tensor(bytes.data(), p.shape, dtype));
      tensors.push_back({p.name, dtype, p.shape, bytes.data()});
    }
    write_safetensors(f / name, tensors, {{"fovea.config", to_json(m.classifier->config())}});
    return f / name;
  };
  const auto exact = expect_same_answers(save("f32.safetensors", DType::kF32), {});
  EXPECT_EQ(expect_same_answers(save("f64.safetensors", DType::kF64), {}), exact);
  EXPECT_NE(expect_same_answers(save("bf16.safetensors", DType::kBF16), {}), exact);

  // The same file with its data three bytes further on.
  std::string bytes = text_of_file(f / "f32.safetensors");
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof(header));
  bytes.insert(8 + header, 3, ' ');
  header += 3;
  std::memcpy(bytes.data(), &header, sizeof(header));
  std::ofstream(f / "odd.safetensors", std::ios::binary) << bytes;
  EXPECT_EQ(expect_same_answers(f / "odd.safetensors", {}), exact);
}

}  // namespace
}  // namespace fovea
