#include "weights/npz.h"

#include <gmock/gmock.h>

#include <numeric>

#include "weights/npy_header.h"
#include "weights/weight_fixtures.h"
#include "weights/zip_archive.h"
#include "weights/zip_fixtures.h"

namespace fovea {
namespace {

using namespace std::string_literals;
using testing::error_of;
using testing::values_of;
using testing::zip_of;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string npz_fixture(const std::string& name) { return FOVEA_TEST_FIXTURES "/weights/" + name; }

std::vector<float> counting(size_t n) {
  std::vector<float> out(n);
  std::iota(out.begin(), out.end(), 0.0f);
  return out;
}

// A .npy file: the dict as NumPy writes it, or any other text.
std::string npy(const std::string& dict, const std::string& data, char version = 1) {
  std::string out = "\x93NUMPY"s + version + '\0';
  out += static_cast<char>(dict.size() & 0xff);
  out += static_cast<char>(dict.size() >> 8);
  if (version != 1) out += std::string(2, '\0');
  return out + dict + data;
}
std::string npy_dict(const std::string& descr, const std::string& shape, const std::string& order = "False") {
  return "{'descr': '" + descr + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }   \n";
}
std::string floats(const std::vector<float>& v) { return {reinterpret_cast<const char*>(v.data()), v.size() * sizeof(float)}; }

// The caller keeps the bytes while it uses the result.
WeightFile read_arrays(const std::string& bytes) {
  ZipArchive zip(testing::as_file(bytes));
  return read_npz(zip);
}

TEST(Npz, ReadsEveryElementType) {
  const WeightFile file = open_weights(npz_fixture("every_type.npz"));
  EXPECT_EQ(file.container(), "NumPy npz");
  ASSERT_EQ(file.tensors().size(), 13u);
  for (const WeightTensor& t : file.tensors()) {
    EXPECT_EQ(t.shape, (Shape{2, 3})) << t.name;
    if (t.name == "b1") EXPECT_THAT(values_of(file, "b1"), ElementsAre(0, 1, 0, 1, 0, 1));
    else EXPECT_EQ(values_of(file, t.name), counting(6)) << t.name;
  }
  EXPECT_EQ(file.at("V2").type, StoredType::kBF16);
}

TEST(Npz, ReadsArraysOfBothOrdersStoredAndDeflated) {
  for (const char* name : {"arrays.npz", "arrays_deflated.npz"}) {
    const WeightFile file = open_weights(npz_fixture(name));
    ASSERT_EQ(file.tensors().size(), 7u);
    EXPECT_EQ(file.tensors()[0].name, "Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel");
    EXPECT_EQ(values_of(file, file.tensors()[0].name), counting(24));
    EXPECT_EQ(values_of(file, "fortran"), counting(24));
    EXPECT_EQ(values_of(file, "large"), counting(1200));
    EXPECT_EQ(values_of(file, "large_fortran"), counting(1200));
    EXPECT_EQ(file.at("large_fortran").mapped, name == "arrays.npz"s);
    EXPECT_THAT(values_of(file, "scalar"), ElementsAre(7));
    EXPECT_EQ(file.at("empty").shape, (Shape{0, 5}));
    EXPECT_EQ(file.at("empty_fortran").shape, (Shape{5, 0}));
    for (int time = 0; time < 2; ++time) {  // and again after its pages were given back
      for (const WeightTensor& t : file.tensors()) t.release();
      EXPECT_EQ(values_of(file, "large_fortran"), counting(1200));
    }
  }
}

TEST(Npz, ReadsEveryVersionOfTheHeaderAndOtherSpellings) {
  const std::string data = floats({0, 1, 2, 3, 4, 5});
  for (const std::string& array :
       {npy(npy_dict("<f4", "(2, 3)"), data), npy(npy_dict("<f4", "(2, 3)"), data, 2), npy(npy_dict("<f4", "(2, 3)"), data, 3),
        npy("{'shape':(2L,3L),'descr':'=f4','fortran_order':False}", data), npy("{\"descr\": \"f4\", 'fortran_order': False, 'shape': (2, 3,)}", data)}) {
    const std::string bytes = zip_of({{"w.npy", array}, {"readme.txt", "not an array"}});
    const WeightFile file = read_arrays(bytes);
    ASSERT_EQ(file.tensors().size(), 1u);
    EXPECT_EQ(file.at("w").shape, (Shape{2, 3}));
    EXPECT_EQ(values_of(file, "w"), counting(6));
  }
}

TEST(Npz, FortranOrderOfWhatHasNoOrder) {
  for (const char* shape : {"()", "(1,)", "(1, 1)", "(2, 0)"}) {
    const bool empty = shape[1] == '2';
    const std::string bytes = zip_of({{"readme.txt", "x"}, {"w.npy", npy(npy_dict("<f4", shape, "True"), empty ? "" : floats({5}))}});
    const testing::TempFolder folder;
    const WeightFile file = open_weights(folder.write("f", bytes));
    EXPECT_EQ(values_of(file, "w"), empty ? std::vector<float>() : std::vector<float>{5}) << shape;
  }
}

TEST(Npz, OfATrainingStateTheModelIsRead) {
  const auto scalar = [](float v) { return npy(npy_dict("<f4", "()"), floats({v})); };
  for (const std::string& model : {"opt/target/"s, "params/"s, "params/img/"s}) {
    const std::string bytes = zip_of({{"opt/state/step.npy", scalar(1)}, {model + "embedding/kernel.npy", scalar(2)}, {model + "cls.npy", scalar(3)}, {"params/t.npy", scalar(4)}});
    const WeightFile file = read_arrays(bytes);
    EXPECT_EQ(file.tensors().size(), model == "params/" ? 3u : 2u);
    EXPECT_THAT(values_of(file, "embedding/kernel"), ElementsAre(2));
    EXPECT_THAT(values_of(file, "cls"), ElementsAre(3));
    EXPECT_EQ(file.metadata().at("npz.entry") + "/", model);
  }
  const std::string bytes = zip_of({{"opt/target/other.npy", scalar(1)}});
  EXPECT_THAT(values_of(read_arrays(bytes), "opt/target/other"), ElementsAre(1));
}

TEST(Npz, BigEndianArraysAreRefused) {
  EXPECT_THAT(error_of([] { open_weights(npz_fixture("big_endian.npz")); }), HasSubstr("array 'big' is big endian ('>f4')"));
  const std::string bytes = zip_of({{"w.npy", npy(npy_dict(">u1", "(1,)"), "\x07")}});
  EXPECT_THAT(values_of(read_arrays(bytes), "w"), ElementsAre(7)) << "single bytes have no order";
}

TEST(Npz, BrokenArraysGiveOneErrorThatNamesFileAndArray) {
  const std::string four(4, '\0');
  const std::vector<std::pair<std::string, std::string>> cases{
      {"", "does not begin as one"},
      {"\x93NUMPZ\1\0"s, "does not begin as one"},
      {"\x93NUMPY\1"s, "ends inside its .npy header"},
      {"\x93NUMPY\1\0\x10"s, "ends inside its .npy header"},
      {"\x93NUMPY\2\0\x10\0\0"s, "ends inside its .npy header"},
      {"\x93NUMPY\4\0\1\0{"s, "version 4"},
      {"\x93NUMPY\1\0\xff\xff{"s, "claims a .npy header of 65535 bytes, but only 1 follow"},
      {"\x93NUMPY\2\0\xff\xff\xff\xff{"s, "claims a .npy header of 4294967295 bytes"},
      {npy("", four), "'{' is missing"},
      {npy("x", four), "'{' is missing before 'x'"},
      {npy("{", four), "a text is missing"},
      {npy("{'descr", four), "a text is missing"},
      {npy("{}", four), "lacks 'descr'"},
      {npy("{'descr':'<f4'}", four), "lacks 'fortran_order'"},
      {npy("{'descr':'<f4','fortran_order':True}", four), "lacks 'shape'"},
      {npy("{'descr' '<f4'}", four), "':' is missing"},
      {npy("{'descr':'<f4' 'shape':(1,)}", four), "'}' is missing"},
      {npy("{'descr':'<f4','descr':'<f4'}", four), "'descr' occurs twice"},
      {npy("{'x':1}", four), "its key 'x' does not belong there"},
      {npy("{'fortran_order':0}", four), "neither True nor False"},
      {npy("{'descr':3}", four), "a text is missing"},
      {npy("{'descr':[('a','<f4')]}", four), "holds records"},
      {npy("{'shape':1}", four), "'(' is missing"},
      {npy("{'shape':(1 2)}", four), "')' is missing"},
      {npy("{'shape':(x)}", four), "not a natural number"},
      {npy("{'shape':(-1,)}", four), "not a natural number"},
      {npy("{'shape':(9223372036854775808,)}", four), "not a natural number"},
      {npy("{'shape':(__import__('os').system('touch executed'),)}", four), "not a natural number"},
      {npy("{'shape':(1,1,1,1,1,1,1,1,1)}", four), "more than 8 dimensions"},
      {npy(npy_dict("<f4", "(1,)") + "x", four), "'x' follows the dict"},
      {npy(npy_dict("<c8", "(1,)"), four), "the element type '<c8'"},
      {npy(npy_dict("|O", "(1,)"), four), "the element type '|O'"},
      {npy(npy_dict("<U1", "(1,)"), four), "the element type '<U1'"},
      {npy(npy_dict("", "(1,)"), four), "the element type ''"},
      {npy(npy_dict("<f4", "(2,)"), four), "has 4 bytes of data, but shape [2] of F32 needs 8"},
      {npy(npy_dict("<f4", "()"), "12345"), "has 5 bytes of data"},
      {npy(npy_dict("<f4", "(1152921504606846976,)"), four), "needs 4611686018427387904"},
      {npy(npy_dict("<f4", "(4611686018427387904,)"), four), "overflows 64 bits"},
      {npy(npy_dict("<f4", "(4294967296, 4294967296)"), four), "overflows 64 bits"},
      {npy(npy_dict("<f4", "(4611686018427387904, 1, 2)"), four), "overflows 64 bits"},
  };
  for (const auto& [array, message] : cases) {
    const std::string bytes = zip_of({{"w.npy", array}});
    const std::string error = error_of([&] { read_arrays(bytes); });
    EXPECT_THAT(error, HasSubstr(message)) << ::testing::PrintToString(array);
    EXPECT_THAT(error, ::testing::StartsWith("'memory': array 'w'")) << ::testing::PrintToString(array);
  }
}

TEST(Npz, TwoArraysOfOneNameAreRefused) {
  std::string bytes = zip_of({{"a.npy", npy(npy_dict("<f4", "()"), floats({1}))}, {"b.npy", npy(npy_dict("<f4", "()"), floats({2}))}});
  for (size_t at = 0; (at = bytes.find("b.npy", at)) != std::string::npos;) bytes[at] = 'a';
  EXPECT_THAT(error_of([&] { read_arrays(bytes); }), HasSubstr("'memory' holds two entries named 'a.npy'"));
}

TEST(Npz, ArraysThatUnpackToFarMoreThanTheFileAreRefused) {
  const std::string bytes = zip_of({{"w.npy", npy(npy_dict("<f4", "(1000000,)"), std::string(4'000'000, '\0'))}}, true);
  EXPECT_LT(bytes.size(), 10'000u);
  EXPECT_THAT(error_of([&] { read_arrays(bytes); }), HasSubstr("out of proportion"));
}

TEST(Npz, EveryChangedByteIsReadOrRefusedWithoutCrash) {
  for (const char* name : {"every_type.npz", "arrays_deflated.npz"}) {
    const std::string whole = testing::read_bytes(npz_fixture(name));
    for (size_t n = 0; n < whole.size(); ++n) {
      std::string bad = whole;
      bad[n] = static_cast<char>(bad[n] ^ 0x11);
      try {
        const WeightFile file = read_arrays(bad);
        for (const WeightTensor& t : file.tensors()) values_of(file, t.name);
      } catch (const Error&) {
      }
    }
  }
}

}  // namespace
}  // namespace fovea
