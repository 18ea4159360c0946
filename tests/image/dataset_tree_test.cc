// Trees of files whose shape is unusual: archives and folders alike.
#include "image/dataset_tree.h"

#include <gmock/gmock.h>

#include "core/check.h"
#include "dataset_files.h"

namespace fovea {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TemporaryFolder;
using testing::write_tar;

// The files of an archive with these members.
std::vector<std::string> archived(const std::vector<std::string>& names) {
  const TemporaryFolder at;
  std::vector<std::pair<std::string, std::string>> members;
  for (const std::string& name : names) members.emplace_back(name, name.ends_with('/') ? "" : "x");
  write_tar(at.path("a.tar"), members);
  return open_archive_tree(at.path("a.tar"))->files();
}

TEST(FileTree, OnlyAFolderThatWrapsTheRestIsTakenOff) {
  EXPECT_THAT(archived({"./", "set/cats/1.png", "set/dogs/1.png"}), ElementsAre("cats/1.png", "dogs/1.png"));
  for (const std::string part : {"train", "val", "validation", "valid", "test"})
    EXPECT_THAT(archived({part + "/cats/1.png"}), ElementsAre(part + "/cats/1.png")) << "the name of a part says something";
  EXPECT_THAT(archived({"cats/1.png"}), ElementsAre("cats/1.png")) << "a folder with pictures is a class";
  EXPECT_THAT(archived({"set/cats/1.png", "a.png"}), ElementsAre("a.png", "set/cats/1.png")) << "not all is in it";
  EXPECT_THAT(archived({"set/train-images-idx3-ubyte"}), ElementsAre("train-images-idx3-ubyte"));
}

TEST(FileTree, AnArchiveThatEndsOrChangesInsideIsRefused) {
  const TemporaryFolder at;
  write_tar(at.path("a.tar"), {{"cats/1.png", std::string(2000, 'x')}, {"cats/2.png", "y"}});
  std::ifstream in(at.path("a.tar"), std::ios::binary);
  const std::string whole{std::istreambuf_iterator<char>(in), {}};
  const auto error = [&](const std::string& bytes) -> std::string {
    at.write("bad.tar", bytes);
    try {
      open_archive_tree(at.path("bad.tar"));
    } catch (const Error& e) {
      return e.what();
    }
    return "(no error)";
  };
  EXPECT_EQ(error(whole), "(no error)");
  EXPECT_THAT(error(whole.substr(0, 1000)), HasSubstr("corrupt or cut off")) << "inside a member";
  const size_t second = whole.find("cats/2.png");
  ASSERT_NE(second, std::string::npos);
  std::string changed = whole;
  changed[second + 3] = '#';
  EXPECT_THAT(error(changed), HasSubstr("corrupt or cut off")) << "a header whose checksum is wrong";
}

TEST(FileTree, FoldersAreFollowedToALimit) {
  const TemporaryFolder at;
  std::string deep = "top";
  for (int i = 0; i < 40; ++i) deep += "/d";
  at.write(deep + "/deep.png", "x");
  at.write("top/near.png", "x");
  EXPECT_THAT(open_folder_tree(at.path("top") + "//")->files(), ElementsAre("near.png"));
}

}  // namespace
}  // namespace fovea
