// Short training runs against PyTorch's own in float64 (tests/fixtures/training).
#include <gtest/gtest.h>

#include "core/convert.h"
#include "harness/expect.h"
#include "harness/fixture.h"
#include "train/classification_step.h"

namespace fovea {
namespace {

using harness::Fixture;
using harness::HostTensor;

ModelConfig model_of(const nlohmann::json& j) {
  ModelConfig c;
  c.name = j.at("case");
  c.input.height = j.at("img_size")[0];
  c.input.width = j.at("img_size")[1];
  c.classes = j.at("num_classes");
  c.patch = j.at("patch_size");
  c.dim = j.at("embed_dim");
  c.mlp_ratio = j.at("mlp_ratio");
  c.norm_epsilon = j.at("ln_eps");
  if (j.at("mechanism") == "training_swin") {
    c.family = "swin";
    c.attention = fmt::format("window:size={}", j.at("window_size").get<int64_t>());
    c.depths = j.at("depths").get<std::vector<int64_t>>();
    c.stage_heads = j.at("num_heads").get<std::vector<int64_t>>();
  } else {
    c.depth = j.at("depth");
    c.heads = j.at("num_heads");
    c.class_token = j.at("class_token");
    c.register_tokens = j.at("reg_tokens");
    c.pool = j.at("global_pool");
    c.prefix_positions = c.register_tokens == 0 || j.value("prefix_positions", true);
  }
  return c;
}

void load(Classifier& model, const Fixture& fixture) {
  size_t filled = 0;
  for (const std::string& name : fixture.names("w.")) {
    Param* p = model.params().find(name.substr(2));
    ASSERT_NE(p, nullptr) << name;
    convert(fixture.tensor(name, DType::kF64), p->value);
    ++filled;
  }
  ASSERT_EQ(filled, model.params().params().size());
}

// Without the key third of a qkv bias, whose gradient is rounding noise.
std::vector<double> meaningful(const std::string& name, const ConstTensor& t) {
  std::vector<double> all = harness::to_doubles(t);
  if (name.ends_with("qkv.bias")) {
    const auto third = static_cast<std::ptrdiff_t>(all.size() / 3);
    all.erase(all.begin() + third, all.begin() + 2 * third);
  }
  return all;
}

class TrainingFixture : public testing::TestWithParam<const char*> {};

TEST_P(TrainingFixture, EveryTableFollowsTheRun) {
  const Fixture fixture(std::string(FOVEA_TEST_FIXTURES) + "/training/" + GetParam() + ".safetensors");
  const nlohmann::json& j = fixture.config;
  const int64_t steps = j.at("steps"), batch = j.at("B");
  const std::vector<double> losses = harness::to_doubles(fixture.tensor("out.losses"));
  const std::vector<double> norms = harness::to_doubles(fixture.tensor("out.grad_norms"));
  const std::vector<int32_t> labels = fixture.ints("in.labels");
  harness::for_each_table([&](const KernelTable& table) {
    const bool exact = table.dtype == DType::kF64;
    Context ctx(table, table.dtype, 1);
    Classifier model(model_of(j));
    model.params().allocate(table.dtype, ParamStore::Gradients::kYes);
    load(model, fixture);
    StepConfig config;
    config.label_smoothing = j.at("label_smoothing");
    config.clip_norm = j.at("clip_max_norm");
    config.optimizer = {j.at("betas")[0], j.at("betas")[1], j.at("eps"), j.at("weight_decay")};
    ClassificationStep step(model, config);
    const HostTensor images = fixture.tensor("in.images", table.dtype);
    for (int64_t s = 0; s < steps; ++s) {
      const auto r = step.accumulate(images.slice(s, 1).reshaped(Shape{batch, 3, images.dim(3), images.dim(4)}), labels.data() + s * batch, {}, 1,
                                     Rng(1), ctx);
      EXPECT_NEAR(r.loss, losses[static_cast<size_t>(s)], (exact ? 1e-6 : 1e-4) * losses[static_cast<size_t>(s)]) << "step " << s;
      if (s == 0) {
        for (const Param& p : model.params().params()) {
          const std::vector<double> expected = meaningful(p.name, fixture.tensor("grad0." + p.name));
          const std::vector<double> actual = meaningful(p.name, p.grad);
          harness::expect_close(harness::view(actual), harness::view(expected), harness::Tolerance::relative(exact ? 2e-7 : 2.5e-5), p.name);
        }
      }
      const double norm = step.update(j.at("lr"), ctx);
      EXPECT_NEAR(norm, norms[static_cast<size_t>(s)], (exact ? 1e-6 : 1e-3) * norms[static_cast<size_t>(s)]) << "step " << s;
    }
    if (!exact) return;
    for (const Param& p : model.params().params()) {
      const std::vector<double> expected = meaningful(p.name, fixture.tensor(fmt::format("w{}.{}", steps, p.name)));
      const std::vector<double> actual = meaningful(p.name, p.value);
      harness::expect_close(harness::view(actual), harness::view(expected), harness::Tolerance::relative(2e-7), p.name);
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Runs, TrainingFixture, testing::Values("train_vit", "train_vit_avgpool_reg", "train_swin", "train_swin_odd"),
                         [](const auto& run) { return std::string(run.param); });

}  // namespace
}  // namespace fovea
