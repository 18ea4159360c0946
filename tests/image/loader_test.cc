#include "image/loader.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <set>

#include "core/check.h"

namespace fovea {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Pictures of one value, the index; those of `broken` cannot be read.
class Numbered : public Dataset {
 public:
  explicit Numbered(int64_t count, std::set<int64_t> broken = {}) : count_(count), broken_(std::move(broken)) {}
  const std::vector<std::string>& class_names() const override { return classes_; }
  int64_t size() const override { return count_; }
  int32_t label(int64_t i) const override { return static_cast<int32_t>(i % 2); }
  std::string name(int64_t i) const override { return "picture " + std::to_string(i); }
  Image read(int64_t i) const override {
    ++reads;
    if (i == fatal) throw std::bad_alloc();
    if (broken_.count(i) != 0) fail("cannot decode picture {}: torn", i);
    Image image(width, 6, 1);
    for (size_t k = 0; k < image.pixels.size(); ++k) image.pixels[k] = static_cast<uint8_t>(i + 17 * static_cast<int64_t>(k));
    return image;
  }
  std::string describe() const override { return "numbered"; }

  int width = 8;
  int64_t fatal = -1;
  mutable std::atomic<int64_t> reads{0};

 private:
  std::vector<std::string> classes_{"even", "odd"};
  int64_t count_;
  std::set<int64_t> broken_;
};

LoaderOptions training(int threads = 1) {
  LoaderOptions o;
  o.batch = 8;
  o.preprocess.height = 6;
  o.preprocess.width = 8;
  o.preprocess.channels = 1;
  o.preprocess.mode = ResizeMode::kSquash;
  o.preprocess.mean = {0.5f};
  o.preprocess.std = {0.25f};
  o.augment.emplace();
  o.augment->crop = Augment::Crop::kPadded;
  o.augment->padding = 2;
  o.augment->erasing.probability = 0.5;
  o.shuffle = true;
  o.drop_last = true;
  o.seed = 3;
  o.threads = threads;
  o.broken = LoaderOptions::Broken::kReplace;
  return o;
}

LoaderOptions evaluation() {
  LoaderOptions o = training();
  o.augment.reset();
  o.shuffle = o.drop_last = false;
  o.broken = LoaderOptions::Broken::kLeaveOut;
  return o;
}

struct Copy {
  int64_t number;
  std::vector<float> pixels;
  std::vector<int32_t> labels;
  std::vector<int64_t> indices;
  bool operator==(const Copy&) const = default;
};

std::vector<Copy> epoch(const DatasetPtr& data, const LoaderOptions& options) {
  Loader loader(data, options);
  std::vector<Copy> copies;
  while (const Batch* b = loader.next()) {
    const auto n = static_cast<size_t>(b->images.dim(0));
    const float* p = b->images.as<float>();
    copies.push_back({b->number, {p, p + b->images.elements()}, {b->labels, b->labels + n}, {b->indices, b->indices + n}});
  }
  EXPECT_EQ(loader.next(), nullptr);
  return copies;
}

std::vector<int64_t> all_indices(const std::vector<Copy>& batches) {
  std::vector<int64_t> all;
  for (const Copy& b : batches) all.insert(all.end(), b.indices.begin(), b.indices.end());
  return all;
}

TEST(Loader, ThreadsChangeNothing) {
  const auto data = std::make_shared<Numbered>(70);
  const std::vector<Copy> one = epoch(data, training(1));
  ASSERT_EQ(one.size(), 8u);
  for (const int threads : {2, 3, 7})
    for (const int64_t prefetch : {1, 4, 100}) {
      LoaderOptions o = training(threads);
      o.prefetch = prefetch;
      EXPECT_TRUE(epoch(data, o) == one) << threads << " threads, " << prefetch << " batches ahead";
    }
}

TEST(Loader, OrderAndAugmentationDependOnSeedAndEpoch) {
  const auto data = std::make_shared<Numbered>(64);
  const std::vector<Copy> first = epoch(data, training());
  std::vector<int64_t> sorted = all_indices(first);
  EXPECT_FALSE(std::is_sorted(sorted.begin(), sorted.end()));
  std::sort(sorted.begin(), sorted.end());
  for (int64_t i = 0; i < 64; ++i) EXPECT_EQ(sorted[static_cast<size_t>(i)], i);
  LoaderOptions next = training(), other = training(), same_order = training();
  next.epoch = 1;
  other.seed = 4;
  EXPECT_NE(all_indices(epoch(data, next)), all_indices(first));
  EXPECT_NE(all_indices(epoch(data, other)), all_indices(first));
  same_order.shuffle = next.shuffle = false;
  EXPECT_EQ(all_indices(epoch(data, same_order)), all_indices(epoch(data, next)));
  EXPECT_NE(epoch(data, same_order)[0].pixels, epoch(data, next)[0].pixels);
}

TEST(Loader, AnEpochCanStartAtAnyBatch) {
  const auto data = std::make_shared<Numbered>(70, std::set<int64_t>{5, 44});
  LoaderOptions o = training(2);
  o.max_broken = 0.1;
  const std::vector<Copy> whole = epoch(data, o);
  for (int64_t k = 0; k <= 9; ++k) {
    o.first_batch = k;
    const std::vector<Copy> rest = epoch(data, o);
    const auto skipped = std::min<std::ptrdiff_t>(k, 8);
    EXPECT_TRUE(std::equal(rest.begin(), rest.end(), whole.begin() + skipped, whole.end())) << k;
  }
}

TEST(Loader, EvaluationSeesEachPictureOnceInOrder) {
  const auto data = std::make_shared<Numbered>(19);
  const std::vector<Copy> batches = epoch(data, evaluation());
  ASSERT_EQ(batches.size(), 3u);
  EXPECT_EQ(batches[2].indices.size(), 3u);
  const std::vector<int64_t> indices = all_indices(batches);
  for (int64_t i = 0; i < 19; ++i) EXPECT_EQ(indices[static_cast<size_t>(i)], i);
  EXPECT_THAT(batches[2].labels, ElementsAre(0, 1, 0));
  std::vector<float> expected(48);
  preprocess(data->read(17), evaluation().preprocess, expected.data());
  EXPECT_EQ(0, std::memcmp(expected.data(), batches[2].pixels.data() + 48, 48 * sizeof(float)));
}

TEST(Loader, BatchesOfAnEpoch) {
  EXPECT_EQ(batches_per_epoch(70, 8, true), 8);
  EXPECT_EQ(batches_per_epoch(70, 8, false), 9);
  EXPECT_EQ(batches_per_epoch(5, 8, true), 1) << "the only batch is not left out";
  EXPECT_EQ(epoch(std::make_shared<Numbered>(5), training())[0].indices.size(), 5u);
}

TEST(Loader, BrokenPicturesAreReplacedInTraining) {
  const auto data = std::make_shared<Numbered>(64, std::set<int64_t>{7, 9});
  LoaderOptions o = training(3);
  o.max_broken = 0.05;
  Loader loader(data, o);
  int64_t images = 0;
  while (const Batch* b = loader.next()) {
    for (int64_t i = 0; i < b->images.dim(0); ++i) {
      EXPECT_NE(b->indices[i], 7);
      EXPECT_NE(b->indices[i], 9);
    }
    images += b->images.dim(0);
  }
  EXPECT_EQ(images, 64);
  const std::vector<BrokenImage> broken = loader.broken();
  ASSERT_EQ(broken.size(), 2u);
  EXPECT_EQ(broken[0].index, 7);
  EXPECT_EQ(broken[1].name, "picture 9");
  EXPECT_EQ(broken[1].why, "cannot decode picture 9: torn");
}

TEST(Loader, BrokenPicturesAreLeftOutInEvaluation) {
  std::set<int64_t> broken{1, 18};
  for (int64_t i = 8; i < 16; ++i) broken.insert(i);  // the whole second batch
  LoaderOptions o = evaluation();
  o.max_broken = 1;
  const std::vector<Copy> batches = epoch(std::make_shared<Numbered>(20, broken), o);
  ASSERT_EQ(batches.size(), 2u);
  EXPECT_EQ(batches[1].number, 2);
  EXPECT_THAT(all_indices(batches), ElementsAre(0, 2, 3, 4, 5, 6, 7, 16, 17, 19));
}

TEST(Loader, TooManyBrokenPicturesStop) {
  const auto data = std::make_shared<Numbered>(200, std::set<int64_t>{3, 50, 199});
  LoaderOptions o = evaluation();
  try {
    epoch(data, o);
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), AllOf(HasSubstr("more than 1 % of the 200 images are broken"), HasSubstr("picture 3: torn"),
                                HasSubstr("picture 199: torn"), HasSubstr("--max-broken")));
  }
  o.max_broken = 0.015;
  EXPECT_EQ(all_indices(epoch(data, o)).size(), 197u);
}

TEST(Loader, AllBrokenEnds) {
  const auto data = std::make_shared<Numbered>(3, std::set<int64_t>{0, 1, 2});
  LoaderOptions o = training();
  o.max_broken = 1;
  EXPECT_TRUE(epoch(data, o).empty());
}

TEST(Loader, OtherExceptionsOfWorkersSurface) {
  const auto data = std::make_shared<Numbered>(200);
  data->fatal = 20;
  LoaderOptions o = evaluation();
  o.threads = 3;
  Loader loader(data, o);
  EXPECT_NE(loader.next(), nullptr);
  EXPECT_NE(loader.next(), nullptr);
  EXPECT_THROW(loader.next(), std::bad_alloc);
  EXPECT_EQ(loader.next(), nullptr);
}

TEST(Loader, MayBeDestroyedAtAnyTime) {
  const auto data = std::make_shared<Numbered>(5000);
  for (int taken = 0; taken < 6; ++taken) {
    Loader loader(data, training(4));
    for (int i = 0; i < taken; ++i) loader.next();
  }
  EXPECT_LT(data->reads, 6 * 8 * (4 + 5 + 6)) << "workers run further ahead than they should";
}

TEST(Loader, TheCacheSavesReadingAndChangesNothing) {
  const auto data = std::make_shared<Numbered>(64);
  const std::vector<Copy> plain = epoch(data, training());
  for (const bool resized : {false, true}) {
    LoaderOptions o = training(2);
    if (resized) o.augment->crop = Augment::Crop::kResized;
    const std::vector<Copy> expected = resized ? epoch(data, o) : plain;
    o.cache = std::make_shared<ImageCache>(64);
    data->reads = 0;
    EXPECT_TRUE(epoch(data, o) == expected);
    EXPECT_TRUE(epoch(data, o) == expected);
    EXPECT_EQ(data->reads, 64);
    EXPECT_EQ(o.cache->bytes(), 64u * 48);
    o.cache = std::make_shared<ImageCache>(64, 1000);  // room for 20
    EXPECT_TRUE(epoch(data, o) == expected);
    EXPECT_EQ(o.cache->bytes(), 960u);
  }
}

TEST(Loader, OnlyThePartOfAStripThatIsSeenIsResized) {
  const auto data = std::make_shared<Numbered>(4);
  data->width = 1000000;
  LoaderOptions o = evaluation();
  o.preprocess.mode = ResizeMode::kShortSide;
  o.preprocess.height = o.preprocess.width = 224;
  EXPECT_EQ(epoch(data, o).size(), 1u);
  o.preprocess.height = o.preprocess.width = 16384;
  try {
    epoch(data, o);
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("too elongated"));
  }
}

TEST(Loader, RefusesNonsense) {
  const auto data = std::make_shared<Numbered>(4);
  LoaderOptions o = evaluation();
  o.batch = 0;
  EXPECT_THROW(Loader(data, o), Error);
  o = evaluation();
  o.preprocess.mean = {0.1f, 0.2f};
  EXPECT_THROW(Loader(data, o), Error);
  EXPECT_THROW(Loader(std::make_shared<Numbered>(0), evaluation()), Error);
}

}  // namespace
}  // namespace fovea
