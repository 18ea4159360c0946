#include "image/dataset_idx.h"

#include <zlib.h>

#include <algorithm>
#include <limits>

#include "core/check.h"

namespace fovea {
namespace {

constexpr size_t kMaxRank = 4;
constexpr int64_t kMaxValues = int64_t{1} << 40;

// Bytes of a file, unpacked on the way when it is gzip.
class Reader {
 public:
  Reader(std::span<const uint8_t> bytes, std::string_view name) : bytes_(bytes), name_(name) {
    gzip_ = bytes.size() >= 2 && bytes[0] == 0x1f && bytes[1] == 0x8b;
    if (!gzip_) return;
    check(inflateInit2(&stream_, 15 + 16) == Z_OK, "zlib does not start");
  }
  ~Reader() {
    if (gzip_) inflateEnd(&stream_);
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  // The most bytes that the file can still give.
  int64_t limit() const {
    const auto left = static_cast<int64_t>(bytes_.size() - used_);
    return gzip_ ? left * kMaxDeflateRatio : left;
  }

  // Fills `out`; returns the number of bytes there were.
  size_t read(std::span<uint8_t> out) {
    if (!gzip_) {
      const size_t n = std::min(out.size(), bytes_.size() - used_);
      std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(used_), n, out.begin());
      used_ += n;
      return n;
    }
    size_t done = 0;
    while (done < out.size() && !ended_) {
      constexpr size_t kChunk = size_t{1} << 30;  // zlib counts in 32 bits
      const size_t in = std::min(kChunk, bytes_.size() - used_), room = std::min(kChunk, out.size() - done);
      stream_.next_in = const_cast<Bytef*>(bytes_.data() + used_);
      stream_.avail_in = static_cast<uInt>(in);
      stream_.next_out = out.data() + done;
      stream_.avail_out = static_cast<uInt>(room);
      const int status = inflate(&stream_, Z_NO_FLUSH);
      used_ += in - stream_.avail_in;
      done += room - stream_.avail_out;
      if (status == Z_STREAM_END)
        ended_ = true;
      else if (status == Z_BUF_ERROR || (status == Z_OK && used_ == bytes_.size() && stream_.avail_out > 0))
        fail("cannot read {}: the gzip file is cut off; fetch it again", name_);
      else if (status != Z_OK)
        fail("cannot read {}: the gzip file is corrupt ({}); fetch it again", name_, zError(status));
    }
    return done;
  }

  // Whether nothing is left; also has zlib compare the checksum.
  bool at_end() {
    uint8_t more;
    return read({&more, 1}) == 0;
  }

 private:
  std::span<const uint8_t> bytes_;
  std::string_view name_;
  size_t used_ = 0;
  bool gzip_ = false, ended_ = false;
  z_stream stream_{};
};

class IdxDataset : public Dataset {
 public:
  IdxDataset(IdxPart part, std::vector<std::string> class_names, std::string source)
      : part_(std::move(part)), class_names_(std::move(class_names)), source_(std::move(source)) {}

  const std::vector<std::string>& class_names() const override { return class_names_; }
  int64_t size() const override { return part_.images.dims[0]; }
  int32_t label(int64_t i) const override { return part_.labels.values[static_cast<size_t>(i)]; }
  std::string name(int64_t i) const override { return fmt::format("{}, image {}", part_.images_name, i); }
  Image read(int64_t i) const override {
    check(i >= 0 && i < size(), "image {} of {}", i, size());
    Image image(static_cast<int>(part_.images.dims[2]), static_cast<int>(part_.images.dims[1]), 1);
    const auto bytes = static_cast<std::ptrdiff_t>(image.pixels.size());
    std::copy_n(part_.images.values.begin() + i * bytes, bytes, image.pixels.begin());
    return image;
  }
  std::string describe() const override {
    return fmt::format("{} images of {} classes in {}", size(), class_names_.size(), source_);
  }

 private:
  IdxPart part_;
  std::vector<std::string> class_names_;
  std::string source_;
};

}  // namespace

IdxArray parse_idx(std::span<const uint8_t> bytes, std::string_view name) {
  Reader reader(bytes, name);
  uint8_t magic[4];
  require(reader.read(magic) == 4, "cannot read {}: it is shorter than an IDX header; fetch it again", name);
  require(magic[0] == 0 && magic[1] == 0, "cannot read {}: it does not start as an IDX file does", name);
  require(magic[2] == 8, "cannot read {}: its IDX type is 0x{:02x}, only unsigned bytes (0x08) are read", name,
          int{magic[2]});
  const size_t rank = magic[3];
  require(rank >= 1 && rank <= kMaxRank, "cannot read {}: an IDX file of {} dimensions is not known", name, rank);
  IdxArray array;
  int64_t count = 1;
  for (size_t d = 0; d < rank; ++d) {
    uint8_t b[4];
    require(reader.read(b) == 4, "cannot read {}: its IDX header is cut off; fetch it again", name);
    const int64_t n = int64_t{b[0]} << 24 | int64_t{b[1]} << 16 | int64_t{b[2]} << 8 | int64_t{b[3]};
    require(n == 0 || count <= kMaxValues / n, "cannot read {}: the sizes in its IDX header are too large", name);
    count *= n;
    array.dims.push_back(n);
  }
  require(count <= reader.limit(), "cannot read {}: its header promises {} values, more than the file holds; fetch it again",
          name, count);
  array.values.resize(static_cast<size_t>(count));
  const size_t got = reader.read(array.values);
  require(got == array.values.size(), "cannot read {}: its header promises {} values and there are {}; fetch it again",
          name, count, got);
  require(reader.at_end(), "cannot read {}: bytes follow the {} values that its header promises", name, count);
  return array;
}

void check_idx_part(const IdxPart& part) {
  const IdxArray& images = part.images;
  const IdxArray& labels = part.labels;
  require(images.dims.size() == 3, "{} has {} dimensions where images have 3; are images and labels exchanged?",
          part.images_name, images.dims.size());
  require(labels.dims.size() == 1, "{} has {} dimensions where labels have 1; are images and labels exchanged?",
          part.labels_name, labels.dims.size());
  require(images.dims[0] == labels.dims[0], "{} has {} images and {} has {} labels; they do not belong together",
          part.images_name, images.dims[0], part.labels_name, labels.dims[0]);
  constexpr int64_t kMaxSide = std::numeric_limits<int>::max();
  require(!images.values.empty() && images.dims[1] <= kMaxSide && images.dims[2] <= kMaxSide,
          "{} has no images ({} of {}x{} pixels)", part.images_name, images.dims[0], images.dims[2], images.dims[1]);
}

DatasetPtr idx_dataset(IdxPart part, std::vector<std::string> class_names, std::string source) {
  check_idx_part(part);
  for (const uint8_t label : part.labels.values)
    require(label < class_names.size(), "{} has the label {}, but there are {} classes", part.labels_name, int{label},
            class_names.size());
  return std::make_shared<IdxDataset>(std::move(part), std::move(class_names), std::move(source));
}

}  // namespace fovea
