#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "cli/run_cli.h"
#include "core/check.h"
#include "fovea/fovea.h"
#include "weights/npz_writer.h"
#include "weights/safetensors.h"

namespace fovea {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

std::vector<float> waves(int64_t count) {
  std::vector<float> x(static_cast<size_t>(count));
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(0.37f * static_cast<float>(i));
  return x;
}

TEST(Features, OfAHierarchyAreTokensAPyramidAndTheLogitsThatTheSessionGives) {
  const Model model = Model::load("swin_mini");
  Session session(model);
  const int64_t channels = model.info().channels;
  const std::vector<float> x = waves(3 * channels * 48 * 64);
  const Features f = session.features(x.data(), 3, 48, 64);
  EXPECT_EQ(f.batch, 3);
  EXPECT_EQ(f.prefix_tokens, 0);
  ASSERT_FALSE(f.pyramid.empty());
  EXPECT_EQ(f.logits, session.logits(x.data(), 3, 48, 64));
  for (size_t i = 0; i < f.pyramid.size(); ++i) {
    const Features::Stage& s = f.pyramid[i];
    EXPECT_EQ(s.height, 48 / s.stride);
    EXPECT_EQ(s.width, 64 / s.stride);
    EXPECT_EQ(std::ssize(s.values), 3 * s.channels * s.height * s.width);
  }
  EXPECT_EQ(f.stride, f.pyramid.back().stride);
  EXPECT_EQ(std::ssize(f.tokens), 3 * f.height * f.width * f.channels);
  // One image at a time gives the same: batches are joined in order.
  const Features second = session.features(x.data() + channels * 48 * 64, 1, 48, 64);
  const size_t size = second.pyramid[0].values.size();
  EXPECT_EQ(second.pyramid[0].values, std::vector<float>(f.pyramid[0].values.begin() + static_cast<int64_t>(size), f.pyramid[0].values.begin() + static_cast<int64_t>(2 * size)));
}

TEST(Features, OfAVitHaveItsPrefixFirst) {
  LoadOptions o;
  o.set = {{"register_tokens", "2"}};
  const Model model = Model::load("vit_mini", o);
  Session session(model);
  const std::vector<float> x = waves(17 * 3 * 32 * 32);  // more than go together in one pass
  const Features f = session.features(x.data(), 17, 32, 32);
  EXPECT_EQ(f.batch, 17);
  EXPECT_EQ(f.prefix_tokens, 3);
  EXPECT_TRUE(f.pyramid.empty());
  EXPECT_EQ(std::ssize(f.tokens), 17 * (3 + f.height * f.width) * f.channels);
  EXPECT_EQ(f.height * f.stride, 32);
}

TEST(Features, AreSavedUnderBothFormats) {
  const TemporaryFolder folder;
  Session session(Model::load("swin_mini"));
  const std::vector<float> x = waves(3 * 32 * 32);
  const Features f = session.features(x.data(), 1, 32, 32);
  for (const char* name : {"f.npz", "f.safetensors"}) {
    save_features(f, folder / name, {"x.npy"}, "swin_mini");
    if (std::string(name) == "f.npz") continue;  // npz_writer_test.cc reads those with texts
    const WeightFile file = open_weights(folder / name);
    EXPECT_EQ(file.metadata().at("files"), R"(["x.npy"])");
    EXPECT_EQ(file.at("tokens").shape, (Shape{1, f.height * f.width, f.channels}));
    EXPECT_EQ(file.at("stage1").shape, (Shape{1, f.pyramid[0].channels, f.pyramid[0].height, f.pyramid[0].width}));
    EXPECT_EQ(file.at("strides").shape, Shape{std::ssize(f.pyramid)});
    std::vector<float> tokens(f.tokens.size());
    file.read_f32("tokens", tokens.data());
    EXPECT_EQ(tokens, f.tokens);
  }
  EXPECT_THAT([&] { save_features(f, folder / "f.txt", {}, ""); }, ThrowsMessage<Error>(HasSubstr("NAME.npz or NAME.safetensors")));
}

std::string npy(const std::string& descr, const std::string& order, const std::string& shape, const std::string& data) {
  const std::string dict = "{'descr': '" + descr + "', 'fortran_order': " + order + ", 'shape': " + shape + "}\n";
  std::string out("\x93NUMPY\x01\x00", 8);
  out += static_cast<char>(dict.size());
  out += '\0';
  return out + dict + data;
}

// Six channels: arrays have features, pictures are refused in one sentence.
TEST(Features, OfImagesWithOtherChannelsThanPicturesHave) {
  const TemporaryFolder folder;
  LoadOptions options;
  options.set = {{"channels", "6"}, {"depth", "1"}, {"height", "32"}};
  const Model model = Model::load("vit_tiny_patch16_224", options);
  Session session(model);
  const std::vector<float> x = waves(2 * 6 * 32 * 32);
  EXPECT_EQ(session.features(x.data(), 2, 32, 32).tokens.size(), 2u * 5 * 192);
  const std::filesystem::path picture = folder / "a.ppm";
  std::ofstream(picture, std::ios::binary) << "P6 1 1 255\n123";
  const auto refused = ThrowsMessage<Error>(HasSubstr("takes images of 6 channels, and pictures have 1 or 3"));
  EXPECT_THAT([&] { session.features({picture}); }, refused);
  EXPECT_THAT([&] { session.classify({picture}); }, refused);
}

TEST(ImageBatch, IsReadFromEveryFormat) {
  const TemporaryFolder folder;
  const std::vector<float> x = waves(2 * 3 * 4 * 5);
  const std::string bytes(reinterpret_cast<const char*>(x.data()), x.size() * 4);
  const auto write = [&](const std::string& name, const std::string& text) {
    std::ofstream(folder / name, std::ios::binary) << text;
    return folder / name;
  };
  const auto expect_same = [&](const ImageBatch& b) {
    EXPECT_EQ(b.batch, 2);
    EXPECT_EQ(b.height, 4);
    EXPECT_EQ(b.width, 5);
    EXPECT_EQ(b.values, x);
  };
  expect_same(read_image_batch(write("a.npy", npy("<f4", "False", "(2, 3, 4, 5)", bytes)), 3));
  expect_same(read_image_batch(write("a.bin", bytes), 3, 4, 5));
  write_safetensors(folder / "a.safetensors", std::vector<TensorToWrite>{{"anything", DType::kF32, Shape{2, 3, 4, 5}, x.data()}}, {});
  expect_same(read_image_batch(folder / "a.safetensors", 3));
  // The first index moves fastest: (1, 3, 1, 2) of 0..5.
  const float values[] = {0, 1, 2, 3, 4, 5};
  const ImageBatch f = read_image_batch(write("f.npy", npy("<f4", "True", "(3, 1, 2)", std::string(reinterpret_cast<const char*>(values), 24))), 3);
  EXPECT_THAT(f.values, ElementsAre(0, 3, 1, 4, 2, 5));

  const auto reading = [&](const std::string& path, int64_t side = 0) { return [=] { (void)read_image_batch(path, 3, side, side); }; };
  EXPECT_THAT(reading(write("b.npy", npy("<f4", "False", "(4, 5, 3)", bytes.substr(0, 240)))), ThrowsMessage<Error>(HasSubstr("expected [batch,] 3, height, width")));
  EXPECT_THAT(reading(write("c.npy", npy("<i4", "False", "(3, 4, 5)", bytes.substr(0, 240)))), ThrowsMessage<Error>(HasSubstr("are floats")));
  EXPECT_THAT(reading(write("d.npy", npy("<f4", "False", "(3, 4, 5)", bytes.substr(0, 200)))), ThrowsMessage<Error>(HasSubstr("does not fit")));
  EXPECT_THAT(reading(write("e.npy", npy("<f4", "False", "(3, 9223372036854775807, 9223372036854775807)", ""))), ThrowsMessage<Error>(HasSubstr("does not fit")));
  EXPECT_THAT(reading(folder / "a.bin"), ThrowsMessage<Error>(HasSubstr("--size")));
  EXPECT_THAT(reading(folder / "a.bin", 7), ThrowsMessage<Error>(HasSubstr("take 588 each")));
  write_safetensors(folder / "two.safetensors", std::vector<TensorToWrite>{{"p", DType::kF32, Shape{1}, x.data()}, {"q", DType::kF32, Shape{1}, x.data()}}, {});
  EXPECT_THAT(reading(folder / "two.safetensors"), ThrowsMessage<Error>(HasSubstr("which is the image?")));
}

}  // namespace
}  // namespace fovea
