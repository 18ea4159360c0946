// What a model reaches on the validation part, with the mistakes that a report shows.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "heads/classifier.h"
#include "image/loader.h"
#include "train/metrics.h"

namespace fovea {

struct Validation {
  struct Mistake {
    int64_t index = 0, true_class = 0, predicted_class = 0;  // index: of the image in the data set
    double probability = 0;                                  // of the predicted class
  };
  RunningMetrics metrics;              // cross-entropy without label smoothing
  ConfusionMatrix confusion;
  std::vector<Mistake> mistakes;       // the most confident ones, first the worst

  std::string to_json() const;
  // What to_json gave for a model of so many classes and a part of so many images; an empty result where the text is none of it.
  static Validation from_json(const std::string& text, int64_t classes, int64_t images);
};

// One pass over `loader` in evaluation mode with packed weights, which are dropped again. Returns false when `stop` (asked
// after every batch with the number of images done) says so. Throws Error when the model gives no finite numbers.
bool validate(Classifier& model, Loader& loader, const std::function<bool(int64_t images)>& stop, Validation& result, Context& ctx);

}  // namespace fovea
