#include <gmock/gmock.h>

#include "weights/weight_fixtures.h"
#include "weights/wrapper_prefix.h"

namespace fovea {
namespace {

using namespace std::string_literals;
using testing::error_of;
using testing::TempFolder;
using ::testing::HasSubstr;

TEST(OpenWeights, RecognisesByContentNotByName) {
  const TempFolder folder;
  const std::string path = folder.write("weights.pt", testing::safetensors_bytes("{}"));
  EXPECT_EQ(open_weights(path).container(), "safetensors");
}

TEST(OpenWeights, ALengthThatLooksLikeJsonIsNone) {
  const TempFolder folder;
  for (const size_t length : {size_t{'{'}, size_t{' '} + (size_t{'{'} << 8), size_t{0x7b7b7b}}) {
    const std::string header = "{}" + std::string(length - 2, ' ');
    EXPECT_EQ(open_weights(folder.write("file", testing::safetensors_bytes(header))).container(), "safetensors") << length;
  }
}

TEST(OpenWeights, SaysWhatAFileLooksLikeInstead) {
  const TempFolder folder;
  const auto error = [&](const std::string& bytes, const std::string& name = "file") {
    return error_of([&] { open_weights(folder.write(name, bytes)); });
  };
  EXPECT_THAT(error(""), HasSubstr("is empty"));
  EXPECT_THAT(error("\x80\x02}."), HasSubstr("Python pickle that torch.save did not write"));
  EXPECT_THAT(error("\x80\x04\x95..."), HasSubstr("Python pickle"));
  EXPECT_THAT(error("\x89HDF\r\n\x1a\n"), HasSubstr("HDF5"));
  EXPECT_THAT(error("GGUF\3\0\0\0"s), HasSubstr("GGUF"));
  EXPECT_THAT(error("\x93NUMPY\1\0"s), HasSubstr("NumPy array"));
  EXPECT_THAT(error("\x08\x07\x12\x07pytorch"), HasSubstr("ONNX"));
  EXPECT_THAT(error("\x1f\x8b\x08"), HasSubstr("gzip"));
  EXPECT_THAT(error(std::string(257, 'n') + "ustar"), HasSubstr("tar archive"));
  EXPECT_THAT(error("version https://git-lfs.github.com/spec/v1\n"), HasSubstr("git-lfs pointer"));
  EXPECT_THAT(error("<!DOCTYPE html><html>"), HasSubstr("web page"));
  EXPECT_THAT(error("\xff\xd8\xff\xe0"), HasSubstr("an image"));
  EXPECT_THAT(error("PK\3\4 and nothing more"), HasSubstr("cut short"));
  EXPECT_THAT(error("something else"), HasSubstr("no weights file that fovea knows"));
  EXPECT_THAT(error("abc", "a.safetensors"), HasSubstr("too short for a safetensors file"));
  EXPECT_THAT(error_of([&] { open_weights(folder / "absent"); }), HasSubstr("No such file or directory"));
  EXPECT_THAT(error_of([&] { open_weights(folder / ""); }), HasSubstr("is a directory"));
  EXPECT_THAT(error_of([] { open_weights("/dev/zero"); }), HasSubstr("not a regular file"));
}

TEST(OpenWeights, DropsWhatWrappersPutBeforeEveryName) {
  const auto prefix = [](const std::vector<std::string>& names) {
    std::vector<std::pair<std::string, Shape>> entries;
    for (const std::string& name : names) entries.emplace_back(name, Shape{1});
    return wrapper_prefix(testing::zeros(entries).tensors());
  };
  EXPECT_EQ(prefix({"module.a", "module.b.c"}), "module.");
  EXPECT_EQ(prefix({"module._orig_mod.model.a", "module._orig_mod.model.b"}), "module._orig_mod.model.");
  EXPECT_EQ(prefix({"_orig_mod.module.a", "n_averaged"}), "_orig_mod.module.");
  EXPECT_EQ(prefix({"module.module.a", "module.n_averaged"}), "module.module.");
  EXPECT_EQ(prefix({"module.a", "b"}), "");
  EXPECT_EQ(prefix({"module.", "module.a"}), "") << "nothing would be left of a name";
  EXPECT_EQ(prefix({"n_averaged"}), "");
  EXPECT_EQ(prefix({}), "");
  const TempFolder folder;
  const std::string header = R"({"module.a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"__metadata__":{"k":"v"}})";
  const WeightFile file = open_weights(folder.write("file", testing::safetensors_bytes(header, "\5")));
  EXPECT_THAT(testing::values_of(file, "a"), ::testing::ElementsAre(5));
  EXPECT_EQ(file.metadata().at("k"), "v");
}

TEST(WeightFile, SelectsByPrefixAndNamesWhatIsAbsent) {
  const WeightFile file = testing::zeros({{"model.a", {2}}, {"optimizer.a", {3}}, {"model.b", {1}}});
  const WeightFile model = file.under("model.");
  ASSERT_EQ(model.tensors().size(), 2u);
  EXPECT_EQ(model.at("a").shape, (Shape{2}));
  EXPECT_EQ(model.find("model.a"), nullptr);
  EXPECT_THAT(error_of([&] { model.at("c\n"); }), HasSubstr("no tensor named 'c?'"));
  EXPECT_TRUE(WeightFile().tensors().empty());
}

}  // namespace
}  // namespace fovea
