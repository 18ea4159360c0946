#include "image/imagenet_classes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace fovea {
namespace {

// First and last entries of the lists in the timm package.
TEST(ImageNetClasses, ListsAreTimms) {
  struct Row {
    int64_t classes;
    const char *first, *last, *title;
  };
  for (const Row& row : {Row{1000, "n01440764", "n15075141", "ImageNet-1k"}, {10450, "n00005787", "n15102894", "ImageNet-21k-P of winter 2021"},
                         {11221, "n00005787", "n15102894", "ImageNet-21k-P of fall 2011"}, {11821, "n00005787", "n15102894", "ImageNet-12k"},
                         {21841, "n00004475", "n15102894", "ImageNet-22k"}, {21842, "n01440764", "n15102894", "ImageNet-22k as Microsoft has it"},
                         {21843, "n00004475", "n15102894", "ImageNet-21k as Google has it"}}) {
    SCOPED_TRACE(row.classes);
    const ImageNetClasses* list = imagenet_classes(row.classes);
    ASSERT_NE(list, nullptr);
    EXPECT_EQ(list->title, row.title);
    ASSERT_EQ(std::ssize(list->synsets), row.classes);
    ASSERT_EQ(std::ssize(list->names), row.classes);
    EXPECT_EQ(list->synsets.front(), row.first);
    EXPECT_EQ(list->synsets.back(), row.last);
    EXPECT_EQ(std::set<std::string>(list->synsets.begin(), list->synsets.end()).size(), list->synsets.size());
    EXPECT_EQ(std::count(list->names.begin(), list->names.end(), ""), 0);
    EXPECT_EQ(imagenet_classes(row.classes), list);
  }
}

TEST(ImageNetClasses, NamesBelongToTheirNumbers) {
  const ImageNetClasses& k = *imagenet_classes(1000);
  EXPECT_EQ(k.names[0], "tench, Tinca tinca");
  EXPECT_EQ(k.names[281], "tabby, tabby cat");
  EXPECT_EQ(k.synsets[281], "n02123045");
  EXPECT_EQ(k.names[999], "toilet tissue, toilet paper, bathroom tissue");
  for (const int64_t classes : {21841, 21842, 21843, 11821}) {
    const ImageNetClasses& other = *imagenet_classes(classes);
    const auto at = std::find(other.synsets.begin(), other.synsets.end(), "n02123045");
    ASSERT_NE(at, other.synsets.end());
    EXPECT_EQ(other.names[static_cast<size_t>(at - other.synsets.begin())], "tabby, tabby cat");
  }
  const ImageNetClasses& microsoft = *imagenet_classes(21842);
  EXPECT_TRUE(std::equal(k.synsets.begin(), k.synsets.end(), microsoft.synsets.begin()));
}

TEST(ImageNetClasses, OtherNumbersHaveNone) {
  for (const int64_t classes : {0, 10, 999, 1001, 10000, 21840, 21844, 22000, 100000}) EXPECT_EQ(imagenet_classes(classes), nullptr) << classes;
}

}  // namespace
}  // namespace fovea
