#include "weights/zip_archive.h"

#include <zip.h>

#include <algorithm>
#include <cstring>
#include <unordered_set>
#include <utility>

#include "core/check.h"
#include "weights/weight_file.h"
#include "weights/zip_directory.h"

namespace fovea {

namespace {

constexpr uint64_t kSmallEntry = 4096, kPiece = uint64_t{1} << 20;
constexpr uint64_t kSmallFile = uint64_t{1} << 16;  // so that small, well compressed files pass too

struct CloseEntry {
  void operator()(zip_file_t* f) const { zip_fclose(f); }
};

}  // namespace

struct ZipArchive::Handle {
  zip_t* zip = nullptr;
  ~Handle() {
    if (zip != nullptr) zip_discard(zip);
  }
};

ZipArchive::ZipArchive(FileBytes file)
    : file_(std::move(file)), handle_(std::make_unique<Handle>()), budget_(2 * file_.bytes.size() + kSmallFile) {
  require(zip_counts_fit(file_.bytes), "'{}' is a broken zip archive: it claims more entries than it has room for", file_.path);
  zip_error_t error;
  zip_error_init(&error);
  zip_source_t* source = zip_source_buffer_create(file_.bytes.data(), file_.bytes.size(), 0, &error);
  if (source != nullptr) {
    handle_->zip = zip_open_from_source(source, ZIP_RDONLY, &error);
    if (handle_->zip == nullptr) zip_source_free(source);
  }
  const std::string reason = handle_->zip == nullptr ? zip_error_strerror(&error) : "";
  zip_error_fini(&error);
  require(handle_->zip != nullptr, "'{}' begins as a zip archive but cannot be read as one ({}); it may be cut short", file_.path,
          reason);
  ZipDirectory directory = read_zip_directory(file_.bytes);
  stored_ = std::move(directory.stored);
  for (size_t i = 1; i < directory.ranges.size(); ++i) {
    const auto& before = directory.ranges[i - 1];
    const auto& entry = directory.ranges[i];
    require(entry.begin >= before.end, "'{}': the entries {} and {} overlap; the archive is broken", file_.path, printable(before.name),
            printable(entry.name));
  }

  const zip_int64_t n = zip_get_num_entries(handle_->zip, 0);
  std::unordered_set<std::string_view> seen;
  names_.reserve(static_cast<size_t>(n));  // `seen` views the names: they must not move
  for (zip_int64_t i = 0; i < n; ++i) {
    const char* name = zip_get_name(handle_->zip, static_cast<zip_uint64_t>(i), ZIP_FL_ENC_RAW);
    require(name != nullptr, "'{}': entry {} of the archive has no name; it is broken", file_.path, i);
    names_.emplace_back(name);
    require(seen.insert(names_.back()).second, "'{}' holds two entries named {}; the archive is broken", file_.path, printable(name));
  }
}

ZipArchive::~ZipArchive() = default;

bool ZipArchive::has(const std::string& name) const { return zip_name_locate(handle_->zip, name.c_str(), ZIP_FL_ENC_RAW) >= 0; }

FilePart ZipArchive::read(const std::string& name) {
  const zip_int64_t index = zip_name_locate(handle_->zip, name.c_str(), ZIP_FL_ENC_RAW);
  require(index >= 0, "'{}' lacks the entry {}; it is not complete", file_.path, printable(name));
  const auto entry = static_cast<zip_uint64_t>(index);
  zip_stat_t info;
  zip_stat_init(&info);
  const bool known = zip_stat_index(handle_->zip, entry, 0, &info) == 0;
  require(known, "'{}': the size of entry {} is unknown; the archive is broken", file_.path, printable(name));
  require((info.valid & ZIP_STAT_ENCRYPTION_METHOD) == 0 || info.encryption_method == ZIP_EM_NONE,
          "'{}': entry {} is encrypted; unpack and save it again without a password", file_.path, printable(name));
  require(info.size <= budget_, "'{}': entry {} claims {} bytes, which is out of proportion to the file's {}; save it without compression",
          file_.path, printable(name), info.size, file_.bytes.size());
  budget_ -= info.size;

  const std::unique_ptr<zip_file_t, CloseEntry> in(zip_fopen_index(handle_->zip, entry, 0));
  require(in != nullptr, "'{}': entry {} cannot be read ({})", file_.path, printable(name), zip_strerror(handle_->zip));
  // Large entries that lie in the file as they are stay there, and are only read through, to verify them.
  const auto stored = stored_.find(name);
  const bool in_place = stored != stored_.end() && stored->second.size() == info.size && info.size >= kSmallEntry;
  const uint64_t buffer_size = in_place ? std::min(kPiece, info.size) : info.size;
  const std::shared_ptr<std::byte[]> buffer(new std::byte[buffer_size]);
  uint64_t done = 0;
  while (true) {
    // The read beyond the end is the one that verifies the checksum.
    std::byte beyond{};
    const bool full = done == info.size;
    std::byte* const to = in_place ? buffer.get() : buffer.get() + done;
    const zip_int64_t n = full ? zip_fread(in.get(), &beyond, 1) : zip_fread(in.get(), to, std::min(buffer_size, info.size - done));
    require(n >= 0, "'{}': entry {} is damaged ({})", file_.path, printable(name), zip_file_strerror(in.get()));
    if (n == 0) break;
    require(!full, "'{}': entry {} unpacks to more than its {} bytes", file_.path, printable(name), info.size);
    require(!in_place || std::memcmp(to, stored->second.data() + done, static_cast<size_t>(n)) == 0,
            "'{}': the directory of the archive contradicts itself about entry {}", file_.path, printable(name));
    if (in_place && file_.mapped) release_pages(stored->second.data() + done, static_cast<size_t>(n));
    done += static_cast<uint64_t>(n);
  }
  require(done == info.size, "'{}': entry {} ends after {} of {} bytes", file_.path, printable(name), done, info.size);
  if (in_place) return {stored->second, file_.owner, file_.mapped};
  return {{buffer.get(), info.size}, buffer, false};
}

}  // namespace fovea
