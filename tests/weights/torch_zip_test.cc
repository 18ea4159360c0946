#include "weights/torch_zip.h"

#include <gmock/gmock.h>

#include "weights/pickle.h"
#include "weights/pickle_fixtures.h"
#include "weights/weight_fixtures.h"
#include "weights/zip_archive.h"
#include "weights/zip_fixtures.h"

namespace fovea {
namespace {

using namespace std::string_literals;
using testing::error_of;
using testing::pickled_dict;
using testing::pickled_tensor;
using testing::pickled_text;
using testing::pickled_tuple;
using testing::read_bytes;
using testing::TempFolder;
using testing::values_of;
using testing::zip_of;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

WeightFile read_zip(const FileBytes& file) {
  ZipArchive zip(file);
  return read_torch_zip(zip);
}

std::string fixture(const std::string& name) { return FOVEA_TEST_FIXTURES "/weights/" + name; }

std::vector<std::string> names_of(const WeightFile& file) {
  std::vector<std::string> out;
  for (const WeightTensor& t : file.tensors()) out.push_back(t.name);
  return out;
}

TEST(TorchZip, ReadsEveryElementType) {
  for (const char* name : {"every_type.pt", "every_type_protocol4.pt", "deflated.pt"}) {
    const WeightFile file = open_weights(fixture(name));
    EXPECT_EQ(file.container(), "PyTorch zip");
    EXPECT_THAT(names_of(file), ElementsAre("FloatStorage", "DoubleStorage", "HalfStorage", "BFloat16Storage", "LongStorage",
                                            "IntStorage", "ShortStorage", "CharStorage", "ByteStorage", "BoolStorage"));
    EXPECT_EQ(file.at("HalfStorage").shape, (Shape{3, 1}));
    EXPECT_THAT(values_of(file, "FloatStorage"), ElementsAre(0, 1, 2, 3, 4, 5));
    EXPECT_THAT(values_of(file, "DoubleStorage"), ElementsAre(0, 1, 2, 3));
    EXPECT_THAT(values_of(file, "HalfStorage"), ElementsAre(0, 1, 2));
    EXPECT_THAT(values_of(file, "BFloat16Storage"), ElementsAre(0, 1, 2, 3, 4));
    EXPECT_THAT(values_of(file, "LongStorage"), ElementsAre(0, 1, 2, 3));
    for (const char* type : {"IntStorage", "ShortStorage", "CharStorage", "ByteStorage"})
      EXPECT_THAT(values_of(file, type), ElementsAre(0, 1, 2)) << type;
    EXPECT_THAT(values_of(file, "BoolStorage"), ElementsAre(0, 1, 0, 1));
  }
}

TEST(TorchZip, GathersStridedAndSharedViews) {
  const WeightFile file = open_weights(fixture("views.pt"));
  EXPECT_EQ(values_of(file, "whole").size(), 24u);
  EXPECT_EQ(file.at("permuted").shape, (Shape{4, 2, 3}));
  EXPECT_THAT(values_of(file, "permuted"),
              ElementsAre(0, 4, 8, 12, 16, 20, 1, 5, 9, 13, 17, 21, 2, 6, 10, 14, 18, 22, 3, 7, 11, 15, 19, 23));
  EXPECT_THAT(values_of(file, "tail"), ElementsAre(20, 21, 22, 23));
  EXPECT_THAT(values_of(file, "every_other"), ElementsAre(1, 3, 5));
  EXPECT_THAT(values_of(file, "expanded"), ElementsAre(5, 5, 5, 5, 5, 5));
  EXPECT_THAT(values_of(file, "scalar"), ElementsAre(7));
  EXPECT_THAT(values_of(file, "column"), ElementsAre(0, 8, 16));
  EXPECT_EQ(file.at("empty").shape, (Shape{0, 5}));
  EXPECT_THAT(values_of(file, "sized"), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(values_of(file, "parameter"), ElementsAre(0, 1));
  EXPECT_THAT(values_of(file, "untyped"), ElementsAre(0, 1, 2));
  EXPECT_THAT(values_of(file, "parameter_of_old"), ElementsAre(0, 1));
  EXPECT_THAT(values_of(file, "parameter_subclass"), ElementsAre(3, 4));
  EXPECT_THAT(values_of(file, "version1"), ElementsAre(4, 5));
}

TEST(TorchZip, FindsTheWeightsInsideWrappers) {
  const WeightFile wrapped = open_weights(fixture("wrapped.pt"));
  EXPECT_THAT(names_of(wrapped), ElementsAre("head.weight", "head.bias"));
  EXPECT_EQ(wrapped.metadata().at("torch.entry"), "model");
  EXPECT_EQ(wrapped.metadata().at("torch.epoch"), "7");
  EXPECT_EQ(wrapped.metadata().at("torch.arch"), "vit_tiny");
  EXPECT_FALSE(wrapped.metadata().contains("torch.config"));

  const WeightFile averaged = open_weights(fixture("averaged.pt"));
  EXPECT_EQ(averaged.at("w").shape, (Shape{3}));
  EXPECT_EQ(averaged.metadata().at("torch.entry"), "state_dict_ema");
  EXPECT_EQ(averaged.metadata().at("torch.not_read"), "state_dict");

  // Averaged weights first, then timm's order; a tensor beside them changes nothing.
  const WeightFile both = open_weights(fixture("both.pt"));
  EXPECT_EQ(both.at("w").shape, (Shape{3}));
  EXPECT_EQ(both.metadata().at("torch.entry"), "model_ema.module");
  EXPECT_EQ(both.metadata().at("torch.not_read"), "state_dict, model");

  const WeightFile distilled = open_weights(fixture("distilled.pt"));
  EXPECT_THAT(names_of(distilled), ElementsAre("w"));
  EXPECT_EQ(distilled.at("w").shape, (Shape{3}));
  EXPECT_EQ(distilled.metadata().at("torch.entry"), "teacher.backbone");
  EXPECT_EQ(distilled.metadata().at("torch.not_read"), "student");

  EXPECT_THAT(names_of(open_weights(fixture("swa.pt"))), ElementsAre("w"));
  EXPECT_THAT(names_of(open_weights(fixture("lightning.pt"))), ElementsAre("w", "b"));
  EXPECT_THAT(names_of(open_weights(fixture("nested.pt"))), ElementsAre("encoder.layer.0", "encoder.layer.1.bias", "parts.0"));
  EXPECT_THAT(names_of(open_weights(fixture("module.pt"))), ElementsAre("0.weight", "1.weight"));
}

TEST(TorchZip, RefusesBigEndianFiles) {
  EXPECT_THAT(error_of([] { open_weights(fixture("big_endian.pt")); }), HasSubstr("byte order 'big'"));
}

TEST(TorchZip, EveryTruncationIsAnError) {
  const std::string whole = read_bytes(fixture("wrapped.pt"));
  for (size_t n = 0; n < whole.size(); n += 7) {
    const std::string cut = whole.substr(0, n);
    EXPECT_THROW(read_zip(testing::as_file(cut)), Error) << n << " bytes";
  }
}

TEST(TorchZip, ADamagedStorageFailsItsChecksum) {
  std::string bytes = read_bytes(fixture("averaged.pt"));
  const std::string values("\0\0\0\0\0\0\x80\x3f\0\0\0\x40", 12);  // 0, 1, 2
  const size_t at = bytes.find(values);
  ASSERT_NE(at, std::string::npos);
  bytes[at + 5] = 1;
  EXPECT_THAT(error_of([&] { read_zip(testing::as_file(bytes)); }), HasSubstr("is damaged"));
}

TEST(TorchZip, EveryChangedByteIsReadOrRefusedWithoutCrash) {
  const std::string whole = read_bytes(fixture("views.pt"));
  for (size_t n = 0; n < whole.size(); ++n) {
    std::string bad = whole;
    bad[n] = static_cast<char>(bad[n] ^ 0x11);
    try {
      const WeightFile file = read_zip(testing::as_file(bad));
      for (const WeightTensor& t : file.tensors())
        if (t.elements() < 1000) values_of(file, t.name);
    } catch (const Error&) {
    }
  }
}

// --- hostile archives, put together here -----------------------------------------------------------------------------

WeightFile read_pickle(const std::string& pickle, const std::string& storage = std::string(64, '\0')) {
  const std::string bytes = zip_of({{"a/data.pkl", pickle}, {"a/data/0", storage}});
  return read_zip(testing::as_file(bytes));
}

// Large storages stay where they lie in the file; deflated ones are unpacked.
TEST(TorchZip, StoredEntriesAreReadWhereTheyLie) {
  std::vector<float> values(3000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const std::string data(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  const std::vector<std::pair<std::string, std::string>> entries = {{"a/data.pkl", "not looked at"}, {"a/data/0", data}};
  const TempFolder folder;
  for (const bool deflate : {false, true}) {
    const std::string path = folder / "a.zip", bytes = zip_of(entries, deflate);
    std::ofstream(path, std::ios::binary) << bytes;
    const FileBytes file = map_file(path);
    ZipArchive zip(file);
    const FilePart entry = zip.read("a/data/0");
    EXPECT_EQ(entry.mapped, !deflate);
    EXPECT_EQ(entry.span.data() >= file.bytes.data() && entry.span.data() < file.bytes.data() + file.bytes.size(), !deflate);
    const WeightTensor t{"w", StoredType::kF32, Shape{50, 60}, entry.span.data(), {}, entry.mapped};
    for (int time = 0; time < 2; ++time) {  // and again after its pages were given back
      std::vector<float> read(values.size());
      t.read(read.data());
      EXPECT_EQ(read, values);
      t.release();
    }
  }
}

TEST(TorchZip, DirectoriesThatContradictThemselvesAreReadOrRefusedWithoutCrash) {
  const std::string data(6000, 'x');
  const std::string whole = zip_of({{"a/data/0", data}, {"a/data/1", data}});
  for (size_t n = 0; n < whole.size(); ++n) {
    if (n > 100 && n + 6000 < whole.size() && whole[n] == 'x') continue;  // data: the checksum's affair
    for (const int flip : {0x11, 0xff}) {
      std::string bad = whole;
      bad[n] = static_cast<char>(bad[n] ^ flip);
      try {
        ZipArchive zip(testing::as_file(bad));
        for (const std::string& name : zip.names()) {
          const FilePart entry = zip.read(name);
          EXPECT_EQ(std::string(reinterpret_cast<const char*>(entry.span.data()), entry.span.size()), data);
        }
      } catch (const Error&) {
      }
    }
  }
}

TEST(TorchZipHostile, TheHelpersMakeAReadableFile) {
  EXPECT_EQ(read_pickle(pickled_dict(pickled_text("w") + pickled_tensor(0, {4, 4}, {4, 1}))).at("w").shape, (Shape{4, 4}));
}

TEST(TorchZipHostile, NothingIsExecuted) {
  const TempFolder folder;
  const std::string mark = folder / "executed";
  const std::string command = "touch " + mark;
  for (const std::string& global : {"cos\nsystem\n"s, "cposix\nsystem\n"s, "c__builtin__\neval\n"s, "cbuiltins\nexec\n"s}) {
    const WeightFile file =
        read_pickle(pickled_dict(pickled_text("bad") + global + "(" + pickled_text(command) + "tR" + pickled_text("w") + pickled_tensor(0, {2}, {1})));
    EXPECT_THAT(names_of(file), ElementsAre("w"));
  }
  EXPECT_FALSE(std::filesystem::exists(mark));
  EXPECT_THAT(error_of([&] { read_pickle("\x80\x02" "cos\nsystem\n(" + pickled_text(command) + "tR."); }), HasSubstr("'os.system'"));
  EXPECT_THAT(error_of([&] { read_pickle("(S'" + command + "'\nios\nsystem\n."); }), HasSubstr("'os.system'"));
  EXPECT_FALSE(std::filesystem::exists(mark));
}

TEST(TorchZipHostile, TensorsStayInsideTheirStorage) {
  const auto error = [](const std::string& t) { return error_of([&] { read_pickle(pickled_dict(pickled_text("w") + t)); }); };
  const int64_t huge = int64_t{1} << 62;
  EXPECT_THAT(error(pickled_tensor(0, {17}, {1})), HasSubstr("reaches element 16 of its storage, which holds 16"));
  EXPECT_THAT(error(pickled_tensor(16, {1}, {1})), HasSubstr("reaches element 16"));
  EXPECT_THAT(error(pickled_tensor(0, {2}, {16})), HasSubstr("reaches element 16"));
  EXPECT_THAT(error(pickled_tensor(-1, {1}, {1})), HasSubstr("overflow"));
  EXPECT_THAT(error(pickled_tensor(0, {huge, 4}, {0, 0})), HasSubstr("overflow"));
  EXPECT_THAT(error(pickled_tensor(0, {4}, {huge})), HasSubstr("overflow"));
  EXPECT_THAT(error(pickled_tensor(huge, {3}, {huge / 2})), HasSubstr("overflow"));
  EXPECT_THAT(error(pickled_tensor(0, {-1}, {1})), HasSubstr("not a natural number"));
  EXPECT_THAT(error(pickled_tensor(0, {1}, {-1})), HasSubstr("not a natural number"));
  EXPECT_THAT(error(pickled_tensor(0, {1}, {})), HasSubstr("strides"));
  EXPECT_THAT(error(pickled_tensor(0, std::vector<int64_t>(9, 1), std::vector<int64_t>(9, 1))), HasSubstr("9 dimensions"));
  EXPECT_THAT(error(pickled_tensor(0, {9}, {1}, "DoubleStorage")), HasSubstr("holds 8"));
  EXPECT_THAT(error(pickled_tensor(0, {1}, {1}, "QInt8Storage")), HasSubstr("'torch.QInt8Storage'"));
  EXPECT_THAT(error("ctorch._utils\n_rebuild_tensor_v2\n)R"), HasSubstr("not described"));
  EXPECT_THAT(error("ctorch._utils\n_rebuild_tensor_v2\n(NK\0))tR"s), HasSubstr("not described"));
}

TEST(TorchZipHostile, AStorageNameCannotLeaveTheArchive) {
  const std::string bytes = zip_of({{"a/data.pkl", pickled_dict(pickled_text("w") + "ctorch._utils\n_rebuild_tensor_v2\n((" + pickled_text("storage") +
                                                        "ctorch\nFloatStorage\n" + pickled_text("../../etc/passwd") + pickled_text("cpu") + "K\1tQK\0"s +
                                                        pickled_tuple({1}) + pickled_tuple({1}) + "tR")}});
  EXPECT_THAT(error_of([&] { read_zip(testing::as_file(bytes)); }), HasSubstr("lacks the entry"));
}

TEST(TorchZipHostile, BrokenStreamsGiveOneError) {
  const std::string good = pickled_dict(pickled_text("w") + pickled_tensor(0, {4, 4}, {4, 1}));
  for (size_t n = 0; n < good.size(); ++n) EXPECT_THROW(read_pickle(good.substr(0, n)), Error) << n << " bytes";
  const std::vector<std::string> broken{
      ".", "0.", "R.", "(.", "t.", "u.", "}a.", "(K\1u.", "}(K\1u.", "h\0."s, "j\xff\xff\xff\xff.", "g99999999999999999999\n.",
      "q\0."s, "r\xff\xff\xff\xff.", "Nr\xff\xff\xff\x7f.", "X\xff\xff\xff\xff.", "\x8d\xff\xff\xff\xff\xff\xff\xff\xff.", "Ix\n.",
      "Fx\n.", "\x80\x09.", "\xff.", "Q.", "b.", "(o.", "\x93.", "2.", "Na.", "NNNs.", "I1"};
  for (const std::string& pickle : broken)
    EXPECT_THAT(error_of([&] { parse_pickle(std::as_bytes(std::span(pickle)), "'file'"); }), HasSubstr("'file': the pickle is broken"))
        << ::testing::PrintToString(pickle);
}

TEST(TorchZipHostile, MemoAndStackAreBounded) {
  const auto error = [](const std::string& pickle) {
    return error_of([&] { parse_pickle(std::as_bytes(std::span(pickle)), "'file'"); });
  };
  EXPECT_THAT(error(std::string(5'000'000, 'N') + "."), HasSubstr("more than"));
  EXPECT_THAT(error(std::string(2'000'000, '}') + "."), HasSubstr("more than"));
  EXPECT_THAT(error(std::string(2'000'000, '(') + "."), HasSubstr("more than"));
  EXPECT_THAT(error("N" + std::string(2'000'000, '\x94') + "."), HasSubstr("exceeds the limit"));
  EXPECT_THAT(error("(" + std::string(20, 'l') + "."), HasSubstr("mark is missing"));
}

TEST(TorchZipHostile, SharedPartsAndCyclesEnd) {
  // Every level holds the level below twice: 2^60 leaves.
  std::string tower = "\x80\x02}q\0"s;
  for (int level = 1; level <= 60; ++level)
    tower += "}q"s + static_cast<char>(level) + "("s + pickled_text("a") + "h"s + static_cast<char>(level - 1) + pickled_text("b") + "h"s +
             static_cast<char>(level - 1) + "u";
  EXPECT_THAT(error_of([&] { read_pickle(tower + "."); }), HasSubstr("more than"));
  EXPECT_THAT(error_of([&] { read_pickle("\x80\x02}q\0("s + pickled_text("a") + "h\0u."s); }), HasSubstr("nested more than"));
  EXPECT_THAT(error_of([&] { read_pickle("\x80\x02}q\0("s + pickled_text("model") + "h\0u."s); }), HasSubstr("nested more than"));
  EXPECT_THAT(error_of([&] { read_pickle("\x80\x02]q\0h\0a."s); }), HasSubstr("nested more than"));
}

TEST(TorchZipHostile, ArchivesOutOfProportionAreRefused) {
  const std::string bomb = zip_of({{"a/data.pkl", pickled_dict(pickled_text("w") + pickled_tensor(0, {16}, {1}))}, {"a/data/0", std::string(50'000'000, '\0')}}, true);
  EXPECT_LT(bomb.size(), 200'000u);
  EXPECT_THAT(error_of([&] { read_zip(testing::as_file(bomb)); }), HasSubstr("out of proportion"));
}

TEST(TorchZipHostile, EncryptedEntriesAreRefused) {
  std::string bytes = zip_of({{"a/data.pkl", pickled_dict(pickled_text("w") + pickled_tensor(0, {16}, {1}))}});
  for (const auto& [signature, flags] : {std::pair{"PK\3\4"s, size_t{6}}, std::pair{"PK\1\2"s, size_t{8}}})
    bytes[bytes.find(signature) + flags] = static_cast<char>(bytes[bytes.find(signature) + flags] | 1);
  EXPECT_THAT(error_of([&] { read_zip(testing::as_file(bytes)); }), HasSubstr("encrypted"));
}

TEST(TorchZip, OtherArchivesAreNamed) {
  const auto error = [](const std::vector<std::pair<std::string, std::string>>& entries) {
    const std::string bytes = zip_of(entries);
    return error_of([&] { read_zip(testing::as_file(bytes)); });
  };
  EXPECT_THAT(error({{"readme.txt", "x"}}), HasSubstr("no data.pkl"));
  EXPECT_THAT(error({{"m/data.pkl", "N."}, {"m/constants.pkl", ")."}}), HasSubstr("TorchScript"));
  EXPECT_THAT(error({{"m/data.pkl", "\x80\x02}."}}), HasSubstr("holds no tensors"));
}

}  // namespace
}  // namespace fovea
