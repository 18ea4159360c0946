#include "image/dataset_tree.h"

#include <archive.h>
#include <archive_entry.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <fstream>
#include <map>
#include <set>

#include "core/check.h"
#include "core/text.h"
#include "image/dataset_idx.h"
#include "image/decode.h"

namespace fovea {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxDepth = 32;
constexpr int64_t kMaxArchiveBytes = int64_t{16} << 30;

bool wanted(const std::string& name) {
  return has_image_extension(name) || name.find("idx") != std::string::npos;
}

class FolderTree : public FileTree {
 public:
  explicit FolderTree(const fs::path& root) {
    root_ = (root / "").parent_path().string();  // without slashes behind it
    std::set<std::string> visited;
    walk(root, "", 0, visited);
    std::sort(files_.begin(), files_.end());
    std::sort(folders_.begin(), folders_.end());
  }

  Image read(size_t file) const override { return read_image(shown(files_.at(file))); }

  std::vector<uint8_t> bytes(size_t file) const override {
    const std::string path = shown(files_.at(file));
    std::ifstream in(path, std::ios::binary | std::ios::ate);
    require(in.is_open(), "cannot read {}: {}", path, std::strerror(errno));
    const std::streamoff size = in.tellg();
    require(size >= 0, "cannot read {}: its size is unknown", path);
    std::vector<uint8_t> content(static_cast<size_t>(size));
    in.seekg(0);
    in.read(reinterpret_cast<char*>(content.data()), size);
    require(in.gcount() == size, "cannot read {}: got {} of {} bytes", path, in.gcount(), size);
    return content;
  }

 private:
  // `visited`: real names of the folders above; below a class, of all folders of that class.
  void walk(const fs::path& folder, const std::string& name, int depth, std::set<std::string>& visited) {
    std::error_code error;
    const fs::path real = fs::canonical(folder, error);
    require(!error, "cannot read the folder {}: {}", folder.string(), error.message());
    if (depth > kMaxDepth || !visited.insert(real.string()).second) return;
    if (!name.empty()) folders_.push_back(name);
    fs::directory_iterator it(folder, error);
    require(!error, "cannot read the folder {}: {}", folder.string(), error.message());
    for (; it != fs::directory_iterator(); it.increment(error)) {
      require(!error, "cannot read the folder {}: {}", folder.string(), error.message());
      const std::string leaf = it->path().filename().string();
      if (leaf.starts_with('.')) continue;
      const std::string child = name.empty() ? leaf : name + "/" + leaf;
      std::error_code gone;
      if (it->is_directory(gone)) {
        if (depth >= 2) {
          walk(it->path(), child, depth + 1, visited);
        } else {  // two parts or classes may be links to one folder
          std::set<std::string> above = visited;
          walk(it->path(), child, depth + 1, above);
        }
      } else if (wanted(leaf) && it->is_regular_file(gone)) {
        files_.push_back(child);
      }
    }
  }
};

struct ArchiveCloser {
  void operator()(archive* a) const { archive_read_free(a); }
};

class ArchiveTree : public FileTree {
 public:
  explicit ArchiveTree(const fs::path& path) {
    root_ = path.string();
    const std::unique_ptr<archive, ArchiveCloser> in(archive_read_new());
    check(in != nullptr, "libarchive does not start");
    archive_read_support_filter_gzip(in.get());
    archive_read_support_format_tar(in.get());
    std::error_code error;
    const auto size = static_cast<int64_t>(std::min<uintmax_t>(fs::file_size(path, error), kMaxArchiveBytes));
    require(!error, "cannot read {}: {}", root_, error.message());
    most_ = std::min(kMaxArchiveBytes, size * kMaxDeflateRatio);
    if (archive_read_open_filename(in.get(), root_.c_str(), 1 << 18) != ARCHIVE_OK) broken(in.get());
    std::map<std::string, Member> members;
    std::set<std::string> folders;
    int64_t unsafe = 0;
    for (;;) {
      archive_entry* entry = nullptr;
      const int status = archive_read_next_header(in.get(), &entry);
      if (status == ARCHIVE_EOF) break;
      if (status != ARCHIVE_OK && status != ARCHIVE_WARN) broken(in.get());
      const char* raw = archive_entry_pathname(entry);
      require(raw != nullptr, "cannot read {}: one of its members has no name", root_);
      std::string name;
      const Name kind = clean(raw, name);
      unsafe += kind == Name::kUnsafe;
      if (kind != Name::kGood || name.empty()) continue;
      const auto type = archive_entry_filetype(entry);
      if (type == AE_IFDIR) folders.insert(name);
      for (size_t slash = name.rfind('/'); slash != std::string::npos; slash = name.rfind('/', slash - 1))
        if (!folders.insert(name.substr(0, slash)).second) break;
      if (type == AE_IFREG && wanted(name)) members[name] = read_member(in.get(), entry);
    }
    if (unsafe > 0)
      notes_.push_back(fmt::format("{} members of {} have names that leave the archive and were left aside", unsafe, root_));
    folders_.assign(folders.begin(), folders.end());
    strip_common_folder(members);
    for (auto& [name, member] : members) {
      files_.push_back(name);
      members_.push_back(member);
    }
  }

  Image read(size_t file) const override {
    const Member& m = members_.at(file);
    return decode_image({block_.data() + m.offset, m.size}, shown(files_[file]));
  }

  std::vector<uint8_t> bytes(size_t file) const override {
    const Member& m = members_.at(file);
    return {block_.begin() + static_cast<std::ptrdiff_t>(m.offset),
            block_.begin() + static_cast<std::ptrdiff_t>(m.offset + m.size)};
  }

 private:
  struct Member {
    size_t offset = 0, size = 0;
  };
  enum class Name : uint8_t { kGood, kHidden, kUnsafe };

  [[noreturn]] void broken(archive* in) const {
    const char* why = archive_error_string(in);
    fail("cannot read {}: the archive is corrupt or cut off ({}); fetch it again", root_, why ? why : "unknown");
  }

  static Name clean(const std::string& raw, std::string& name) {
    if (raw[0] == '/') return Name::kUnsafe;
    for (const std::string& part : split(raw, '/')) {
      if (part.empty() || part == ".") continue;
      if (part == "..") return Name::kUnsafe;
      if (part[0] == '.') return Name::kHidden;
      name += (name.empty() ? "" : "/") + part;
    }
    return Name::kGood;
  }

  Member read_member(archive* in, archive_entry*) {
    Member member{block_.size(), 0};
    std::array<uint8_t, 1 << 16> chunk;
    for (;;) {
      const la_ssize_t n = archive_read_data(in, chunk.data(), chunk.size());
      if (n < 0) broken(in);
      if (n == 0) break;
      require(static_cast<int64_t>(block_.size()) + n <= most_,
              "cannot read {}: it unpacks to more than {} MiB; unpack it into a folder first", root_, most_ >> 20);
      block_.insert(block_.end(), chunk.begin(), chunk.begin() + n);
    }
    member.size = block_.size() - member.offset;
    return member;
  }

  // Archives often hold one folder that holds the rest. A folder with pictures directly in it is a class, not a wrapping.
  void strip_common_folder(std::map<std::string, Member>& members) {
    for (;;) {
      const std::vector<std::string> top = folders_in("");
      if (top.size() != 1) return;
      const std::string prefix = top[0] + "/";
      if (prefix == "train/" || prefix == "val/" || prefix == "validation/" || prefix == "valid/" || prefix == "test/")
        return;
      for (const auto& [name, member] : members) {
        if (name.compare(0, prefix.size(), prefix) != 0) return;
        if (name.find('/', prefix.size()) == std::string::npos && has_image_extension(name)) return;
      }
      std::map<std::string, Member> inner;
      for (const auto& [name, member] : members) inner.emplace(name.substr(prefix.size()), member);
      members = std::move(inner);
      std::vector<std::string> folders;
      for (const std::string& name : folders_)
        if (name.size() > prefix.size()) folders.push_back(name.substr(prefix.size()));
      folders_ = std::move(folders);
    }
  }

  int64_t most_ = 0;
  std::vector<uint8_t> block_;
  std::vector<Member> members_;
};

}  // namespace

bool has_image_extension(std::string_view name) {
  const size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return false;
  std::string extension(name.substr(dot + 1));
  for (char& c : extension) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  static constexpr std::array<std::string_view, 14> kKnown{"bmp",  "gif", "jfif", "jpe", "jpeg", "jpg",  "pbm",
                                                           "pgm",  "png", "pnm",  "ppm", "tif",  "tiff", "webp"};
  return std::find(kKnown.begin(), kKnown.end(), extension) != kKnown.end();
}

std::pair<size_t, size_t> FileTree::files_below(const std::string& folder) const {
  if (folder.empty()) return {0, files_.size()};
  const auto begin = std::lower_bound(files_.begin(), files_.end(), folder + "/");
  const auto end = std::lower_bound(begin, files_.end(), folder + "0");  // '0' follows '/'
  return {static_cast<size_t>(begin - files_.begin()), static_cast<size_t>(end - files_.begin())};
}

std::vector<std::string> FileTree::folders_in(const std::string& folder) const {
  const std::string prefix = folder.empty() ? "" : folder + "/";
  std::vector<std::string> names;
  for (auto it = std::lower_bound(folders_.begin(), folders_.end(), prefix);
       it != folders_.end() && it->compare(0, prefix.size(), prefix) == 0; ++it)
    if (it->find('/', prefix.size()) == std::string::npos) names.push_back(it->substr(prefix.size()));
  std::sort(names.begin(), names.end());
  return names;
}

std::shared_ptr<const FileTree> open_folder_tree(const fs::path& root) { return std::make_shared<FolderTree>(root); }

std::shared_ptr<const FileTree> open_archive_tree(const fs::path& path) { return std::make_shared<ArchiveTree>(path); }

}  // namespace fovea
