#include "weights/atomic_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "core/check.h"

namespace fovea {

namespace fs = std::filesystem;

namespace {

std::string reason(int error) { return std::generic_category().message(error); }

// ".model.safetensors.tmp-": hidden, and told apart from the temporaries of other files in the folder.
std::string temporary_prefix(const fs::path& target) { return fmt::format(".{}.tmp-", target.filename().string()); }

// Some file systems know no fsync for this kind of file; that is not an error of the write.
bool flush(int fd) { return ::fsync(fd) == 0 || errno == EINVAL || errno == ENOTSUP; }

}  // namespace

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  std::error_code ec;
  fs::path target = path_;
  if (fs::is_symlink(target, ec)) {
    const fs::path followed = fs::weakly_canonical(target, ec);
    if (!ec) target = followed;
  }
  const fs::file_status status = fs::status(target, ec);
  require(!fs::exists(status) || fs::is_regular_file(status), "cannot write '{}': it exists and is not a regular file", path_);
  require(!target.filename().empty(), "cannot write '{}': the name ends in a folder", path_);
  target_ = target.string();
  folder_ = target.has_parent_path() ? target.parent_path().string() : ".";
  remove_abandoned();

  static std::atomic<unsigned> counter{0};
  const fs::path folder = folder_;
  for (int attempt = 0; attempt < 1000 && fd_ < 0; ++attempt) {
    temporary_ = (folder / fmt::format("{}{}-{}", temporary_prefix(target), ::getpid(), counter++)).string();
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ < 0 && errno != EEXIST) break;
    if (fd_ < 0) continue;
    // The lock says "in use" to remove_abandoned() of other processes; one of them may have come in between.
    struct stat info {};
    if (::flock(fd_, LOCK_EX | LOCK_NB) == 0 && ::fstat(fd_, &info) == 0 && info.st_nlink == 0) {
      ::close(fd_);
      fd_ = -1;
    }
  }
  if (fd_ < 0) {
    temporary_.clear();
    fail("cannot write '{}': {}", path_, reason(errno));
  }
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::remove_abandoned() const {
  const std::string prefix = temporary_prefix(target_);
  std::error_code ec;
  for (fs::directory_iterator it(folder_, ec), end; !ec && it != end; it.increment(ec)) {
    if (!it->path().filename().string().starts_with(prefix)) continue;
    const int fd = ::open(it->path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) continue;
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0) ::unlink(it->path().c_str());
    ::close(fd);
  }
}

void AtomicFile::fail_write(int error) {
  fail("cannot write '{}': {}; what was there before is untouched", path_, reason(error));
}

void AtomicFile::write(const void* data, size_t bytes) {
  constexpr size_t kMost = size_t{1} << 30;  // the kernel takes at most 2 GiB a call
  const char* p = static_cast<const char*>(data);
  while (bytes != 0) {
    const ssize_t n = ::write(fd_, p, std::min(bytes, kMost));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail_write(n < 0 ? errno : EIO);
    p += n;
    bytes -= static_cast<size_t>(n);
  }
}

void AtomicFile::commit() {
  if (!flush(fd_)) fail_write(errno);
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) fail_write(errno);
  temporary_.clear();
  const int closed = ::close(std::exchange(fd_, -1));
  require(closed == 0, "writing '{}' failed: {}", path_, reason(errno));
  // The rename itself is on the disk only when the folder is.
  const int folder = ::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;
  flush(folder);
  ::close(folder);
}

}  // namespace fovea
