#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <thread>

#include "cli/run_cli.h"
#include "fovea/fovea.h"
#include "image/dataset.h"
#include "image/transforms.h"

namespace fovea {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

const std::string kMnist = FOVEA_SHARED "/data/vit_mnist";

std::vector<float> pixels(const ModelInfo& info, int64_t batch, float phase) {
  std::vector<float> x(static_cast<size_t>(batch * info.channels * info.height * info.width));
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(0.37f * static_cast<float>(i) + phase);
  return x;
}

TEST(Model, ServesManyThreads) {
  const Model model = Model::load("swin_mini");
  const ModelInfo info = model.info();
  ExecutionOptions one;
  one.threads = 1;
  std::vector<std::vector<float>> serial(4), parallel(4);
  const auto ask = [&](size_t i) {
    Session session(model, one);
    std::vector<float> out;
    for (int repeat = 0; repeat < 3; ++repeat) out = session.logits(pixels(info, 2, static_cast<float>(i)).data(), 2, info.height, info.width);
    return out;
  };
  for (size_t i = 0; i < 4; ++i) serial[i] = ask(i);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < 4; ++i) threads.emplace_back([&, i] { parallel[i] = ask(i); });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(serial, parallel);
  EXPECT_NE(serial[0], serial[1]);
}

// Without weights the same is known as with them; a model of more than a thousand million parameters is described at once.
TEST(Model, IsDescribedAsItIsLoaded) {
  LoadOptions options;
  options.height = 40;
  options.width = 56;
  options.set = {{"classes", "7"}};
  const ModelInfo loaded = Model::load("swin_mini", options).info(), described = Model::describe("swin_mini", options);
  EXPECT_EQ(described.parameters, loaded.parameters);
  EXPECT_EQ(described.gflop, loaded.gflop);
  EXPECT_EQ(std::pair(described.height, described.width), std::pair(loaded.height, loaded.width));
  EXPECT_EQ(std::pair(described.source, described.dtype), std::pair(loaded.source, loaded.dtype));
  EXPECT_EQ(std::pair(described.architecture, described.preprocessing), std::pair(loaded.architecture, loaded.preprocessing));
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_GT(Model::describe("vit_giant_patch14_dinov2").parameters, 1'000'000'000);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(2));
  options.kernels = "cpu.none";
  EXPECT_THROW((void)Model::describe("swin_mini", options), Error);
  options.kernels = "auto";
  options.dtype = "f8";
  EXPECT_THROW((void)Model::describe("swin_mini", options), Error);
}

TEST(Model, KernelsAgree) {
  LoadOptions reference;
  reference.kernels = "reference";
  const Model exact = Model::load("vit_mini", reference), fast = Model::load("vit_mini");
  const ModelInfo info = exact.info();
  const auto x = pixels(info, 1, 0);
  const auto a = Session(exact).logits(x.data(), 1, info.height, info.width), b = Session(fast).logits(x.data(), 1, info.height, info.width);
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-5);
}

// Every table computes the same function of the same rounded operands; the rounding itself changes logits a little.
TEST(Model, SmallTypesAgreeAcrossKernelsAndNearlyWithF32) {
  for (const char* name : {"vit_mini", "swin_mini"})
    for (const std::string dtype : {"bf16", "int8"}) {
      SCOPED_TRACE(std::string(name) + " " + dtype);
      LoadOptions reference, fast;
      reference.kernels = "reference";
      reference.dtype = fast.dtype = dtype;
      const Model exact = Model::load(name, reference), small = Model::load(name, fast), f32 = Model::load(name);
      const ModelInfo info = exact.info();
      constexpr int64_t kImages = 16;  // in a single one, how a few roundings next to a tie fall decides
      const auto x = pixels(info, kImages, 0);
      const auto logits = [&](const Model& m) { return Session(m).logits(x.data(), kImages, info.height, info.width); };
      const auto a = logits(exact), b = logits(small), c = logits(f32);
      double size = 0, of_tables = 0, of_types = 0;
      for (size_t i = 0; i < a.size(); ++i) {
        size = std::max(size, std::fabs(static_cast<double>(c[i])));
        of_tables = std::max(of_tables, std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
        of_types = std::max(of_types, std::fabs(static_cast<double>(a[i]) - static_cast<double>(c[i])));
      }
      EXPECT_LT(of_types, (dtype == "bf16" ? 0.03 : 0.06) * size);
      EXPECT_GT(of_types, 1e-4 * size);  // something was rounded
      EXPECT_LT(of_tables, of_types);    // an operand next to a tie may round the other way
    }
  LoadOptions unknown;
  unknown.dtype = "f16";
  EXPECT_THROW((void)Model::load("vit_mini", unknown), Error);
}

TEST(Session, AnswersForEachFileAndGoesOnAfterBrokenOnes) {
  const TemporaryFolder f;
  for (int i = 0; i < 20; ++i) write_ppm(f / (std::to_string(i) + ".ppm"), 20 + i, 9 * i);
  std::ofstream(f / "7.ppm") << "P6\n";
  std::vector<std::filesystem::path> files;
  for (int i = 0; i < 20; ++i) files.emplace_back(f / (std::to_string(i) + ".ppm"));
  const Model model = Model::load("vit_mini");
  Session session(model);
  const auto answers = session.classify(files, 3);
  ASSERT_EQ(answers.size(), files.size());
  for (size_t i = 0; i < files.size(); ++i) {
    EXPECT_EQ(answers[i].file, files[i]);
    EXPECT_EQ(answers[i].error.empty(), i != 7);
    EXPECT_EQ(answers[i].top.size(), i == 7 ? 0u : 3u);
    if (i == 7) continue;
    EXPECT_GE(answers[i].top[0].probability, answers[i].top[1].probability);
    const auto alone = session.classify(files[i], 3);
    for (size_t k = 0; k < 3; ++k) {
      EXPECT_EQ(alone[k].index, answers[i].top[k].index);
      EXPECT_EQ(alone[k].probability, answers[i].top[k].probability);
    }
  }
  EXPECT_THAT([&] { (void)session.classify(files[7]); }, ThrowsMessage<Error>(HasSubstr("7.ppm")));
  EXPECT_THAT([&] { (void)session.classify(files, 0); }, ThrowsMessage<Error>(HasSubstr("topk")));
  ExecutionOptions other;
  other.kernels = "reference";
  EXPECT_THAT([&] { Session s(model, other); }, ThrowsMessage<Error>(HasSubstr("loaded for the kernels")));
}

TEST(ListImages, FindsPicturesInFoldersSorted) {
  const TemporaryFolder f;
  std::filesystem::create_directories(f / "d/.hidden");
  for (const char* name : {"d/b.PNG", "d/a.jpg", "d/notes.txt", "d/.c.png", "d/.hidden/d.png", "e.webp"}) std::ofstream(f / name) << "x";
  EXPECT_EQ(list_images(f / ""), (std::vector<std::filesystem::path>{f / "d/a.jpg", f / "d/b.PNG", f / "e.webp"}));
  EXPECT_EQ(list_images(f / "d/notes.txt").size(), 1u);
  EXPECT_THAT([&] { (void)list_images(f / "none"); }, ThrowsMessage<Error>(HasSubstr("there is no file or folder")));
}

TEST(Evaluate, CountsAddUp) {
  const TemporaryFolder f;
  write_class_folders(f / "data", 3, 6);
  LoadOptions load;
  load.set = {{"classes", "4"}, {"class_names", "class_c,class_b,class_a,none"}};
  const Model model = Model::load("vit_mini", load);
  EvaluateOptions o;
  o.data = f / "data";
  o.split = "all";
  o.batch = 4;
  int64_t seen = 0;
  const Evaluation e = evaluate(model, o, [&](int64_t done, int64_t total) {
    EXPECT_GT(done, seen);
    EXPECT_EQ(total, 18);
    seen = done;
  });
  EXPECT_EQ(seen, 18);
  EXPECT_EQ(e.images, 18);
  ASSERT_EQ(e.classes.size(), 4u);
  EXPECT_EQ(e.classes[0].name, "class_c");
  int64_t right = 0, all = 0;
  for (size_t t = 0; t < 4; ++t)
    for (size_t p = 0; p < 4; ++p) {
      all += e.confusion[t][p];
      right += t == p ? e.confusion[t][p] : 0;
    }
  EXPECT_EQ(all, 18);
  EXPECT_DOUBLE_EQ(e.top1, static_cast<double>(right) / 18);
  EXPECT_EQ(e.top5, 1.0);
  EXPECT_EQ(e.classes[3].support, 0);

  // The same labels by hand, one image at a time.
  Session session(model);
  double loss = 0;
  for (const auto& file : list_images(o.data))
    for (const Prediction& p : session.classify(file, 4))
      if (p.name == file.parent_path().filename()) loss -= std::log(p.probability) / 18;
  EXPECT_NEAR(e.loss, loss, 1e-6);

  const Model stranger = Model::load("vit_mini");
  EXPECT_THAT([&] { (void)evaluate(stranger, o); }, ThrowsMessage<Error>(HasSubstr("has 3 classes")));
  std::filesystem::rename(f / "data/class_b", f / "data/class_d");
  EXPECT_THAT([&] { (void)evaluate(model, o); }, ThrowsMessage<Error>(HasSubstr("'class_d'")));
}

TEST(Evaluate, BrokenImagesAreListedAndTooManyStop) {
  const TemporaryFolder f;
  write_class_folders(f / "data", 2, 6);
  std::ofstream(f / "data/class_a/3.ppm") << "P6\n";
  LoadOptions load;
  load.set = {{"classes", "2"}, {"class_names", "class_a,class_b"}};
  const Model model = Model::load("vit_mini", load);
  EvaluateOptions o;
  o.data = f / "data";
  o.split = "all";
  EXPECT_THAT([&] { (void)evaluate(model, o); }, ThrowsMessage<Error>(HasSubstr("3.ppm")));
  o.max_broken = 0.5;
  const Evaluation e = evaluate(model, o);
  EXPECT_EQ(e.images, 11);
  ASSERT_EQ(e.skipped.size(), 1u);
  EXPECT_THAT(e.skipped[0].file, HasSubstr("3.ppm"));
}

// Folders called by ImageNet's numbers are that model's classes, though not all of them are there.
TEST(Evaluate, KnowsImageNetsFolders) {
  const TemporaryFolder f;
  write_class_folders(f / "data", 2, 3);
  std::filesystem::rename(f / "data/class_a", f / "data/n02123045");  // tabby
  std::filesystem::rename(f / "data/class_b", f / "data/n01440764");  // tench
  LoadOptions load;
  load.set = {{"classes", "1000"}};
  const Model model = Model::load("vit_mini", load);
  EXPECT_EQ(model.info().class_names.at(281), "tabby, tabby cat");
  EvaluateOptions o;
  o.data = f / "data";
  o.split = "all";
  const Evaluation e = evaluate(model, o);
  EXPECT_EQ(e.images, 6);
  EXPECT_EQ(e.classes.at(281).name, "tabby, tabby cat");
  EXPECT_EQ(e.classes.at(281).support, 3);
  EXPECT_EQ(e.classes.at(0).support, 3);
  std::filesystem::rename(f / "data/n01440764", f / "data/n00000000");
  EXPECT_THAT([&] { (void)evaluate(model, o); }, ThrowsMessage<Error>(HasSubstr("has 2 classes")));

  const auto image = std::filesystem::directory_iterator(f / "data/n02123045")->path();
  const std::vector<Prediction> top = Session(model).classify(image, 1);
  EXPECT_EQ(top.at(0).name, model.info().class_names.at(static_cast<size_t>(top.at(0).index)));
  load.set = {{"classes", "2"}};
  EXPECT_TRUE(Model::load("vit_mini", load).info().class_names.empty());
}

// A checkpoint of vit-pytorch with its MNIST test set: an independent forward in another language gets 9725 right.
class VitMnist : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kMnist)) GTEST_SKIP() << "the checkpoint and its data are not here: " << kMnist;
  }
  LoadOptions options() const {
    LoadOptions o;
    o.set = {{"heads", "4"}, {"mean", "0.1307"}, {"std", "0.3081"}};
    return o;
  }
};

TEST_F(VitMnist, LogitsMatchTheStoredOnes) {
  const Model model = Model::load(kMnist + "/vit_mnist_gpu.pt", options());
  const DataSplit data = open_split(kMnist, "test", 0);
  constexpr int64_t kImages = 1000;
  std::vector<float> x(kImages * 28 * 28), stored(kImages * 10);
  for (int64_t i = 0; i < kImages; ++i) normalize(to_channels(data.dataset->read(i), 1), {0.1307f}, {0.3081f}, x.data() + i * 784);
  std::ifstream(kMnist + "/logits_t10k_first1000_f32.bin", std::ios::binary)
      .read(reinterpret_cast<char*>(stored.data()), static_cast<std::streamsize>(stored.size() * sizeof(float)));
  Session session(model);
  double worst = 0;
  for (int64_t i = 0; i < kImages; i += 100) {
    const auto logits = session.logits(x.data() + i * 784, 100, 28, 28);
    for (size_t j = 0; j < logits.size(); ++j) {
      ASSERT_TRUE(std::isfinite(logits[j]));
      worst = std::max(worst, std::abs(static_cast<double>(logits[j]) - stored[static_cast<size_t>(i) * 10 + j]));
    }
  }
  EXPECT_LT(worst, 1e-3);
  EXPECT_GT(*std::max_element(stored.begin(), stored.end()), 1.0f);
}

TEST_F(VitMnist, AccuracyIsTheKnownOne) {
  const Model model = Model::load(kMnist + "/vit_mnist_gpu.pt", options());
  EvaluateOptions o;
  o.data = kMnist;
  const Evaluation e = evaluate(model, o);
  EXPECT_EQ(e.split, "test");
  EXPECT_EQ(e.images, 10000);
  EXPECT_NEAR(e.top1 * 10000, 9725, 5);
}

}  // namespace
}  // namespace fovea
