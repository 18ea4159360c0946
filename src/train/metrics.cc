#include "train/metrics.h"

#include <limits>
#include <numeric>

#include "core/check.h"

namespace fovea {

namespace {

double share(int64_t part, int64_t whole) {
  return whole == 0 ? std::numeric_limits<double>::quiet_NaN() : static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

void ConfusionMatrix::add(int64_t true_class, int64_t predicted_class, int64_t images) {
  check(true_class >= 0 && true_class < classes_ && predicted_class >= 0 && predicted_class < classes_,
        "class {} taken for class {}, of {} classes", true_class, predicted_class, classes_);
  counts_[static_cast<size_t>(true_class * classes_ + predicted_class)] += images;
}

int64_t ConfusionMatrix::images() const { return std::accumulate(counts_.begin(), counts_.end(), int64_t{0}); }

double ConfusionMatrix::top1() const {
  int64_t right = 0;
  for (int64_t c = 0; c < classes_; ++c) right += at(c, c);
  const int64_t all = images();
  return all == 0 ? 0 : share(right, all);
}

std::vector<ClassResult> ConfusionMatrix::per_class() const {
  std::vector<ClassResult> results;
  for (int64_t c = 0; c < classes_; ++c) {
    int64_t predicted = 0;
    ClassResult r;
    for (int64_t other = 0; other < classes_; ++other) {
      predicted += at(other, c);
      r.support += at(c, other);
    }
    r.precision = share(at(c, c), predicted);
    r.recall = share(at(c, c), r.support);
    r.f1 = share(2 * at(c, c), predicted + r.support);  // 2 tp / (2 tp + fp + fn)
    results.push_back(r);
  }
  return results;
}

}  // namespace fovea
