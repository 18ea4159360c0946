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
  const auto tree = open_folder_tree(at.path("top") + "//");
  EXPECT_THAT(tree->files(), ElementsAre("near.png"));
  EXPECT_EQ(tree->shown(tree->files()[0]), at.path("top/near.png"));
  EXPECT_THROW(open_folder_tree(at.path("elsewhere")), Error);
}

// A header of 512 bytes and the content, filled up to blocks.
std::string tar_member(char type, const std::string& name, const std::string& content) {
  std::string block(512, '\0');
  block.replace(0, name.size(), name).replace(100, 7, "0000644").replace(124, 11, fmt::format("{:011o}", content.size())).replace(148, 8, "        ");
  block.replace(156, 1, 1, type).replace(257, 8, "ustar\00000", 8);
  int sum = 0;
  for (const char c : block) sum += static_cast<unsigned char>(c);
  block.replace(148, 7, fmt::format("{:06o}", sum) + '\0');
  return block + content + std::string((512 - content.size() % 512) % 512, '\0');
}

TEST(FileTree, NamesInOtherLettersAreTakenAsTheyAre) {
  const TemporaryFolder at;
  const std::string name = "h\xc3\xbcnde/1.png", record = "path=" + name + "\n";
  const std::string pax = tar_member('x', "x", fmt::format("{} {}", record.size() + 3, record)), end(1024, '\0');
  at.write("pax.tar", pax + tar_member('0', "other", "x") + end);  // in UTF-8, whatever the locale has
  at.write("plain.tar", tar_member('0', name, "x") + end);
  for (const char* archive : {"pax.tar", "plain.tar"}) EXPECT_THAT(open_archive_tree(at.path(archive))->files(), ElementsAre(name)) << archive;
}

TEST(FileTree, AnArchiveThatEndsForNoStatedReasonIsRefusedToo) {
  const TemporaryFolder at;
  const std::string packed = testing::gzip(tar_member('0', "cats/1.png", "x"));
  at.write("cut.tar.gz", packed.substr(0, packed.size() - 8));  // without its checksum, of which libarchive says nothing
  try {
    open_archive_tree(at.path("cut.tar.gz"));
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("corrupt or cut off (unknown)"));
  }
}

}  // namespace
}  // namespace fovea
