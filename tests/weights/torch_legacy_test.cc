#include "weights/torch_legacy.h"

#include <gmock/gmock.h>

#include "weights/pickle_fixtures.h"
#include "weights/weight_fixtures.h"

namespace fovea {
namespace {

using namespace std::string_literals;
using testing::error_of;
using testing::pickled_dict;
using testing::pickled_tensor;
using testing::pickled_text;
using testing::values_of;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string legacy_fixture(const std::string& name) { return FOVEA_TEST_FIXTURES "/weights/" + name; }

// The file's parts, each of which a test may replace.
struct LegacyFile {
  std::string magic = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", version = "\x80\x02M\xe9\x03.", machine = "\x80\x02}.";
  std::string content = pickled_dict(pickled_text("w") + pickled_tensor(0, {4, 4}, {4, 1}));
  std::string keys = "\x80\x02](" + pickled_text("0") + "e.";
  std::string storages = "\x10\0\0\0\0\0\0\0"s + std::string(64, '\0');

  std::string bytes() const { return magic + version + machine + content + keys + storages; }
};

// The caller keeps the bytes while it uses the result.
WeightFile read_legacy(const std::string& bytes) { return read_torch_legacy(testing::as_file(bytes)); }
std::string legacy_error(const LegacyFile& file) {
  const std::string bytes = file.bytes();
  const std::string error = error_of([&] { read_legacy(bytes); });
  EXPECT_THAT(error, HasSubstr("'memory'"));
  return error;
}

TEST(TorchLegacy, ReadsEveryElementTypeInEveryProtocol) {
  for (const char* name : {"legacy_every_type.pt", "legacy_protocol1.pt", "legacy_protocol4.pt"}) {
    const WeightFile file = open_weights(legacy_fixture(name));
    EXPECT_EQ(file.container(), "PyTorch legacy");
    ASSERT_EQ(file.tensors().size(), 10u) << name;
    EXPECT_EQ(file.at("LongStorage").shape, (Shape{2, 2}));
    EXPECT_TRUE(file.at("LongStorage").mapped);
    for (const WeightTensor& t : file.tensors()) {
      const std::vector<float> values = values_of(file, t.name);
      for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], static_cast<float>(t.name == "BoolStorage" ? i % 2 : i)) << name << " " << t.name;
    }
  }
}

TEST(TorchLegacy, GathersStridedAndSharedViews) {
  const WeightFile file = open_weights(legacy_fixture("legacy_views.pt")), zip = open_weights(legacy_fixture("views.pt"));
  ASSERT_EQ(file.tensors().size(), zip.tensors().size() + 1);
  for (const WeightTensor& t : zip.tensors()) {
    EXPECT_EQ(file.at(t.name).shape, t.shape) << t.name;
    EXPECT_EQ(values_of(file, t.name), values_of(zip, t.name)) << t.name;
  }
  EXPECT_THAT(values_of(file, "storage_view"), ElementsAre(5, 6, 7, 8));
}

TEST(TorchLegacy, FindsTheWeightsInsideWrappersAndModules) {
  EXPECT_EQ(open_weights(legacy_fixture("legacy_module.pt")).at("1.weight").shape, (Shape{1, 2}));
  const WeightFile student = open_weights(legacy_fixture("legacy_student.pt"));
  EXPECT_EQ(student.at("w").shape, (Shape{2}));
  EXPECT_EQ(student.metadata().at("torch.entry"), "student.backbone");
  EXPECT_EQ(student.metadata().at("torch.epoch"), "9");
}

TEST(TorchLegacy, OtherWritersAreNamed) {
  EXPECT_THAT(error_of([] { open_weights(legacy_fixture("legacy_big_endian.pt")); }), HasSubstr("big-endian machine"));
  EXPECT_THAT(error_of([] { open_weights(legacy_fixture("torch_tar.pt")); }), HasSubstr("tar format of PyTorch 0.1"));
}

TEST(TorchLegacy, EveryTruncationIsAnErrorThatNamesTheFile) {
  const testing::TempFolder folder;
  for (const char* name : {"legacy_every_type.pt", "legacy_protocol4.pt"}) {
    const std::string whole = testing::read_bytes(legacy_fixture(name));
    const std::string path = folder.write("cut.pt", whole);
    for (size_t n = whole.size(); n-- > 0;) {
      std::filesystem::resize_file(path, n);
      EXPECT_THAT(error_of([&] { open_weights(path); }), HasSubstr("'" + path + "'")) << n << " bytes";
    }
  }
}

TEST(TorchLegacy, EveryChangedByteIsReadOrRefusedWithoutCrash) {
  const std::string whole = testing::read_bytes(legacy_fixture("legacy_views.pt"));
  for (size_t n = 0; n < whole.size(); ++n)
    for (const int flip : {0x11, 0xff}) {
      std::string bad = whole;
      bad[n] = static_cast<char>(bad[n] ^ flip);
      try {
        const WeightFile file = read_legacy(bad);
        for (const WeightTensor& t : file.tensors()) values_of(file, t.name);
      } catch (const Error&) {
      }
    }
}

TEST(TorchLegacy, BrokenPartsGiveOneErrorThatSaysWhatIsWrong) {
  const std::string good = LegacyFile().bytes();
  EXPECT_EQ(read_legacy(good).at("w").shape, (Shape{4, 4}));

  EXPECT_THAT(legacy_error({.version = "\x80\x02M\xe8\x03."}), HasSubstr("not in its version 1001"));
  EXPECT_THAT(legacy_error({.version = "\x80\x02N."}), HasSubstr("not in its version 1001"));
  EXPECT_THAT(legacy_error({.version = "\x80\x02."}), HasSubstr("the version at byte 15: the pickle is broken"));
  EXPECT_THAT(legacy_error({.machine = "\x80\x02}(" + pickled_text("little_endian") + "\x89u."}), HasSubstr("big-endian"));
  EXPECT_THAT(legacy_error({.content = "\x80\x02}.", .keys = "\x80\x02].", .storages = ""}), HasSubstr("holds no tensors"));
  EXPECT_THAT(legacy_error({.keys = "\x80\x02N."}), HasSubstr("no list of storages"));
  EXPECT_THAT(legacy_error({.keys = "\x80\x02].", .storages = ""}), HasSubstr("its list of storages lacks '0'"));
  EXPECT_THAT(legacy_error({.keys = "\x80\x02](" + pickled_text("1") + "e."}), HasSubstr("of which type the storage '1' is"));
  EXPECT_THAT(legacy_error({.keys = "\x80\x02](K\1e."}), HasSubstr("of which type the storage '' is"));
  EXPECT_THAT(legacy_error({.keys = "\x80\x02](" + pickled_text("0") + pickled_text("0") + "e.", .storages = std::string(16, '\0')}),
              HasSubstr("two storages named '0'"));
  EXPECT_THAT(legacy_error({.storages = "\x10\0\0"s}), HasSubstr("ends before the storage '0'"));
  EXPECT_THAT(legacy_error({.storages = "\x10\0\0\0\0\0\0\0"s + std::string(63, '\0')}), HasSubstr("should have 16 elements of 4 bytes, but only 63 bytes follow"));
  EXPECT_THAT(legacy_error({.storages = "\0\0\0\0\0\0\0\x10"s + std::string(64, '\0')}), HasSubstr("should have 1152921504606846976 elements"));
  EXPECT_THAT(legacy_error({.storages = "\1\0\0\0\0\0\0\0"s + std::string(64, '\0')}), HasSubstr("reaches element 15 of its storage, which holds 1"));
  EXPECT_THAT(legacy_error({.storages = std::string(8, '\xff')}), HasSubstr("cut short"));
  const auto of_type = [](const std::string& type) { return pickled_dict(pickled_text("w") + pickled_tensor(0, {4, 4}, {4, 1}, type)); };
  for (const char* type : {"ComplexFloatStorage", "QInt8Storage", "UntypedStorage"})
    EXPECT_THAT(legacy_error({.content = of_type(type), .storages = "\0\0\0\0\0\0\0\0"s}), HasSubstr("element type 'torch."s + type + "', which is not supported"));
}

TEST(TorchLegacy, NothingIsExecuted) {
  const testing::TempFolder folder;
  const std::string mark = folder / "executed";
  for (const std::string& global : {"cos\nsystem\n"s, "c__builtin__\neval\n"s}) {
    const std::string call = global + "(" + pickled_text("touch " + mark) + "tR";
    const std::string beside = LegacyFile{.content = pickled_dict(pickled_text("bad") + call + pickled_text("w") + pickled_tensor(0, {2}, {1}))}.bytes();
    EXPECT_EQ(read_legacy(beside).tensors().size(), 1u);
    for (std::string LegacyFile::*part : {&LegacyFile::version, &LegacyFile::machine, &LegacyFile::content, &LegacyFile::keys}) {
      LegacyFile file;
      file.*part = "\x80\x02" + call + ".";
      const std::string bytes = file.bytes();
      if (part == &LegacyFile::machine) read_legacy(bytes);
      else EXPECT_THROW(read_legacy(bytes), Error);
    }
  }
  EXPECT_FALSE(std::filesystem::exists(mark));
}

TEST(TorchLegacy, ViewsOfStoragesStayInsideThem) {
  const auto error = [](const std::string& view) {
    const std::string tensor = "ctorch._utils\n_rebuild_tensor\n((" + pickled_text("storage") + "ctorch\nFloatStorage\n" + pickled_text("0") +
                               pickled_text("cpu") + "K\x10" + view + "tQK\0"s + testing::pickled_tuple({2}) + testing::pickled_tuple({1}) + "tR";
    return legacy_error({.content = pickled_dict(pickled_text("w") + tensor)});
  };
  for (const std::string& view : {"(K\1K\0t"s, "(K\1K\x11K\1t"s, "(K\1K\x10K\1t"s, "(K\1J\xff\xff\xff\xffK\1t"s, "(K\1K\1J\xff\xff\xff\xfft"s, "(K\1NK\1t"s})
    EXPECT_THAT(error(view), HasSubstr("has a view beyond its storage"));
  EXPECT_THAT(error("(K\1K\x0fK\1t"), HasSubstr("reaches element 1 of its storage, which holds 1"));
}

}  // namespace
}  // namespace fovea
