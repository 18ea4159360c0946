#include "weights/npz_writer.h"

#include <gmock/gmock.h>

#include <numeric>

#include "weights/npy_header.h"
#include "weights/weight_fixtures.h"
#include "weights/zip_archive.h"

namespace fovea {
namespace {

using testing::error_of;
using testing::TempFolder;
using testing::values_of;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(NpzWriter, WritesWhatTheReaderReads) {
  const TempFolder folder;
  std::vector<float> x(6);
  std::iota(x.begin(), x.end(), 0.5f);
  const int64_t n = 7;
  const std::vector<double> d{1e300};
  const std::vector<TensorToWrite> tensors{{"x", DType::kF32, Shape{2, 3}, x.data()}, {"n", DType::kI64, Shape{}, &n},
                                           {"d", DType::kF64, Shape{1}, d.data()}, {"none", DType::kF32, Shape{0, 4}, nullptr}};
  const TextArray files{"files", {"a.png", "b\xc3\xa4.png", "\xff"}};
  write_npz(folder / "a.npz", tensors, std::span(&files, 1));
  ZipArchive zip(map_file(folder / "a.npz"));
  EXPECT_THAT(zip.names(), ElementsAre("x.npy", "n.npy", "d.npy", "none.npy", "files.npy"));
  const FilePart text = zip.read("files.npy");
  const std::string_view bytes(reinterpret_cast<const char*>(text.span.data()), text.span.size());
  EXPECT_THAT(std::string(bytes.substr(10, 54)), HasSubstr("'descr': '<U6', 'fortran_order': False, 'shape': (3,)"));
  EXPECT_EQ(text.span.size() % 64, (3u * 6u * 4u) % 64);  // the data begins at a multiple of 64
  const auto* points = reinterpret_cast<const char32_t*>(text.span.data() + text.span.size() - 72);
  std::vector<char32_t> read(18);
  std::memcpy(read.data(), points, 72);
  EXPECT_EQ(read[7], U'\u00e4');
  EXPECT_EQ(read[12], U'\ufffd');

  write_npz(folder / "b.npz", tensors);
  const WeightFile file = open_weights(folder / "b.npz");
  EXPECT_EQ(file.container(), "NumPy npz");
  EXPECT_EQ(values_of(file, "x"), x);
  EXPECT_EQ(file.at("n").shape, Shape{});
  EXPECT_EQ(values_of(file, "n"), std::vector<float>{7});
  EXPECT_EQ(file.at("none").shape, (Shape{0, 4}));
  double value = 0;
  file.read_f64("d", &value);
  EXPECT_EQ(value, 1e300);
}

TEST(NpzWriter, EqualContentGivesEqualBytesAndNamesAreUnique) {
  const TempFolder folder;
  const float one = 1;
  const std::vector<TensorToWrite> a{{"x", DType::kF32, Shape{1}, &one}}, twice{a[0], a[0]};
  write_npz(folder / "a.npz", a);
  write_npz(folder / "b.npz", a);
  EXPECT_EQ(testing::read_bytes(folder / "a.npz"), testing::read_bytes(folder / "b.npz"));
  EXPECT_THAT(error_of([&] { write_npz(folder / "c.npz", twice); }), HasSubstr("'x' occurs twice"));
}

}  // namespace
}  // namespace fovea
