#include "image/loader.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <map>
#include <mutex>
#include <numeric>
#include <thread>

#include "core/check.h"

namespace fovea {
namespace {

// Streams of random numbers below the loader's seed.
enum Stream : uint64_t { kOrder = 1, kAugmentation };
// Of one sample: augment() has its own streams, erasing comes after it.
constexpr uint64_t kErasing = 100;

constexpr size_t kListed = 5;                          // broken pictures named in an error

std::vector<int64_t> epoch_order(int64_t images, bool shuffle, const Rng& seed, int64_t epoch) {
  std::vector<int64_t> order(static_cast<size_t>(images));
  std::iota(order.begin(), order.end(), int64_t{0});
  if (!shuffle) return order;
  Rng rng = seed.fork(kOrder).fork(static_cast<uint64_t>(epoch));
  for (size_t i = order.size(); i-- > 1;) std::swap(order[i], order[rng.next_below(i + 1)]);
  return order;
}

}  // namespace

struct ImageCache::Impl {
  mutable std::mutex mutex;
  std::vector<std::shared_ptr<const Image>> images;
  size_t bytes = 0, max_bytes = 0;
};

ImageCache::ImageCache(int64_t images, size_t max_bytes) : impl_(std::make_unique<Impl>()) {
  impl_->images.resize(static_cast<size_t>(images));
  impl_->max_bytes = max_bytes;
}

ImageCache::~ImageCache() = default;

std::shared_ptr<const Image> ImageCache::find(int64_t i) const {
  const std::scoped_lock lock(impl_->mutex);
  return impl_->images.at(static_cast<size_t>(i));
}

void ImageCache::add(int64_t i, std::shared_ptr<const Image> image) {
  const std::scoped_lock lock(impl_->mutex);
  auto& place = impl_->images.at(static_cast<size_t>(i));
  if (place || impl_->bytes + image->pixels.size() > impl_->max_bytes) return;
  impl_->bytes += image->pixels.size();
  place = std::move(image);
}

size_t ImageCache::bytes() const {
  const std::scoped_lock lock(impl_->mutex);
  return impl_->bytes;
}

int64_t batches_per_epoch(int64_t images, int64_t batch, bool drop_last) {
  return drop_last ? std::max<int64_t>(images / batch, images > 0 ? 1 : 0) : (images + batch - 1) / batch;
}

struct Loader::Impl {
  // A batch under way or ready; reused for batch number + slots.size().
  struct Slot {
    std::vector<float> pixels;
    std::vector<int32_t> labels;
    std::vector<int64_t> indices;
    int64_t count = 0;
    bool ready = false;
    std::exception_ptr error;
  };

  DatasetPtr dataset;
  LoaderOptions options;
  Rng rng;
  std::vector<int64_t> order;
  int64_t batches = 0;
  size_t image_elements = 0;

  std::mutex mutex;
  std::condition_variable made, freed;
  std::vector<Slot> slots;
  int64_t next_made = 0;      // number of the batch that the next free worker takes
  int64_t next_returned = 0;  // number of the batch that next() returns
  bool holding = false;       // the caller still has the batch before that one
  bool stopping = false;
  std::map<int64_t, std::string> broken;  // index: why
  Batch current;
  std::vector<std::thread> workers;

  Impl(DatasetPtr d, LoaderOptions o) : dataset(std::move(d)), options(std::move(o)), rng(options.seed) {
    const Preprocess& p = options.preprocess;
    const auto channels = static_cast<size_t>(p.channels);
    require(dataset && dataset->size() > 0, "cannot load batches: the data set has no images");
    require(options.batch >= 1 && options.prefetch >= 1 && options.threads >= 1 && options.first_batch >= 0,
            "a loader needs a batch ({}), batches ahead ({}) and threads ({}) of at least 1 and a first batch ({}) of at "
            "least 0",
            options.batch, options.prefetch, options.threads, options.first_batch);
    require(p.height >= 1 && p.width >= 1 && (p.channels == 1 || p.channels == 3) && p.mean.size() == channels &&
                p.std.size() == channels,
            "the model's input of {}x{} with {} channels, {} means and {} deviations makes no sense", p.width, p.height,
            p.channels, p.mean.size(), p.std.size());
    batches = batches_per_epoch(dataset->size(), options.batch, options.drop_last);
    order = epoch_order(dataset->size(), options.shuffle, rng, options.epoch);
    image_elements = static_cast<size_t>(p.channels) * static_cast<size_t>(p.height) * static_cast<size_t>(p.width);
    next_made = next_returned = std::min(options.first_batch, batches);
    const auto most = static_cast<size_t>(std::min(options.batch, dataset->size()));
    slots.resize(static_cast<size_t>(std::min(options.prefetch + 1, std::max<int64_t>(batches - next_made, 1))));
    for (Slot& slot : slots) {
      slot.pixels.resize(most * image_elements);
      slot.labels.resize(most);
      slot.indices.resize(most);
    }
    try {
      for (int t = 0; t < options.threads; ++t) workers.emplace_back([this] { work(); });
    } catch (...) {
      stop();
      throw;
    }
  }

  ~Impl() { stop(); }

  void stop() {
    {
      const std::scoped_lock lock(mutex);
      stopping = true;
    }
    freed.notify_all();
    for (std::thread& worker : workers) worker.join();
    workers.clear();
  }

  Slot& slot_of(int64_t number) { return slots[static_cast<size_t>(number) % slots.size()]; }

  void work() {
    const auto count = static_cast<int64_t>(slots.size());
    std::unique_lock lock(mutex);
    for (;;) {
      // A slot is free when the batch that it held has been given back.
      freed.wait(lock, [&] { return stopping || next_made >= batches || next_made < next_returned - holding + count; });
      if (stopping || next_made >= batches) return;
      const int64_t number = next_made++;
      Slot& slot = slot_of(number);
      lock.unlock();
      std::exception_ptr error;
      try {
        fill(number, slot);
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      slot.error = error;
      slot.ready = true;
      made.notify_all();
    }
  }

  void fill(int64_t number, Slot& slot) {
    const int64_t images = dataset->size(), begin = number * options.batch;
    const int64_t end = std::min(begin + options.batch, images);
    slot.count = 0;
    for (int64_t position = begin; position < end; ++position) {
      int64_t index = order[static_cast<size_t>(position)];
      float* chw = slot.pixels.data() + static_cast<size_t>(slot.count) * image_elements;
      bool good = make(index, chw);
      if (!good && options.broken == LoaderOptions::Broken::kReplace)
        for (int64_t k = 0; k < images && !good; ++k) {
          index = order[static_cast<size_t>((position + options.batch + k) % images)];
          good = make(index, chw);
        }
      if (!good) continue;
      slot.indices[static_cast<size_t>(slot.count)] = index;
      slot.labels[static_cast<size_t>(slot.count++)] = dataset->label(index);
    }
  }

  bool resized_crop() const { return options.augment && options.augment->crop == Augment::Crop::kResized; }

  // The picture as far as it is the same in every epoch; null when it is broken.
  std::shared_ptr<const Image> prepared(int64_t index) {
    if (options.cache)
      if (auto image = options.cache->find(index)) return image;
    std::shared_ptr<Image> image;
    try {
      image = std::make_shared<Image>(dataset->read(index));
      const Preprocess& p = options.preprocess;
      if (resized_crop())
        *image = to_channels(*image, p.channels);
      else if (!is_fitted(*image, p))
        *image = fit(*image, p);
    } catch (const Error& e) {
      add_broken(index, e.what());
      return nullptr;
    }
    if (options.cache) options.cache->add(index, image);
    return image;
  }

  bool make(int64_t index, float* chw) {
    const std::shared_ptr<const Image> image = prepared(index);
    if (!image) return false;
    const Preprocess& p = options.preprocess;
    if (!options.augment) {
      normalize(*image, p.mean, p.std, chw);
      return true;
    }
    const Rng own =
        rng.fork(kAugmentation).fork(static_cast<uint64_t>(options.epoch)).fork(static_cast<uint64_t>(index));
    normalize(augment(*image, *options.augment, p.height, p.width, own), p.mean, p.std, chw);
    if (options.augment->erasing.probability > 0)
      random_erase(chw, p.channels, p.height, p.width, options.augment->erasing, own.fork(kErasing));
    return true;
  }

  void add_broken(int64_t index, const std::string& why) {
    const std::scoped_lock lock(mutex);
    broken.emplace(index, why);
    if (static_cast<double>(broken.size()) <= options.max_broken * static_cast<double>(dataset->size())) return;
    std::string list;
    for (auto it = broken.begin(); it != broken.end() && list.size() < 4096; ++it) {
      if (static_cast<size_t>(std::distance(broken.begin(), it)) == kListed) {
        list += "; ...";
        break;
      }
      list += (list.empty() ? "" : "; ") + it->second;
    }
    fail("more than {:g} % of the {} images are broken; repair or remove them, or raise --max-broken: {}",
         options.max_broken * 100, dataset->size(), list);
  }

  const Batch* next() {
    std::unique_lock lock(mutex);
    for (;;) {
      if (holding) {
        holding = false;
        freed.notify_all();
      }
      if (next_returned >= batches) return nullptr;
      Slot& slot = slot_of(next_returned);
      made.wait(lock, [&] { return slot.ready; });
      slot.ready = false;
      if (slot.error) {
        next_returned = batches;  // nothing comes after an error
        next_made = batches;
        freed.notify_all();
        std::rethrow_exception(slot.error);
      }
      const Preprocess& p = options.preprocess;
      current.number = next_returned++;
      holding = true;
      current.images = ConstTensor(slot.pixels.data(), Shape{slot.count, p.channels, p.height, p.width}, DType::kF32);
      current.labels = slot.labels.data();
      current.indices = slot.indices.data();
      if (slot.count > 0) return &current;
    }
  }
};

Loader::Loader(DatasetPtr dataset, LoaderOptions options)
    : impl_(std::make_unique<Impl>(std::move(dataset), std::move(options))) {}

Loader::~Loader() = default;

const Batch* Loader::next() { return impl_->next(); }

int64_t Loader::batches() const { return impl_->batches; }

std::vector<BrokenImage> Loader::broken() const {
  const std::scoped_lock lock(impl_->mutex);
  std::vector<BrokenImage> list;
  for (const auto& [index, why] : impl_->broken) list.push_back({index, impl_->dataset->name(index), why});
  return list;
}

}  // namespace fovea
