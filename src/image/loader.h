// Batches of normalised pictures, made ahead of time by worker threads. What a batch holds depends on the data set, the
// options, the epoch and the batch's number alone: neither on the number of threads nor on where an epoch is started.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "image/augment.h"
#include "image/dataset.h"
#include "image/transforms.h"

namespace fovea {

// Pictures after decoding and (unless the crop is random-resized) fitting, kept for the next epoch as bytes. One cache
// serves the loaders of one data set with one way of preparing. When it is full, further pictures are prepared anew.
class ImageCache {
 public:
  static constexpr size_t kDefaultBytes = size_t{1} << 30;
  explicit ImageCache(int64_t images, size_t max_bytes = kDefaultBytes);
  ~ImageCache();
  ImageCache(const ImageCache&) = delete;
  ImageCache& operator=(const ImageCache&) = delete;

  std::shared_ptr<const Image> find(int64_t i) const;  // null when absent
  void add(int64_t i, std::shared_ptr<const Image> image);
  size_t bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct LoaderOptions {
  int64_t batch = 64;                // images
  Preprocess preprocess;             // the model's input
  std::optional<Augment> augment;    // training; none for evaluation
  bool shuffle = false;              // a new order each epoch
  bool drop_last = false;            // leave out a last batch that is not full, unless it is the only one
  uint64_t seed = 0;                 // of order and augmentation
  int64_t epoch = 0, first_batch = 0;  // start with this batch of this epoch
  int threads = 1;                   // workers, at least one
  int64_t prefetch = 4;              // batches made ahead
  // A broken picture is left out (evaluation: each picture counts once), or its place is taken by the picture at the same
  // place of the next batch, or those after it (training: batches keep their size and their number).
  enum class Broken : uint8_t { kLeaveOut, kReplace } broken = Broken::kLeaveOut;
  double max_broken = 0.01;          // share of the data set
  std::shared_ptr<ImageCache> cache;  // null: none
};

// Valid until the next call of Loader::next().
struct Batch {
  int64_t number = 0;               // within the epoch
  ConstTensor images;               // [B, C, H, W] f32, normalised; B is below the batch size at the end of an epoch
  const int32_t* labels = nullptr;  // [B]
  const int64_t* indices = nullptr;  // [B], in the data set
};

struct BrokenImage {
  int64_t index = 0;
  std::string name, why;
};

// One pass over a data set (an epoch). Used by one thread; stops its workers when it is destroyed.
class Loader {
 public:
  Loader(DatasetPtr dataset, LoaderOptions options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // The next batch, or null after the last one. Throws what a worker threw while making it, and an Error that lists the
  // first broken pictures when their share exceeds max_broken. A batch all of whose pictures are left out is passed over.
  const Batch* next();

  int64_t batches() const;  // of a whole epoch
  std::vector<BrokenImage> broken() const;  // met so far, sorted by index

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Batches of an epoch over `images` pictures.
int64_t batches_per_epoch(int64_t images, int64_t batch, bool drop_last);

}  // namespace fovea
