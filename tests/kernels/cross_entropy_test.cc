#include "kernels/small_kernels.h"

namespace fovea::test {
namespace {

void check(int64_t rows, int64_t classes, bool soft, double smoothing, double shift) {
  expect_like_reference(fmt::format("cross entropy {} x {} soft {} smoothing {}", rows, classes, soft, smoothing),
                        [&](const KernelTable& t, Context& context) {
    const Data logits = random_data(t.dtype, rows * classes, 1, 3, shift);
    Data targets(t.dtype, rows * classes), loss(t.dtype, rows), dlogits(t.dtype, rows * classes);
    std::vector<int32_t> labels(static_cast<size_t>(rows));
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t label = (r * 7 + 3) % classes;
      labels[static_cast<size_t>(r)] = static_cast<int32_t>(label);
      targets.set(r * classes + label, 0.75);  // mixed labels; the sums need not be one
      targets.set(r * classes + (label + 1) % classes, 0.5);
    }
    CrossEntropyArgs a;
    a.rows = rows;
    a.classes = classes;
    a.logits = logits.p();
    if (soft)
      a.soft_targets = targets.p();
    else
      a.labels = labels.data();
    a.smoothing = smoothing;
    a.loss = loss.p();
    a.dloss = 0.25;
    a.dlogits = dlogits.p();
    t.cross_entropy(a, context);
    t.cross_entropy_backward(a, context);
    // The logits themselves are rounded when the maximum is subtracted; the sum is one of about sqrt(classes) errors.
    const double sums = (8 + std::sqrt(static_cast<double>(classes))) * kEps;
    return Outputs{{loss, sums * 32}, {dlogits, sums}};
  });
}

TEST(CrossEntropy, MatchesReference) {
  for (int64_t classes : {1, 2, 3, 10, 31, 97, 1000})
    for (int64_t rows : {1, 2, 3, 31, 49})
      for (bool soft : {false, true})
        for (double smoothing : {0.0, 0.1}) check(rows, classes, soft, smoothing, 0);
  check(0, 10, false, 0.1, 0);
}

TEST(CrossEntropy, IsStableForLargeLogits) {
  check(5, 10, false, 0, 1000);
  check(5, 10, true, 0.1, -1000);
}

// A class shut out by -infinity costs nothing, as long as it is not the label.
TEST(CrossEntropy, AllowsForbiddenClasses) {
  for_each_f32_table([](const KernelTable& t, Context& context) {
    Data logits(t.dtype, 3), loss(t.dtype, 1), dlogits(t.dtype, 3);
    logits.set(1, -std::numeric_limits<double>::infinity());
    const int32_t label = 2;
    CrossEntropyArgs a;
    a.rows = 1;
    a.classes = 3;
    a.logits = logits.p();
    a.labels = &label;
    a.loss = loss.p();
    a.dlogits = dlogits.p();
    t.cross_entropy(a, context);
    t.cross_entropy_backward(a, context);
    EXPECT_NEAR(loss.get(0), std::log(2.0), 1e-6);
    EXPECT_NEAR(dlogits.get(0), 0.5, 1e-6);
    EXPECT_EQ(dlogits.get(1), 0);
    EXPECT_NEAR(dlogits.get(2), -0.5, 1e-6);
  });
}

TEST(CrossEntropy, GivesNaNForNaN) {
  for_each_f32_table([](const KernelTable& t, Context& context) {
    for (int64_t at : {0, 5, 17, 36}) {
      Data logits = random_data(t.dtype, 2 * 37, 1), loss(t.dtype, 2), dlogits(t.dtype, 2 * 37);
      logits.set(37 + at, std::nan(""));
      const int32_t labels[] = {1, 2};
      CrossEntropyArgs a;
      a.rows = 2;
      a.classes = 37;
      a.logits = logits.p();
      a.labels = labels;
      a.loss = loss.p();
      a.dlogits = dlogits.p();
      t.cross_entropy(a, context);
      t.cross_entropy_backward(a, context);
      EXPECT_FALSE(std::isnan(loss.get(0)));
      EXPECT_TRUE(std::isnan(loss.get(1))) << at;
      EXPECT_FALSE(std::isnan(dlogits.get(3)));
      EXPECT_TRUE(std::isnan(dlogits.get(37 + 9))) << at;
    }
  });
}

TEST(CrossEntropy, RefusesForeignLabels) {
  for_each_f32_table([](const KernelTable& t, Context& context) {
    Data logits(t.dtype, 6), loss(t.dtype, 2);
    for (int32_t label : {-1, 3}) {
      const int32_t labels[] = {0, label};
      CrossEntropyArgs a;
      a.rows = 2;
      a.classes = 3;
      a.logits = logits.p();
      a.labels = labels;
      a.loss = loss.p();
      EXPECT_THROW(t.cross_entropy(a, context), InternalError);
    }
  });
}

}  // namespace
}  // namespace fovea::test
