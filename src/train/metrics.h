// What a classifier reached on a part of the data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fovea {

// Sums of an epoch so far; means come from them.
struct RunningMetrics {
  double loss_sum = 0;      // of the images' losses, nats
  int64_t correct = 0, images = 0;

  void add(double mean_loss, int64_t more_correct, int64_t more_images) {
    loss_sum += mean_loss * static_cast<double>(more_images);
    correct += more_correct;
    images += more_images;
  }
  double loss() const { return images == 0 ? 0 : loss_sum / static_cast<double>(images); }
  double top1() const { return images == 0 ? 0 : static_cast<double>(correct) / static_cast<double>(images); }
};

// Shares in 0..1; NaN where undefined: precision when nothing was predicted as the class, recall when no image has it.
struct ClassResult {
  double precision = 0, recall = 0, f1 = 0;
  int64_t support = 0;      // images of this class
};

// How many images of a class were taken for which.
class ConfusionMatrix {
 public:
  ConfusionMatrix() = default;
  explicit ConfusionMatrix(int64_t classes) : classes_(classes), counts_(static_cast<size_t>(classes * classes)) {}

  // Throws InternalError for classes that do not exist.
  void add(int64_t true_class, int64_t predicted_class, int64_t images = 1);

  int64_t classes() const { return classes_; }
  int64_t at(int64_t true_class, int64_t predicted_class) const {
    return counts_[static_cast<size_t>(true_class * classes_ + predicted_class)];
  }
  const std::vector<int64_t>& counts() const { return counts_; }  // row-major (true, predicted)
  int64_t images() const;
  double top1() const;                                            // 0 without images
  std::vector<ClassResult> per_class() const;

 private:
  int64_t classes_ = 0;
  std::vector<int64_t> counts_;
};

}  // namespace fovea
