#include "weights/safetensors.h"

#include <gmock/gmock.h>
#include <sys/resource.h>

#include <csignal>
#include <limits>

#include "weights/atomic_file.h"
#include "weights/weight_fixtures.h"

namespace fovea {
namespace {

using testing::as_file;
using testing::error_of;
using testing::read_bytes;
using testing::safetensors_bytes;
using testing::TempFolder;
using testing::values_of;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string parse_error(const std::string& bytes) {
  return error_of([&] { parse_safetensors(as_file(bytes)); });
}

struct Sample {
  std::vector<float> a{1, -2, 3.5f, 4, 5, 6};
  std::vector<double> b{0.1, 1e300};
  std::vector<uint8_t> c{0, 7, 255};
  std::vector<TensorToWrite> tensors() const {
    return {{"c", DType::kU8, {3}, c.data()}, {"layer.a", DType::kF32, {2, 3}, a.data()}, {"empty", DType::kF32, {0, 4}, nullptr},
            {"b \"quoted\" \xc3\xa4", DType::kF64, {2}, b.data()}, {"scalar", DType::kF32, {}, a.data() + 2}};
  }
};

TEST(Safetensors, RoundTripKeepsEveryTensorAndTheMetadata) {
  const TempFolder folder;
  const std::string path = folder / "a.safetensors";
  const Sample sample;
  write_safetensors(path, sample.tensors(), {{"format", "pt"}, {"note", "two\nlines"}});
  const WeightFile file = open_weights(path);
  EXPECT_EQ(file.container(), "safetensors");
  EXPECT_EQ(file.metadata().at("note"), "two\nlines");
  ASSERT_EQ(file.tensors().size(), 5u);
  EXPECT_EQ(file.tensors()[0].name, "b \"quoted\" \xc3\xa4") << "the widest type comes first";
  EXPECT_EQ(values_of(file, "layer.a"), sample.a);
  EXPECT_EQ(file.at("layer.a").shape, (Shape{2, 3}));
  EXPECT_THAT(values_of(file, "c"), ElementsAre(0, 7, 255));
  EXPECT_THAT(values_of(file, "scalar"), ElementsAre(3.5f));
  EXPECT_THAT(values_of(file, "empty"), ElementsAre());
  std::vector<double> b(2);
  file.read_f64("b \"quoted\" \xc3\xa4", b.data());
  EXPECT_EQ(b, sample.b);
  EXPECT_THAT(folder.names(), ElementsAre("a.safetensors"));
}

TEST(Safetensors, WritingTwiceGivesTheSameBytesAndAnAlignedHeader) {
  const TempFolder folder;
  const Sample sample;
  write_safetensors(folder / "a", sample.tensors(), {{"k", "v"}});
  write_safetensors(folder / "b", sample.tensors(), {{"k", "v"}});
  const std::string bytes = read_bytes(folder / "a");
  EXPECT_EQ(bytes, read_bytes(folder / "b"));
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  EXPECT_EQ(header % 8, 0u);
  EXPECT_EQ(bytes.substr(8, 2), "{\"");
}

TEST(Safetensors, ReadsAnEmptySetAndTrailingSpaces) {
  EXPECT_TRUE(parse_safetensors(as_file(safetensors_bytes("{}"))).tensors().empty());
  EXPECT_TRUE(parse_safetensors(as_file(safetensors_bytes("{}      "))).tensors().empty());
}

TEST(Safetensors, OrdersByPositionInTheFile) {
  const std::string bytes = safetensors_bytes(
      R"({"z":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},"none":{"dtype":"F32","shape":[0],"data_offsets":[1,1]},)"
      R"("a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}})", "\xff\x02");
  const WeightFile file = parse_safetensors(as_file(bytes));
  EXPECT_EQ(file.tensors()[0].name, "a");
  EXPECT_EQ(file.tensors()[1].name, "none");
  EXPECT_EQ(file.tensors()[2].name, "z");
  EXPECT_THAT(values_of(file, "a"), ElementsAre(-1));
}

TEST(Safetensors, ConvertsEveryStoredType) {
  struct Case {
    const char* dtype;
    std::string bytes;
    std::vector<float> expected;
  };
  const float inf = std::numeric_limits<float>::infinity();
  using namespace std::string_literals;
  const std::vector<Case> cases{
      {"F16", "\x00\x3c\x00\xc0\x01\x00\xff\x7b\x00\x7c\x01\x80"s, {1, -2, 0x1p-24f, 65504, inf, -0x1p-24f}},
      {"BF16", "\x80\x3f\x20\xc0"s, {1, -2.5f}},
      {"I64", "\xfe\xff\xff\xff\xff\xff\xff\xff"s, {-2}},
      {"U64", "\xff\xff\xff\xff\xff\xff\xff\xff"s, {0x1p64f}},
      {"I32", "\xfe\xff\xff\xff"s, {-2}},
      {"U32", "\xff\xff\xff\xff"s, {0x1p32f}},
      {"I16", "\xfe\xff"s, {-2}},
      {"U16", "\xfe\xff"s, {65534}},
      {"BOOL", "\x00\x01\x07"s, {0, 1, 1}},
  };
  for (const Case& c : cases) {
    const std::string bytes = safetensors_bytes(
        fmt::format(R"({{"t":{{"dtype":"{}","shape":[{}],"data_offsets":[0,{}]}}}})", c.dtype, c.expected.size(), c.bytes.size()), c.bytes);
    const WeightFile file = parse_safetensors(as_file(bytes));
    EXPECT_EQ(values_of(file, "t"), c.expected) << c.dtype;
    std::vector<double> wide(c.expected.size());
    file.read_f64("t", wide.data());
    EXPECT_EQ(static_cast<float>(wide[0]), c.expected[0]) << c.dtype;
  }
  const std::string nan = safetensors_bytes(R"({"t":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}})", "\x01\x7c"s);
  EXPECT_TRUE(std::isnan(values_of(parse_safetensors(as_file(nan)), "t")[0]));
}

TEST(Safetensors, EveryTruncationIsAnError) {
  const TempFolder folder;
  const Sample sample;
  write_safetensors(folder / "whole", sample.tensors(), {{"k", "v"}});
  const std::string whole = read_bytes(folder / "whole");
  for (size_t n = 0; n < whole.size(); ++n) {
    const std::string cut = whole.substr(0, n);
    EXPECT_THROW(parse_safetensors(as_file(cut)), Error) << n << " bytes";
  }
  EXPECT_THAT(parse_error(whole.substr(0, whole.size() - 1)), HasSubstr("cut short"));
  EXPECT_THAT(parse_error(whole + "x"), HasSubstr("1 bytes follow the last tensor"));
}

TEST(Safetensors, EveryChangedHeaderByteIsReadOrRefusedWithoutCrash) {
  const TempFolder folder;
  const Sample sample;
  write_safetensors(folder / "whole", sample.tensors(), {{"k", "v"}});
  const std::string whole = read_bytes(folder / "whole");
  uint64_t header = 0;
  std::memcpy(&header, whole.data(), 8);
  for (size_t n = 0; n < 8 + header; ++n)
    for (int change : {1, 0x20, 0x80}) {
      std::string bad = whole;
      bad[n] = static_cast<char>(bad[n] ^ change);
      try {
        const WeightFile file = parse_safetensors(as_file(bad));
        for (const WeightTensor& t : file.tensors()) values_of(file, t.name);
      } catch (const Error&) {
      }
    }
}

TEST(Safetensors, RefusesLengthsBeyondTheFile) {
  std::string bytes = safetensors_bytes("{}");
  for (uint64_t n : {uint64_t{3}, uint64_t{1} << 20, uint64_t{1} << 60, ~uint64_t{0}, ~uint64_t{0} - 7}) {
    std::memcpy(bytes.data(), &n, 8);
    EXPECT_THROW(parse_safetensors(as_file(bytes)), Error) << n;
  }
}

struct Broken {
  const char* header;
  size_t data;
  const char* message;
};

class SafetensorsBroken : public ::testing::TestWithParam<Broken> {};

TEST_P(SafetensorsBroken, GivesOneErrorThatSaysWhatIsWrong) {
  const std::string bytes = safetensors_bytes(GetParam().header, std::string(GetParam().data, '\1'));
  EXPECT_THAT(parse_error(bytes), HasSubstr(GetParam().message));
}

const Broken kBroken[] = {
    {R"([])", 0, "does not begin with a brace"},
    {R"( {})", 0, "does not begin with a brace"},
    {R"({"a")", 0, "not valid JSON"},
    {R"({} x)", 0, "not valid JSON"},
    {"{\"a\xff\":{}}", 0, "not valid JSON"},
    {R"({"a":1})", 0, "a number"},
    {R"({"a":{"dtype":{"x":{}}}})", 0, "an object"},
    {R"({"a":[[[[[[]]]]]]})", 0, "an array"},
    {R"({"a":{"shape":[[1]]}})", 0, "an array"},
    {R"({"a":{"dtype":"F32","shape":[null],"data_offsets":[0,4]}})", 4, "null"},
    {R"({"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}})", 4, "boolean"},
    {R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4, "fractional"},
    {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "negative number -1"},
    {R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]}})", 4, "too large"},
    {R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]}})", 4, "overflows"},
    {R"({"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,4]}})", 4, "overflows"},
    {R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}})", 1, "'shape' of 'a' holds more than 8 numbers"},
    {R"({"a":{"dtype":"F32","shape":[1]}})", 4, "lacks data_offsets"},
    {R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4, "lacks shape"},
    {R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4, "lacks dtype"},
    {R"({"a":{"dtype":"Q7","shape":[1],"data_offsets":[0,4]}})", 4, "tensor 'a' has the element type 'Q7'"},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, "1 data_offsets"},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "before it begins"},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}})", 4, "reaches to byte 8"},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,9223372036854775807]}})", 4, "reaches to byte"},
    {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "needs 8"},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8, "leaves a gap"},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4, "overlaps"},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})", 6, "overlaps"},
    {R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"none":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}})", 8, "'none' overlaps"},
    {R"({"none":{"dtype":"F32","shape":[0,3],"data_offsets":[16,16]},"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})", 8, "reaches to byte 16"},
    {R"({"none":{"dtype":"F32","shape":[0],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})", 8, "needs 0"},
    {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", 2, "two tensors named 'a'"},
    {R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1, "'dtype' of 'a' occurs twice"},
    {R"({"a":{"dtype":"U8","shape":[1],"shape":[1],"data_offsets":[0,1]}})", 1, "'shape' of 'a' occurs twice"},
    {R"({"__metadata__":{"k":"v","k":"w"}})", 0, "'k' occurs twice"},
    {R"({"__metadata__":{},"__metadata__":{}})", 0, "occurs twice"},
    {R"({"__metadata__":{"k":1}})", 0, "a number"},
    {R"({"__metadata__":{"k":["v"]}})", 0, "an array"},
    {R"({"__metadata__":"text"})", 0, "a string"},
};
INSTANTIATE_TEST_SUITE_P(Cases, SafetensorsBroken, ::testing::ValuesIn(kBroken));

TEST(Safetensors, DeepNestingDoesNotExhaustTheStack) {
  const std::string bytes = safetensors_bytes("{\"a\":" + std::string(1'000'000, '['));
  EXPECT_THROW(parse_safetensors(as_file(bytes)), Error);
}

TEST(SafetensorsWriter, RefusesWhatAFileCannotHold) {
  const TempFolder folder;
  const float x = 1;
  const auto error = [&](std::vector<TensorToWrite> tensors) {
    return error_of([&] { write_safetensors(folder / "f", tensors, {}); });
  };
  EXPECT_THAT(error({{"a", DType::kF32, {1}, &x}, {"a", DType::kF32, {1}, &x}}), HasSubstr("'a' occurs twice"));
  EXPECT_THAT(error({{"__metadata__", DType::kF32, {1}, &x}}), HasSubstr("reserved"));
  EXPECT_THAT(error({{"a\xff", DType::kF32, {1}, &x}}), HasSubstr("not UTF-8"));
  EXPECT_THAT(error({{"a", DType::kDual, {1}, &x}}), HasSubstr("dual"));
  EXPECT_THAT(folder.names(), ElementsAre());
}

// Lets files grow to `bytes` only, as a full disk would.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before_);
    rlimit limit = before_;
    limit.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_{};
  void (*handler_)(int);
};

TEST(SafetensorsWriter, AFullDiskLeavesTheOldFileAndNoRubbish) {
  const TempFolder folder;
  const std::string path = folder / "model.safetensors";
  const std::vector<float> big(100'000, 2.0f), small(4, 1.0f);
  write_safetensors(path, std::vector<TensorToWrite>{{"w", DType::kF32, {4}, small.data()}}, {});
  const std::string before = read_bytes(path);
  std::string message;
  {
    const FileSizeLimit limit(50'000);
    message = error_of([&] { write_safetensors(path, std::vector<TensorToWrite>{{"w", DType::kF32, {100'000}, big.data()}}, {}); });
  }
  EXPECT_THAT(message, HasSubstr(path));
  EXPECT_THAT(message, HasSubstr("File too large"));
  EXPECT_EQ(read_bytes(path), before);
  EXPECT_THAT(folder.names(), ElementsAre("model.safetensors"));
}

TEST(AtomicFile, NothingAppearsWithoutCommit) {
  const TempFolder folder;
  {
    AtomicFile file(folder / "f");
    file.write("abc", 3);
  }
  EXPECT_THAT(folder.names(), ElementsAre());
}

TEST(AtomicFile, RemovesWhatAKilledWriterLeftBehindButNotWhatIsInUse) {
  const TempFolder folder;
  folder.write(".f.tmp-1-0", "left behind");
  folder.write(".other.tmp-1-0", "of another file");
  AtomicFile first(folder / "f");
  AtomicFile second(folder / "f");
  EXPECT_EQ(folder.names().size(), 3u);
  first.write("1", 1);
  second.write("2", 1);
  first.commit();
  second.commit();
  EXPECT_EQ(read_bytes(folder / "f"), "2");
  EXPECT_THAT(folder.names(), ::testing::UnorderedElementsAre("f", ".other.tmp-1-0"));
}

TEST(AtomicFile, WritesThroughALinkAndRefusesFoldersAndDevices) {
  const TempFolder folder;
  folder.write("real", "old");
  std::filesystem::create_symlink("real", folder / "link");
  AtomicFile file(folder / "link");
  file.write("new", 3);
  file.commit();
  EXPECT_EQ(read_bytes(folder / "real"), "new");
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "link"));
  EXPECT_THAT(error_of([&] { AtomicFile f(folder / ""); }), HasSubstr("cannot write"));
  EXPECT_THAT(error_of([] { AtomicFile f("/dev/full"); }), HasSubstr("not a regular file"));
  EXPECT_THAT(error_of([&] { AtomicFile f(folder / "absent/f"); }), HasSubstr("No such file or directory"));
}

}  // namespace
}  // namespace fovea
