#include "weights/sharded.h"

#include <gmock/gmock.h>

#include "weights/pickle_fixtures.h"
#include "weights/weight_fixtures.h"
#include "weights/zip_fixtures.h"

namespace fovea {
namespace {

using namespace std::string_literals;
using testing::error_of;
using testing::TempFolder;
using testing::values_of;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// One float for each tensor.
std::string shard_of(const std::vector<std::pair<std::string, float>>& tensors) {
  std::string header = R"({"__metadata__":{"format":"pt"})", data;
  for (const auto& [name, value] : tensors) {
    header += fmt::format(R"(,"{}":{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}})", name, data.size(), data.size() + 4);
    data.append(reinterpret_cast<const char*>(&value), 4);
  }
  return testing::safetensors_bytes(header + "}", data);
}

constexpr const char* kIndex = R"({"metadata":{"total_size":12,"nested":{"weight_map":[{}]}},"weight_map":{
  "module.a":"model-00001-of-00002.safetensors","module.b":"model-00002-of-00002.safetensors","module.c":"model-00001-of-00002.safetensors"}})";

struct Sharded {
  TempFolder folder;
  std::string first = folder.write("model-00001-of-00002.safetensors", shard_of({{"module.a", 1}, {"module.c", 3}}));
  std::string second = folder.write("model-00002-of-00002.safetensors", shard_of({{"module.b", 2}}));
  std::string index = folder.write("model.safetensors.index.json", kIndex);

  std::string error() const {
    return error_of([&] { open_weights(index); });
  }
  std::string error_with(const std::string& text) const {
    folder.write("model.safetensors.index.json", text);
    return error();
  }
};

TEST(Sharded, OpensFromTheIndexAShardOrTheFolder) {
  const Sharded s;
  for (const std::string& path : {s.index, s.first, s.second, s.folder / "", s.folder / "."}) {
    const WeightFile file = open_weights(path);
    ASSERT_EQ(file.tensors().size(), 3u) << path;
    EXPECT_EQ(file.container(), "safetensors in 2 files");
    EXPECT_EQ(std::filesystem::path(file.path()).filename(), "model.safetensors.index.json");
    EXPECT_EQ(file.metadata().at("format"), "pt");
    EXPECT_THAT(values_of(file, "a"), ElementsAre(1));
    EXPECT_THAT(values_of(file, "b"), ElementsAre(2));
    EXPECT_THAT(values_of(file, "c"), ElementsAre(3));
  }
}

TEST(Sharded, OpensShardsThatTorchWrote) {
  const TempFolder folder;
  const auto shard = [&](const std::string& file, const std::string& name) {
    const std::string pickle = testing::pickled_dict(testing::pickled_text(name) + testing::pickled_tensor(0, {4, 4}, {4, 1}));
    folder.write(file, testing::zip_of({{"a/data.pkl", pickle}, {"a/data/0", std::string(64, '\0')}}));
  };
  shard("pytorch_model-00001-of-00002.bin", "module.a");
  shard("pytorch_model-00002-of-00002.bin", "module.b");
  folder.write("pytorch_model.bin.index.json", R"({"weight_map":{"module.a":"pytorch_model-00001-of-00002.bin","module.b":"pytorch_model-00002-of-00002.bin"}})");
  for (const char* path : {"pytorch_model-00002-of-00002.bin", ""}) {
    const WeightFile file = open_weights(folder / path);
    EXPECT_EQ(file.container(), "PyTorch zip in 2 files");
    EXPECT_EQ(file.at("a").shape, (Shape{4, 4}));
    EXPECT_EQ(file.at("b").shape, (Shape{4, 4}));
  }
}

TEST(Sharded, WhatIsMissingOrContradictsIsNamed) {
  {
    const Sharded s;
    std::filesystem::remove(s.second);
    EXPECT_THAT(s.error(), HasSubstr("'" + s.second + "' is missing: '" + s.index + "' names it"));
  }
  {
    const Sharded s;
    s.folder.write("model-00002-of-00002.safetensors", shard_of({{"module.b", 2}}).substr(0, 40));
    EXPECT_THAT(s.error(), HasSubstr("'" + s.second + "' is cut short"));
  }
  {
    const Sharded s;
    s.folder.write("model-00002-of-00002.safetensors", shard_of({{"module.b", 2}, {"module.c", 3}}));
    EXPECT_THAT(s.error(), HasSubstr("'" + s.second + "' holds the tensor 'module.c', but '" + s.index + "' says that it is in 'model-00001-of-00002.safetensors'"));
    s.folder.write("model-00002-of-00002.safetensors", shard_of({{"module.b", 2}, {"module.d", 3}}));
    EXPECT_THAT(s.error(), HasSubstr("holds the tensor 'module.d', which '" + s.index + "' does not name"));
    s.folder.write("model-00002-of-00002.safetensors", shard_of({}));
    EXPECT_THAT(s.error(), HasSubstr("'" + s.second + "' lacks the tensor 'module.b'"));
  }
  {
    const Sharded s;
    std::filesystem::remove(s.index);
    EXPECT_THAT(error_of([&] { open_weights(s.first); }), HasSubstr("whose index '" + s.index + "' is not beside it"));
    EXPECT_THAT(error_of([&] { open_weights(s.folder / "model-00003-of-00003.safetensors"); }), HasSubstr("No such file"));
    EXPECT_THAT(error_of([&] { open_weights(s.folder / ""); }), HasSubstr("is a directory without model.safetensors"));
  }
}

TEST(Sharded, AFileThatIsNamedAsAShardMayStandAlone) {
  const TempFolder folder;
  for (const char* name : {"model-00001-of-00001.safetensors", "one-of-a-kind.safetensors", "-of-1.safetensors", "a-b-of-2.safetensors", "a-1-of-b", "1-of-2"})
    EXPECT_EQ(open_weights(folder.write(name, shard_of({{"a", 1}}))).tensors().size(), 1u) << name;
}

TEST(Sharded, TheIndexIsReadStrictly) {
  const Sharded s;
  EXPECT_THAT(s.error_with("{"), HasSubstr("not valid JSON"));
  EXPECT_THAT(s.error_with("{}"), HasSubstr("has no weight_map"));
  EXPECT_THAT(s.error_with(R"({"architectures":["ViT"],"layers":12,"rate":0.5,"bias":true,"x":null,"n":-1})"), HasSubstr("has no weight_map"));
  EXPECT_THAT(s.error_with(R"({"metadata":{"weight_map":{}}})"), HasSubstr("has no weight_map"));
  EXPECT_THAT(s.error_with(R"({"weight_map":{}})"), HasSubstr("names no tensor"));
  for (const char* value : {"1", "-1", "1.5", "null", "true", "\"x\"", "[]"})
    EXPECT_THAT(s.error_with(fmt::format(R"({{"weight_map":{}}})", value)), HasSubstr("its weight_map is no object"));
  for (const char* value : {"1", "null", "[]", "{}"})
    EXPECT_THAT(s.error_with(fmt::format(R"({{"weight_map":{{"a":{}}}}})", value)), HasSubstr("the shard of tensor 'a' is no text"));
  EXPECT_THAT(s.error_with(R"({"weight_map":{"a":"x"},"weight_map":{"b":"x"}})"), HasSubstr("two weight_map"));
  EXPECT_THAT(s.error_with(R"({"weight_map":{"a":"x","a":"y"}})"), HasSubstr("names the tensor 'a' twice"));
  EXPECT_THAT(s.error_with("{\"weight_map\":{\"a\":\"x\"},\"deep\":" + std::string(100'000, '[')), HasSubstr("not valid JSON"));
}

TEST(Sharded, ShardsCannotLieOutsideTheFolder) {
  const Sharded s;
  for (const char* name : {"", ".", "..", "../x.safetensors", "/etc/passwd", "sub/x.safetensors", "..\\\\x", "a\\u0000b", "a\\nb"})
    EXPECT_THAT(s.error_with(fmt::format(R"({{"weight_map":{{"a":"{}"}}}})", name)), HasSubstr("is no plain file name")) << name;
  // A shard is a file of weights, not another index.
  s.folder.write("other.json", kIndex);
  EXPECT_THAT(s.error_with(R"({"weight_map":{"a":"other.json"}})"), HasSubstr("no weights file that fovea knows"));
}

TEST(Sharded, FoldersAreSearchedInAKnownOrder) {
  const TempFolder folder;
  EXPECT_EQ(weights_in_folder(folder / ""), std::nullopt);
  EXPECT_EQ(weights_in_folder(folder / "absent"), std::nullopt);
  std::vector<std::string> expected;
  for (const char* name : {"a.index.json", "pytorch_model.bin.index.json", "pytorch_model.bin", "model.safetensors.index.json", "model.safetensors"}) {
    folder.write(name, "");
    EXPECT_EQ(std::filesystem::path(*weights_in_folder(folder / "")).filename(), name);
  }
  const TempFolder two;
  two.write("a.index.json", "");
  two.write("b.index.json", "");
  EXPECT_THAT(error_of([&] { weights_in_folder(two / ""); }), HasSubstr("holds several checkpoints"));
}

}  // namespace
}  // namespace fovea
