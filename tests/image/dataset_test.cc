#include "image/dataset.h"

#include <gmock/gmock.h>

#include <set>

#include "core/check.h"
#include "dataset_files.h"
#include "image/dataset_hold_out.h"
#include "image/dataset_idx.h"

namespace fovea {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::gzip;
using testing::idx;
using testing::idx_pair;
using testing::ppm;
using testing::TemporaryFolder;
using testing::write_classes;
using testing::write_tar;

template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "(no error)";
}

std::string open_error(const std::string& data) {
  return error_of([&] { open_data(data, 0); });
}

std::vector<uint8_t> bytes_of(const std::string& text) { return {text.begin(), text.end()}; }

std::string idx_error(const std::string& file) {
  return error_of([&] { parse_idx(bytes_of(file), "F"); });
}

std::set<std::string> names_of(const Dataset& data) {
  std::set<std::string> names;
  for (int64_t i = 0; i < data.size(); ++i) names.insert(data.name(i));
  return names;
}

std::vector<int64_t> class_counts(const Dataset& data) {
  std::vector<int64_t> counts(data.class_names().size());
  for (int64_t i = 0; i < data.size(); ++i) ++counts[static_cast<size_t>(data.label(i))];
  return counts;
}

TEST(Dataset, ReadsAllPartsOfAFolder) {
  const TemporaryFolder at;
  write_classes(at, "train", {"dog", "cat", "Ant"}, 4);
  write_classes(at, "validation", {"cat", "dog", "Ant"}, 2);
  write_classes(at, "test", {"cat", "dog", "Ant"}, 1);
  at.write("train/cat/more/999.PPM", ppm(2, 3, 7));
  at.write("train/cat/.hidden.ppm", "x");
  at.write("train/.cache/a.ppm", "x");
  at.write("train/cat/notes.txt", "x");
  const DataSplits data = open_data(at.path() + "/", 0);
  EXPECT_THAT(data.train->class_names(), ElementsAre("Ant", "cat", "dog"));
  EXPECT_THAT(class_counts(*data.train), ElementsAre(4, 5, 4));
  EXPECT_EQ(data.val->size(), 6);
  EXPECT_EQ(data.test->size(), 3);
  EXPECT_TRUE(data.notes.empty());
  EXPECT_EQ(data.train->name(8), at.path("train/cat/more/999.PPM"));
  const Image image = data.train->read(8);
  EXPECT_EQ(image.width, 2);
  EXPECT_EQ(image.height, 3);
  EXPECT_EQ(image.pixels[0], 7);
  EXPECT_EQ(data.train->describe(), "13 images of 3 classes in " + at.path("train"));
}

TEST(Dataset, HoldsAStratifiedPartOut) {
  const TemporaryFolder at;
  write_classes(at, "", {"a", "b"}, 30);
  write_classes(at, "", {"c"}, 3);
  write_classes(at, "", {"d"}, 1);
  const DataSplits data = open_data(at.path(), 5);
  EXPECT_THAT(class_counts(*data.val), ElementsAre(3, 2, 1, 0));
  EXPECT_THAT(class_counts(*data.train), ElementsAre(27, 28, 2, 1));
  EXPECT_EQ(data.test, nullptr);
  EXPECT_THAT(data.notes, ElementsAre("6 of the 64 training images are held out for validation (stratified by class, seed 5)",
                                      "class 'd' has one image only, which stays in training"));
  std::set<std::string> all = names_of(*data.train);
  for (const std::string& name : names_of(*data.val)) EXPECT_TRUE(all.insert(name).second) << name;
  EXPECT_EQ(all.size(), 64u);
  EXPECT_EQ(names_of(*open_data(at.path(), 5).val), names_of(*data.val));
  EXPECT_NE(names_of(*open_data(at.path(), 6).val), names_of(*data.val));
  EXPECT_EQ(names_of(*open_split(at.path(), "val", 5).dataset), names_of(*data.val));
  EXPECT_EQ(names_of(*open_split(at.path(), "train", 5).dataset), names_of(*data.train));
}

TEST(Dataset, ChoosesTheSplitToEvaluate) {
  const TemporaryFolder at;
  write_classes(at, "plain", {"a", "b"}, 10);
  write_classes(at, "parts/train", {"a", "b"}, 10);
  write_classes(at, "tested/test", {"a", "b"}, 2);
  EXPECT_EQ(open_split(at.path("plain"), "", 0).split, "all");
  EXPECT_EQ(open_split(at.path("plain"), "", 0).dataset->size(), 20);
  EXPECT_EQ(open_split(at.path("parts"), "", 0).split, "val");
  EXPECT_EQ(open_split(at.path("parts"), "", 0).dataset->size(), 2);
  EXPECT_EQ(open_split(at.path("tested"), "", 0).split, "test");
  write_classes(at, "parts/test", {"a", "b"}, 3);
  EXPECT_EQ(open_split(at.path("parts"), "", 0).split, "test");
  const DataSplit all = open_split(at.path("parts"), "all", 0);
  EXPECT_EQ(all.dataset->size(), 26);
  EXPECT_EQ(all.dataset->name(20), at.path("parts/test/a/100.ppm"));
  EXPECT_EQ(all.dataset->label(25), 1);
  EXPECT_THAT(error_of([&] { open_split(at.path("plain"), "test", 0); }), HasSubstr("has no test part"));
  EXPECT_THAT(error_of([&] { open_split(at.path("plain"), "tset", 0); }), HasSubstr("there is no split 'tset'"));
  EXPECT_THAT(open_error(at.path("tested")), HasSubstr("has nothing to train on"));
}

TEST(Dataset, LinksInACircleEnd) {
  const TemporaryFolder at;
  write_classes(at, "", {"a", "b"}, 2);
  std::filesystem::create_directory_symlink(at.path(), at.path("a/up"));
  std::filesystem::create_directory_symlink(at.path("b"), at.path("a/other"));
  std::filesystem::create_directory_symlink(at.path("a"), at.path("b/other"));
  std::filesystem::create_symlink(at.path("nowhere"), at.path("a/gone.ppm"));
  EXPECT_THAT(class_counts(*open_split(at.path(), "all", 0).dataset), ElementsAre(4, 4));
}

TEST(Dataset, SaysWhatIsWrongWithAFolder) {
  const TemporaryFolder at;
  EXPECT_THAT(open_error(at.path("none")), AllOf(HasSubstr("there is no file, folder or installed data set"), HasSubstr("none")));
  EXPECT_THAT(open_error("fashion-mnsit"), HasSubstr("did you mean 'fashion-mnist'?"));
  EXPECT_THAT(open_error(""), HasSubstr("no data is named"));
  at.write("photo.ppm", ppm(1, 1, 1));
  EXPECT_THAT(open_error(at.path("photo.ppm")), HasSubstr("neither a folder nor a .tar or .tar.gz archive"));
  EXPECT_THAT(open_error(at.path()), HasSubstr("has images directly inside"));
  at.folder("empty");
  EXPECT_THAT(open_error(at.path("empty")), HasSubstr("has no class folders"));
  write_classes(at, "one", {"cat"}, 2);
  EXPECT_THAT(open_error(at.path("one")), HasSubstr("has one class only ('cat')"));
  at.folder("one/dog");
  EXPECT_THAT(open_error(at.path("one")), HasSubstr("the class folder " + at.path("one/dog") + " has no images"));
  write_classes(at, "single", {"cat", "dog"}, 1);
  EXPECT_THAT(open_error(at.path("single")), HasSubstr("no class of"));
}

TEST(Dataset, PartsNeedTheSameClasses) {
  const TemporaryFolder at;
  write_classes(at, "train", {"a", "b", "c"}, 2);
  write_classes(at, "val", {"a", "b"}, 2);
  EXPECT_THAT(open_error(at.path()), HasSubstr(at.path("val") + " has no folder for the class 'c' of " + at.path("train")));
  write_classes(at, "val", {"c", "x"}, 2);
  EXPECT_THAT(open_error(at.path()), HasSubstr("has the class 'x', which " + at.path("train") + " has not"));
  std::filesystem::remove_all(at.path("val/x"));
  write_classes(at, "test", {"a", "c"}, 2);
  EXPECT_THAT(open_error(at.path()), HasSubstr(at.path("test") + " has no folder for the class 'b'"));
}

TEST(Dataset, UnlabelledTestImagesAreLeftAside) {
  const TemporaryFolder at;
  write_classes(at, "train", {"a", "b"}, 4);
  at.write("test/1.ppm", ppm(1, 1, 1));
  const DataSplits data = open_data(at.path(), 0);
  EXPECT_EQ(data.test, nullptr);
  EXPECT_THAT(data.notes, Contains(HasSubstr("its images have no labels")));
  EXPECT_THAT(error_of([&] { open_split(at.path(), "test", 0); }), HasSubstr("its images have no labels"));
}

TEST(Dataset, ReadsArchives) {
  const TemporaryFolder at;
  const std::vector<std::pair<std::string, std::string>> members{
      {"./photos/", ""},           {"photos/train/b/1.ppm", ppm(1, 2, 9)},  {"photos/train/b/2.ppm", ppm(1, 2, 10)},
      {"photos/train/a/1.ppm", ppm(1, 2, 3)}, {"photos/train/a/2.ppm", ppm(1, 2, 4)}, {"photos/train/._x.ppm", "x"},
      {"../evil/c/1.ppm", ppm(1, 1, 1)},      {"/evil/1.ppm", ppm(1, 1, 1)},         {"photos/train/a/1.ppm", ppm(1, 2, 5)},
      {"photos/../../x/1.ppm", "x"}};
  for (const char* name : {"p.tar", "p.tar.gz", "p.tgz"}) {
    write_tar(at.path(name), members);
    const DataSplit data = open_split(at.path(name), "all", 0);
    EXPECT_THAT(data.dataset->class_names(), ElementsAre("a", "b"));
    ASSERT_EQ(data.dataset->size(), 4);
    EXPECT_EQ(data.dataset->read(0).pixels[0], 5) << "the later member of a name counts";
    EXPECT_EQ(data.dataset->read(3).pixels[0], 10);
    EXPECT_EQ(data.dataset->name(3), at.path(name) + "/train/b/2.ppm");
    EXPECT_THAT(data.notes, Contains(HasSubstr("3 members of")));
  }
  const auto [images, labels] = idx_pair(20, 10);
  write_tar(at.path("idx.tar.gz"), {{"m/train-images-idx3-ubyte", images}, {"m/train-labels-idx1-ubyte.gz", gzip(labels)}});
  EXPECT_EQ(open_split(at.path("idx.tar.gz"), "all", 0).dataset->size(), 20);
  std::filesystem::create_directory(at.path("only"));
  std::filesystem::copy(at.path("p.tgz"), at.path("only/p.tgz"));
  EXPECT_EQ(open_split(at.path("only"), "all", 0).dataset->size(), 4);
}

TEST(Dataset, BrokenArchivesGiveOneError) {
  const TemporaryFolder at;
  std::string noise;
  for (uint32_t i = 0, v = 1; i < 30000; ++i) noise += static_cast<char>((v = v * 1664525 + 1013904223) >> 24);
  write_tar(at.path("p.tar.gz"), {{"a/1.ppm", noise}, {"a/2.ppm", noise}, {"b/1.ppm", noise}, {"b/2.ppm", noise}});
  std::ifstream in(at.path("p.tar.gz"), std::ios::binary);
  const std::string good{std::istreambuf_iterator<char>(in), {}};
  for (const size_t size : {size_t{0}, size_t{1}, size_t{20}, good.size() / 2, good.size() * 3 / 4}) {
    at.write("cut.tar.gz", good.substr(0, size));
    EXPECT_THAT(open_error(at.path("cut.tar.gz")), AllOf(HasSubstr(at.path("cut.tar.gz")), Not(HasSubstr("(no error)")))) << size;
  }
  at.write("text.tar", "this is no archive");
  EXPECT_THAT(open_error(at.path("text.tar")), HasSubstr("the archive is corrupt or cut off"));
}

TEST(Idx, ReadsPlainAndPackedFiles) {
  const std::string file = idx({2, 3}, "abcdef");
  for (const std::string& f : {file, gzip(file)}) {
    const IdxArray array = parse_idx(bytes_of(f), "F");
    EXPECT_THAT(array.dims, ElementsAre(2, 3));
    EXPECT_EQ(std::string(array.values.begin(), array.values.end()), "abcdef");
  }
}

TEST(Idx, SaysWhatIsWrongWithAFile) {
  EXPECT_THAT(idx_error(""), HasSubstr("shorter than an IDX header"));
  EXPECT_THAT(idx_error("hello world"), HasSubstr("does not start as an IDX file does"));
  EXPECT_THAT(idx_error("\x1f no gzip"), HasSubstr("does not start as an IDX file does"));
  EXPECT_THAT(idx_error(std::string("\0\0\x0d\1\0\0\0\1", 8) + "abcd"), HasSubstr("its IDX type is 0x0d"));
  EXPECT_THAT(idx_error(std::string("\0\0\x08\x09", 4)), HasSubstr("of 9 dimensions"));
  EXPECT_THAT(idx_error(std::string("\0\0\x08\x02\0\0\0\1\0", 9)), HasSubstr("header is cut off"));
  EXPECT_THAT(idx_error(idx({2, 3}, "abcde")), HasSubstr("promises 6 values"));
  EXPECT_THAT(idx_error(idx({2, 3}, "abcdefg")), HasSubstr("bytes follow the 6 values"));
  EXPECT_THAT(idx_error(idx({0xffffffff, 0xffffffff, 0xffffffff}, "abc")), HasSubstr("too large"));
  EXPECT_THAT(idx_error(idx({60000, 28, 28}, "abc")), HasSubstr("more than the file holds"));
  EXPECT_THAT(idx_error(gzip(idx({60000, 28, 28}, "abc"))), HasSubstr("more than the file holds"));
  EXPECT_THAT(idx_error(gzip(idx({1000}, "abc"))), HasSubstr("there are 3"));
}

TEST(Idx, EveryCutOrChangedGzipIsAnError) {
  std::string values;
  for (uint32_t i = 0, v = 1; i < 200; ++i) values += static_cast<char>((v = v * 1664525 + 1013904223) >> 24);
  const std::string good = gzip(idx({200}, values));
  for (size_t n = 0; n < good.size(); ++n) EXPECT_NE(idx_error(good.substr(0, n)), "(no error)") << n;
  for (size_t n = 11; n < good.size(); ++n) {  // the byte before has bits that mean nothing in a stored block
    std::string bad = good;
    bad[n] = static_cast<char>(bad[n] ^ 0x10);
    EXPECT_NE(idx_error(bad), "(no error)") << n;
  }
  EXPECT_THAT(idx_error(good.substr(0, good.size() - 4)), HasSubstr("cut off"));
  std::string changed = good;
  changed[good.size() - 8] = static_cast<char>(changed[good.size() - 8] ^ 1);
  EXPECT_THAT(idx_error(changed), HasSubstr("the gzip file is corrupt (data error)")) << "of another checksum";
}

TEST(Idx, PicturesHaveSidesThatPicturesCanHave) {
  const auto error = [](std::vector<int64_t> dims) { return error_of([&] { check_idx_part({"images", "labels", {std::move(dims), {7}}, {{1}, {0}}}); }); };
  EXPECT_EQ(error({1, 1, 1}), "(no error)");
  EXPECT_EQ(error({1, 2147483647, 1}), "(no error)");
  for (const auto& dims : {std::vector<int64_t>{1, 2147483648, 1}, {1, 1, 2147483648}}) EXPECT_THAT(error(dims), HasSubstr("images has no images (1 of"));
}

TEST(Idx, ReadsAFolder) {
  const TemporaryFolder at;
  const auto [images, labels] = idx_pair(40, 4);
  at.write("m/train-images-idx3-ubyte.gz", gzip(images));
  at.write("m/train-labels.idx1-ubyte", labels);
  const DataSplits data = open_data(at.path("m"), 1);
  EXPECT_EQ(data.train->size(), 36);
  EXPECT_THAT(class_counts(*data.val), ElementsAre(1, 1, 1, 1, 0, 0, 0, 0, 0, 0));
  EXPECT_EQ(data.train->class_names()[3], "3");
  const DatasetPtr all = open_split(at.path("m"), "all", 0).dataset;
  EXPECT_EQ(all->read(7), Image(2, 2, 1, 7));
  EXPECT_EQ(all->label(7), 3);
  for (const int64_t i : {int64_t{-1}, int64_t{40}}) EXPECT_THROW(all->read(i), InternalError) << i;
  EXPECT_EQ(all->name(7), at.path("m/train-images-idx3-ubyte.gz") + ", image 7");
  at.write("m/t10k-labels-idx1-ubyte", labels);
  EXPECT_THAT(open_error(at.path("m")), HasSubstr("t10k-labels-idx1-ubyte has no images beside it"));
  std::filesystem::remove(at.path("m/train-labels.idx1-ubyte"));
  EXPECT_THAT(open_error(at.path("m")), HasSubstr("train-images-idx3-ubyte.gz has no labels beside it"));
  at.write("m/train-labels-idx1-ubyte", idx({39}, std::string(39, 1)));
  EXPECT_THAT(open_error(at.path("m")), HasSubstr("has 40 images and"));
  at.write("m/train-labels-idx1-ubyte", idx({40}, std::string(40, 1)));
  EXPECT_THAT(open_error(at.path("m")), HasSubstr("has no images beside it"));
  std::filesystem::remove(at.path("m/t10k-labels-idx1-ubyte"));
  EXPECT_THAT(open_error(at.path("m")), HasSubstr("has one class only (1)"));
  at.write("m/train-labels-idx1-ubyte", images);
  EXPECT_THAT(open_error(at.path("m")), HasSubstr("are images and labels exchanged?"));
}

TEST(Installed, NamesThePackage) {
  EXPECT_THAT(error_of([] { installed_dataset_path("fashion-mnist", "/nowhere"); }), HasSubstr("install the package dataset-fashion-mnist"));
  EXPECT_THAT(error_of([] { installed_dataset_path("fashionmnist", "/nowhere"); }), HasSubstr("did you mean 'fashion-mnist'?"));
}

TEST(Installed, FashionMnistHoldsFiveThousandOut) {
  if (!installed_datasets()[0].installed) GTEST_SKIP() << "the package dataset-fashion-mnist is not installed";
  const DataSplits data = open_data("fashion-mnist", 0);
  EXPECT_EQ(data.train->size(), 55000);
  EXPECT_EQ(data.test->size(), 10000);
  EXPECT_THAT(class_counts(*data.val), ElementsAre(500, 500, 500, 500, 500, 500, 500, 500, 500, 500));
  EXPECT_EQ(data.train->class_names()[9], "Ankle boot");
  EXPECT_EQ(data.test->label(0), 9);
  EXPECT_THAT(data.notes, ElementsAre(HasSubstr("5,000 of the 60,000 training images are held out")));
  EXPECT_EQ(data.train->read(0).channels, 1);
}

TEST(SharedData, Cifar10IsReadFromItsArchive) {
  const std::string folder = FOVEA_SHARED "/data/cifar10";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << folder << " is not there";
  const DataSplits data = open_data(folder, 0);
  EXPECT_EQ(data.train->size() + data.val->size(), 50000);
  EXPECT_EQ(data.test->size(), 10000);
  EXPECT_EQ(data.train->class_names().size(), 10u);
  EXPECT_EQ(data.train->read(12345).width, 32);
}

}  // namespace
}  // namespace fovea
