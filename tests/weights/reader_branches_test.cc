// What files in the wild rarely hold but may: the remaining branches of the readers (scripts/coverage).
#include <gmock/gmock.h>
#include <zlib.h>

#include "weights/pickle.h"
#include "weights/pickle_fixtures.h"
#include "weights/safetensors.h"
#include "weights/sharded.h"
#include "weights/stored_type.h"
#include "weights/torch_checkpoint.h"
#include "weights/torch_legacy.h"
#include "weights/torch_tensor.h"
#include "weights/weight_fixtures.h"
#include "weights/zip_archive.h"
#include "weights/zip_directory.h"
#include "weights/zip_fixtures.h"

namespace fovea {
namespace {

using namespace std::string_literals;
using testing::error_of;
using testing::pickled_dict;
using testing::pickled_tensor;
using testing::pickled_text;
using testing::pickled_tuple;
using testing::TempFolder;
using testing::values_of;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Kind = PickleValue::Kind;

template <class T>
std::string bytes_of(T v) {
  return {reinterpret_cast<const char*>(&v), sizeof v};
}

// --- containers ------------------------------------------------------------------------------------------------------

TEST(ReaderBranches, OnnxIsGuessedFromItsFirstFields) {
  const TempFolder folder;
  const auto error = [&](const std::string& bytes) { return error_of([&] { open_weights(folder.write("file", bytes)); }); };
  for (const char second : {'\x12', '\x1a', '\x3a'}) EXPECT_THAT(error("\x08\x07"s + second + "xx"), HasSubstr("ONNX"));
  for (const std::string& other : {"\x08\x07\x13xx"s, "\x08\0\x12xx"s, "\x08\x20\x12xx"s, "\x09\x07\x12xx"s, "\x08\x07\x12x"s})
    EXPECT_THAT(error(other), HasSubstr("no weights file that fovea knows"));
  EXPECT_THAT(error("PK\5\6"s + std::string(18, '\0')), HasSubstr("neither what torch.save writes"));
}

TEST(ReaderBranches, SafetensorsValuesInOddPlaces) {
  const auto error = [](const std::string& header) {
    const std::string bytes = testing::safetensors_bytes(header);
    return error_of([&] { parse_safetensors(testing::as_file(bytes)); });
  };
  EXPECT_THAT(error(R"({"a":-1})"), HasSubstr("a number"));
  EXPECT_THAT(error(R"({"a":{"dtype":-1}})"), HasSubstr("a number"));
  EXPECT_THAT(error(R"({"a":{"shape":[{}]}})"), HasSubstr("an object"));
  const TempFolder folder;
  EXPECT_THROW(write_safetensors(folder / "f", std::vector<TensorToWrite>{{"a", DType::kF32, {1}, nullptr}}, {}), InternalError);
}

TEST(ReaderBranches, NamesThatAreNearlyThoseOfShards) {
  const TempFolder folder;
  const std::string file = testing::safetensors_bytes("{}");
  for (const char* name : {"model--of-2.safetensors", "model-+1-of-2.safetensors", "model-1-of-2x.safetensors"})
    EXPECT_EQ(index_of_shard(folder.write(name, file)), std::nullopt) << name;
  for (const char* name : {"model-1-of-10.safetensors", "model-00001-of-00002.safetensors", "model-0-of-0.safetensors"})
    EXPECT_THAT(error_of([&] { index_of_shard(folder.write(name, file)); }), HasSubstr("is one of several files")) << name;
}

TEST(ReaderBranches, StoredTypes) {
  const std::vector<std::pair<DType, StoredType>> same{{DType::kF32, StoredType::kF32}, {DType::kF64, StoredType::kF64}, {DType::kBF16, StoredType::kBF16},
                                                       {DType::kF16, StoredType::kF16}, {DType::kI32, StoredType::kI32}, {DType::kI64, StoredType::kI64},
                                                       {DType::kU8, StoredType::kU8},   {DType::kI8, StoredType::kI8}};
  for (const auto& [ours, stored] : same) EXPECT_EQ(stored_type_of(ours), stored);
  EXPECT_EQ(stored_type_of(DType::kDual), std::nullopt);
  EXPECT_EQ(stored_type_of(static_cast<DType>(99)), std::nullopt);
  float out = 7;
  EXPECT_THROW(convert_elements(static_cast<StoredType>(99), nullptr, 1, 0, &out), InternalError);
  convert_elements(StoredType::kF32, nullptr, 1, 0, &out);
  EXPECT_EQ(out, 7);
}

TEST(ReaderBranches, FilesAndTensorsWithoutContent) {
  const WeightFile none;
  EXPECT_EQ(none.path() + none.container(), "");
  EXPECT_TRUE(none.metadata().empty());
  EXPECT_EQ(none.find("a"), nullptr);
  const float value = 3;
  WeightTensor t{"t", StoredType::kF32, {}, std::as_bytes(std::span(&value, 1)).data(), {1}, false};
  float out = 0;
  t.read(&out);
  EXPECT_EQ(out, 3);
  t.shape = Shape{0};
  t.mapped = true;
  t.release();
  t.read(&out);
  EXPECT_EQ(out, 3);
  release_pages(nullptr, 0);
  EXPECT_TRUE(none.tensors().empty());
  // A dimension that the file's size does not bound, and one that is merely unusual.
  const auto open = [](const char* shape) {
    const std::string bytes = testing::safetensors_bytes(fmt::format(R"({{"a":{{"dtype":"F32","shape":[{}],"data_offsets":[0,0]}}}})", shape));
    return parse_safetensors(testing::as_file(bytes)).tensors().size();
  };
  EXPECT_EQ(open("0, 2147483648"), 1u);
  const std::byte first{};  // of a tensor whose elements nobody looks at
  EXPECT_EQ(WeightFile("f", "test", {{"large", StoredType::kU8, Shape{2147483649}, &first, {}, false}}, {}, nullptr).tensors().size(), 1u);
  for (const char* shape : {"0, 2147483649", "0, 9223372036854775807"})
    EXPECT_THAT(error_of([&] { (void)open(shape); }), HasSubstr("a dimension beyond any tensor's")) << shape;
}

TEST(ReaderBranches, ViewsAreCopiedAndReadInParts) {
  const std::vector<float> values = {0, 1, 2, 3, 4, 5};
  WeightTensor t{"t", StoredType::kF32, {2, 3}, std::as_bytes(std::span(values)).data(), {}, false};
  std::vector<float> out(6, -1);
  const auto copied = [&] {
    t.copy(std::as_writable_bytes(std::span(out)).data());
    return out;
  };
  EXPECT_EQ(copied(), values);
  t.shape = Shape{3, 2};
  t.strides = {1, 3};
  EXPECT_EQ(copied(), (std::vector<float>{0, 3, 1, 4, 2, 5}));
  t.strides = {2, 1};
  EXPECT_EQ(copied(), values);
  t.grid = Shape{3, 1, 2};  // the same elements in the same order
  t.strides = {2, 9, 1};
  EXPECT_EQ(copied(), values);
  float some[2] = {};
  t.read(2, 4, some);
  EXPECT_EQ(some[1], 3);
  double precise[2] = {};
  t.read(2, 4, precise);
  EXPECT_EQ(precise[0], 2);

  // Pages of a mapping are given back as far as a view reaches, and come back with the file's values.
  const TempFolder folder;
  const std::string path = folder.write("file", std::string(1 << 16, 'x'));
  const FileBytes file = map_file(path);
  WeightTensor mapped{"m", StoredType::kU8, {4, 8}, file.bytes.data(), {8192, 1}, true};
  mapped.release();
  mapped.grid = Shape{2, 2, 8};
  mapped.strides = {16384, 8192, 1};
  mapped.release();
  mapped.grid = {};
  mapped.strides = {};
  mapped.release();
  float first = 0;
  mapped.read(0, 1, &first);
  EXPECT_EQ(first, 'x');
}

// --- pickles ---------------------------------------------------------------------------------------------------------

Pickle parsed(const std::string& pickle) { return parse_pickle(std::as_bytes(std::span(pickle)), "'file'"); }

TEST(ReaderBranches, OpcodesThatFewWritersUse) {
  EXPECT_EQ(parsed("\x8a\0."s).root.integer, 0);
  EXPECT_EQ(parsed("\x8a\1\xff."s).root.integer, -1);
  EXPECT_EQ(parsed("\x8a\2\x01\x7f."s).root.integer, 0x7f01);
  EXPECT_EQ(parsed("\x8a\11\1\1\1\1\1\1\1\1\1.").root.kind, Kind::kOther);
  for (const std::string& other : {"\x82\1."s, "\x83\1\1."s, "\x84\1\1\1\1."s}) EXPECT_EQ(parsed(other).root.kind, Kind::kOther);
  const std::string unicode = "Vabc\n.", binary = "T\3\0\0\0abc."s, set = "\x8f(K\1K\2\x90."s, object = "cm\nC\nK\1\x85}\x92.";
  EXPECT_EQ(parsed(unicode).root.str(), "abc");
  EXPECT_EQ(parsed(binary).root.str(), "abc");
  const Pickle s = parsed(set), o = parsed(object);
  EXPECT_EQ(s[s.root].items.size(), 2u);
  EXPECT_EQ(o.global_name(o[o.root].head), "m.C");
  EXPECT_EQ(o.global_name(o.root), "");
  EXPECT_FALSE(o.is_global(o[o.root].head, "m", "D"));
  EXPECT_FALSE(o.is_global(o[o.root].head, "n", "C"));
  EXPECT_EQ(parsed("F1.5\n.").root.real, 1.5);
  for (const char* number : {"Fx\n.", "F1x\n.", "I1x\n.", "Np1x\n.", "Npx\n.", "Np18446744073709551616\n."}) EXPECT_THAT(error_of([&] { parsed(number); }), HasSubstr("the pickle is broken"));
  const std::string long_one = "X\xff\xff\xff\x7f" + std::string(size_t{64} << 20, 'x');
  EXPECT_THAT(error_of([&] { parsed(long_one); }), HasSubstr("goes on beyond the limit"));
}

std::string long_text(size_t n) { return "X" + bytes_of(static_cast<uint32_t>(n)) + std::string(n, 'k'); }
const std::string kTensor = pickled_tensor(0, {2}, {1});

// Reads the pickle with a storage of 16 floats 0, 1, 2, ...
WeightFile checkpoint(const std::string& bytes) {
  static const std::vector<float> kValues{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  static std::vector<std::string> kept;  // results view the pickle
  const Pickle pickle = parsed(kept.emplace_back(bytes));
  static const std::string kPath = "memory";
  return read_torch_checkpoint(kPath, "test", pickle, [](const std::string&) { return FilePart{std::as_bytes(std::span(kValues)), nullptr}; });
}
std::string checkpoint_error(const std::string& bytes) {
  return error_of([&] { checkpoint(bytes); });
}
std::string only_name(const std::string& bytes) {
  const WeightFile file = checkpoint(bytes);
  return file.tensors().size() == 1 ? file.tensors()[0].name : "not one";
}

TEST(ReaderBranches, WrappersOfEveryShape) {
  const auto module = [](const std::string& part, const std::string& content) { return "cm\nC\n)\x81}" + pickled_text(part) + content + "sb"; };
  const std::string holding = "}" + pickled_text("w") + kTensor + "s";
  for (const char* part : {"_parameters", "_buffers", "_modules"}) EXPECT_EQ(only_name(pickled_dict(pickled_text("model") + module(part, holding))), "w");
  EXPECT_EQ(only_name(pickled_dict(pickled_text("model") + module("_parameters", "}") + pickled_text("v") + kTensor)), "v");
  EXPECT_EQ(only_name(pickled_dict(pickled_text("model") + kTensor)), "model") << "a tensor of that name is no wrapper";
  EXPECT_EQ(only_name(pickled_dict(pickled_text("teacher") + holding)), "w");
  EXPECT_THAT(checkpoint_error("P1\n)R."), HasSubstr("a pickled ''"));
  EXPECT_THAT(checkpoint_error("K\1\x85Q)R."), HasSubstr("a pickled ''"));
  EXPECT_THAT(checkpoint_error(pickled_text("module") + "cm\nC\n\x86Q)R."), HasSubstr("a pickled 'm.C'"));

  const WeightFile settings = checkpoint(pickled_dict(pickled_text("w") + kTensor + pickled_text("yes") + "\x88" + pickled_text("no") + "\x89" + pickled_text("long") +
                                                      long_text(5000) + long_text(5000) + "K\1" + "K\1K\2"));
  EXPECT_EQ(settings.metadata().at("torch.yes") + settings.metadata().at("torch.no"), "TrueFalse");
  EXPECT_EQ(settings.metadata().size(), 2u);
}

TEST(ReaderBranches, TensorsOfEveryShape) {
  const auto rebuilt = [](const std::string& storage, const std::string& offset, const std::string& size) {
    return pickled_dict(pickled_text("w") + "ctorch._utils\n_rebuild_tensor\n(" + storage + offset + size + pickled_tuple({1}) + "tR");
  };
  const auto storage = [](const std::string& type, const std::string& key, const std::string& view = "") {
    return "(" + pickled_text("storage") + type + pickled_text(key) + pickled_text("cpu") + "K\x10" + view + "tQ";
  };
  const std::string good = storage("ctorch\nFloatStorage\n", "0"), two = pickled_tuple({2});
  EXPECT_THAT(values_of(checkpoint(rebuilt(storage("ctorch.cuda\nFloatStorage\n", "0"), "K\3", two)), "w"), ElementsAre(3, 4));
  EXPECT_THAT(values_of(checkpoint(rebuilt(good, "K\3", "]K\2a")), "w"), ElementsAre(3, 4)) << "sizes as a list";
  EXPECT_THAT(checkpoint_error(rebuilt(good, "N", two)), HasSubstr("not described"));
  EXPECT_THAT(checkpoint_error(rebuilt("N", "K\3", two)), HasSubstr("not described"));
  EXPECT_THAT(checkpoint_error(rebuilt(storage("ctorch\nFloatStorage\n", ""), "K\3", two)), HasSubstr("has a storage that is not described"));
  EXPECT_THAT(checkpoint_error(rebuilt(pickled_text("storage") + "Q", "K\3", two)), HasSubstr("has a storage that is not described"));
  EXPECT_THAT(checkpoint_error(rebuilt(good, "K\3", "N")), HasSubstr("has no shape"));
  EXPECT_THAT(checkpoint_error(rebuilt(good, "K\3", "ctorch\nSize\n)R")), HasSubstr("has no shape"));
  EXPECT_THAT(checkpoint_error(rebuilt(storage("ctorch\nFloatStorage\n", "0", "(" + pickled_text("v") + "K\0NtN"s), "K\0"s, two)), HasSubstr("has a view beyond"));
  for (const char* function : {"_rebuild_qtensor", "_rebuild_sparse_tensor", "_rebuild_nested_tensor"})
    EXPECT_THAT(checkpoint_error(pickled_dict(pickled_text("w") + "ctorch._utils\n"s + function + "\n)R")), HasSubstr("torch._utils.'"s + function + "'"));

  // Subclasses: (function, type, arguments, state).
  const auto from_type = [](const std::string& args) { return pickled_dict(pickled_text("v") + kTensor + pickled_text("w") + "ctorch._tensor\n_rebuild_from_type_v2\n(" + args + "tR"); };
  const std::string parameter = "ctorch._utils\n_rebuild_parameter\n", type = "cm\nC\n";
  EXPECT_EQ(checkpoint(from_type(parameter + type + "(" + kTensor + "tN")).tensors().size(), 2u);
  for (const std::string& opaque : {parameter + type, parameter + type + "N", parameter + type + ")", "cm\nf\n" + type + "(" + kTensor + "t"})
    EXPECT_EQ(only_name(from_type(opaque)), "v") << ::testing::PrintToString(opaque);
  EXPECT_EQ(only_name(pickled_dict(pickled_text("v") + kTensor + pickled_text("w") + parameter + ")R")), "v");
  std::string deep = kTensor;
  for (int i = 0; i < 20; ++i) deep = parameter + deep + "\x85R";
  EXPECT_THAT(checkpoint_error(pickled_dict(pickled_text("w") + deep)), HasSubstr("nested more than"));
  EXPECT_EQ(torch_storage_element_size(""), std::nullopt);
  EXPECT_EQ(torch_storage_element_size("OtherStorage"), std::nullopt);
  EXPECT_EQ(torch_storage_element_size("ComplexDoubleStorage"), 16u);
}

TEST(ReaderBranches, TheZipFormatWithoutAFolder) {
  const std::string bytes = testing::zip_of({{"notes/a/data.pkl", "x"}, {"data.pkl", pickled_dict(pickled_text("w") + pickled_tensor(0, {2}, {1}))}, {"data/0", std::string(64, '\0')}});
  ZipArchive zip(testing::as_file(bytes));
  EXPECT_EQ(zip.names().size(), 3u);
  const TempFolder folder;
  EXPECT_EQ(open_weights(folder.write("f", bytes)).at("w").shape, (Shape{2}));
}

// --- the legacy formats ----------------------------------------------------------------------------------------------

TEST(ReaderBranches, LegacyFactsAndIdsOfOtherKinds) {
  const auto legacy = [](const std::string& machine, const std::string& content) {
    return "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03."s + machine + content + "\x80\x02](" + pickled_text("0") + "e." + bytes_of(uint64_t{16}) + std::string(64, '\0');
  };
  const std::string content = pickled_dict(pickled_text("bad") + "K\1\x85Q" + pickled_text("worse") + "P7\n" + pickled_text("w") + pickled_tensor(0, {2}, {1}));
  for (const std::string& machine : {"\x80\x02}" + pickled_text("little_endian") + "K\1s."s, "\x80\x02}" + pickled_text("little_endian") + "\x88s."s, "N."s}) {
    const std::string bytes = legacy(machine, content);
    EXPECT_EQ(read_torch_legacy(testing::as_file(bytes)).tensors().size(), 1u);
  }
  EXPECT_FALSE(looks_like_torch_legacy("\x80\x04\x95"));
  EXPECT_FALSE(looks_like_torch_legacy("\x80"));
  EXPECT_TRUE(looks_like_torch_legacy("L119547037146038801333356L\n.I1001\n."));
}

std::string tar_of(const std::vector<std::string>& names) {
  std::string out;
  for (const std::string& name : names) {
    std::string block(512, '\0');
    block.replace(0, name.size(), name);
    block.replace(124, 11, "00000000003");
    block.replace(257, 5, "ustar");
    out += block + std::string(512, 'x');
  }
  return out;
}

TEST(ReaderBranches, TarArchivesThatAreNone) {
  EXPECT_TRUE(looks_like_torch_tar(tar_of({"pickle", "tensors", "storages"})));
  EXPECT_FALSE(looks_like_torch_tar(tar_of({"storages", "tensors"})));
  EXPECT_FALSE(looks_like_torch_tar(tar_of({"pickle"}) + std::string(600, 'x')));
  std::vector<std::string> many(32, "other");
  many.insert(many.end(), {"pickle", "storages"});
  EXPECT_FALSE(looks_like_torch_tar(tar_of(many))) << "no such checkpoint has so many members";
}

// --- zip archives in 64 bits -----------------------------------------------------------------------------------------

// One stored entry whose sizes and place stand in the extra field of its directory entry, and whose directory is told by the record of
// zip64, as large checkpoints have it. The parts are where the tests change something.
struct Zip64 {
  std::string name = "a/data/0", data = std::string(5000, 'd');
  std::string other_field = "\x11\x11\2\0ab"s, field;  // of the extra field
  std::string comment;

  size_t central = 0, record = 0, locator = 0, end = 0;

  std::string bytes() {
    const auto size = static_cast<uint32_t>(data.size());
    const auto crc = static_cast<uint32_t>(::crc32(0, reinterpret_cast<const unsigned char*>(data.data()), size));
    if (field.empty()) field = "\1\0\x18\0"s + bytes_of(uint64_t{size}) + bytes_of(uint64_t{size}) + bytes_of(uint64_t{0});
    const std::string extra = other_field + field, versions = "\x2d\0\0\0\0\0\0\0\x21\0"s;
    std::string out = "PK\3\4"s + versions + bytes_of(crc) + bytes_of(size) + bytes_of(size) + bytes_of(static_cast<uint16_t>(name.size())) + "\0\0"s + name + data;
    central = out.size();
    out += "PK\1\2\x2d\0"s + versions + bytes_of(crc) + std::string(8, '\xff') + bytes_of(static_cast<uint16_t>(name.size())) + bytes_of(static_cast<uint16_t>(extra.size())) +
           std::string(10, '\0') + std::string(4, '\xff') + name + extra;
    record = out.size();
    out += "PK\6\6"s + bytes_of(uint64_t{44}) + "\x2d\0\x2d\0"s + std::string(8, '\0') + bytes_of(uint64_t{1}) + bytes_of(uint64_t{1}) + bytes_of(uint64_t{record - central}) + bytes_of(uint64_t{central});
    locator = out.size();
    out += "PK\6\7"s + std::string(4, '\0') + bytes_of(uint64_t{record}) + bytes_of(uint32_t{1});
    end = out.size();
    return out + "PK\5\6\0\0\0\0"s + std::string(12, '\xff') + bytes_of(static_cast<uint16_t>(comment.size())) + comment;
  }
};

// Two archives in one file: the second is the comment of the first, so that readers may disagree about which it is.
std::string two_archives(const std::string& first, const std::string& second) {
  const std::string name = "a/data/0", zeros(64, '\0');
  const auto sizes = [](const std::string& data) {
    const auto size = static_cast<uint32_t>(data.size());
    return bytes_of(static_cast<uint32_t>(::crc32(0, reinterpret_cast<const unsigned char*>(data.data()), size))) + bytes_of(size) + bytes_of(size);
  };
  const std::string named = bytes_of(static_cast<uint16_t>(name.size())) + "\0\0"s, versions = "\x14\0\0\0\0\0\0\0\x21\0"s;
  const auto local = [&](const std::string& data) { return "PK\3\4"s + versions + sizes(data) + named + name + data; };
  const auto central = [&](const std::string& data, size_t at) {
    return "PK\1\2\x14\0"s + versions + sizes(data) + named + zeros.substr(0, 10) + bytes_of(static_cast<uint32_t>(at)) + name;
  };
  const auto end = [&](size_t size, size_t at, size_t comment) {
    return "PK\5\6\0\0\0\0\1\0\1\0"s + bytes_of(static_cast<uint32_t>(size)) + bytes_of(static_cast<uint32_t>(at)) + bytes_of(static_cast<uint16_t>(comment));
  };
  const std::string entries = local(first) + local(second), one = central(first, 0), two = central(second, local(first).size());
  const std::string whole = entries + one + end(one.size(), entries.size(), two.size() + 22);
  return whole + two + end(two.size(), whole.size(), 0);
}

TEST(ReaderBranches, AnEntryIsUsedWhereItLiesOnlyIfAllAgreeOnIt) {
  const auto read = [](const std::string& first, const std::string& second) {
    const std::string bytes = two_archives(first, second);
    ZipArchive zip(testing::as_file(bytes));
    const FilePart entry = zip.read("a/data/0");
    return std::string(reinterpret_cast<const char*>(entry.span.data()), entry.span.size());
  };
  const std::string a(5000, 'a'), b(5000, 'b'), shorter(4999, 'b');
  EXPECT_EQ(read(a, a), a);
  EXPECT_EQ(read(a, shorter), a) << "of another size: what libzip reads";
  EXPECT_THAT(error_of([&] { read(a, b); }), HasSubstr("contradicts itself about entry 'a/data/0'"));
}

size_t stored_in(const std::string& bytes) { return read_zip_directory(std::as_bytes(std::span(bytes))).stored.size(); }

TEST(ReaderBranches, EntriesOf64BitArchivesAreFoundWhereTheyLie) {
  for (const std::string& comment : {""s, "a comment"s, "PK\5\6"s + std::string(18, '\0') + "after what looks like an end"}) {
    Zip64 zip;
    zip.comment = comment;
    const std::string bytes = zip.bytes();
    const ZipDirectory directory = read_zip_directory(std::as_bytes(std::span(bytes)));
    ASSERT_EQ(directory.stored.size(), 1u) << comment;
    EXPECT_EQ(directory.stored.at("a/data/0").size(), 5000u);
    ZipArchive archive(testing::as_file(bytes));
    EXPECT_EQ(archive.read("a/data/0").span.data(), directory.stored.at("a/data/0").data()) << "libzip agrees";
  }
}

TEST(ReaderBranches, WhatIsIrregularInA64BitArchiveIsLeftOut) {
  const auto changed = [](size_t Zip64::*part, size_t offset, const std::string& value) {
    Zip64 zip;
    std::string bytes = zip.bytes();
    bytes.replace(zip.*part + offset, value.size(), value);
    return stored_in(bytes);
  };
  EXPECT_EQ(changed(&Zip64::locator, 8, bytes_of(uint64_t{1} << 60)), 0u) << "the record lies outside";
  EXPECT_EQ(changed(&Zip64::record, 0, "xx"), 0u) << "no record lies there";
  EXPECT_EQ(changed(&Zip64::record, 40, bytes_of(uint64_t{1} << 60)), 0u) << "the directory is too long";
  EXPECT_EQ(changed(&Zip64::record, 48, bytes_of(uint64_t{1} << 60)), 0u) << "the directory lies outside";
  EXPECT_EQ(changed(&Zip64::locator, 0, "xx"), 0u) << "no locator";
  EXPECT_EQ(changed(&Zip64::end, 0, "xx"), 0u) << "no end";
  EXPECT_EQ(changed(&Zip64::central, 0, "xx"), 0u) << "no entry";
  EXPECT_EQ(changed(&Zip64::central, 28, "\xff\xff"), 0u) << "a name beyond the directory";
  EXPECT_EQ(changed(&Zip64::central, 8, "\1"), 0u) << "encrypted";
  EXPECT_EQ(changed(&Zip64::central, 10, "\x8"), 0u) << "compressed";
  EXPECT_EQ(changed(&Zip64::central, 24, bytes_of(uint32_t{7})), 0u) << "a size of its own shifts the others";
  const auto with_fields = [](const std::string& other, const std::string& field) {
    Zip64 zip;
    zip.other_field = other;
    zip.field = field;
    return stored_in(zip.bytes());
  };
  EXPECT_EQ(with_fields("", "\1\0\xff\0"s), 0u) << "a field beyond the extra field";
  EXPECT_EQ(with_fields("", "\1\0\x08\0"s + bytes_of(uint64_t{5000})), 0u) << "one number of three";
  EXPECT_EQ(with_fields("", "\2\0\0\0"s), 0u) << "no number";
  for (size_t at : {size_t{20}, size_t{42}}) {
    Zip64 zip;
    zip.other_field = "";
    zip.field = "\2\0\0\0"s;
    std::string bytes = zip.bytes();
    bytes.replace(zip.central + 24, 4, bytes_of(uint32_t{5000}));
    if (at == 42) bytes.replace(zip.central + 20, 4, bytes_of(uint32_t{5000}));
    EXPECT_EQ(stored_in(bytes), 0u) << "what is left to the extra field is not there";
  }
  EXPECT_EQ(stored_in("PK"), 0u);
  EXPECT_EQ(stored_in(std::string(100'000, 'x')), 0u);
  EXPECT_TRUE(zip_counts_fit(std::as_bytes(std::span("PK", 2))));
  Zip64 zip;
  std::string bytes = zip.bytes();
  bytes.replace(zip.locator + 8, 8, bytes_of(uint64_t{1} << 60));
  EXPECT_FALSE(zip_counts_fit(std::as_bytes(std::span(bytes)))) << "65535 entries";
}

}  // namespace
}  // namespace fovea
