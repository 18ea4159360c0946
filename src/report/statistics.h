// What a difference between two accuracies is worth.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fovea::report {

double mean(const std::vector<double>& values);                // NaN for none
double standard_deviation(const std::vector<double>& values);  // of the sample (n - 1); NaN below two values

// Two-sided 95 % quantile of Student's t with `degrees` > 0 degrees of freedom.
double t_quantile_95(int64_t degrees);

// Accuracies of several contenders over the same seeds on the same images.
struct Contest {
  std::vector<std::vector<double>> shares;  // [contender][seed], in 0..1
  int64_t images = 0;                       // that each accuracy was measured on

  // Half the width of the 95 % interval around a contender's mean accuracy: the seeds' spread, pooled over all contenders
  // (they are trained alike, and three seeds alone say little of a spread), or, where it is larger or there is one seed
  // only, the counting error of the images.
  double half_width(size_t contender) const;
  // The same for the difference of two contenders' means.
  double difference_half_width(size_t a, size_t b) const;
  bool distinguishable(size_t a, size_t b) const;

 private:
  double pooled_deviation(int64_t& degrees) const;
};

}  // namespace fovea::report
