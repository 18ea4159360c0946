#include "attention/bias_table.h"

#include <gtest/gtest.h>

#include <numeric>

#include "harness/expect.h"
#include "harness/layers.h"
#include "kernels/kernel_table.h"

namespace fovea {
namespace {

void expect_weights(const std::vector<double>& got, const std::vector<std::vector<double>>& want, double tolerance) {
  size_t i = 0;
  for (const auto& row : want)
    for (const double w : row) {
      ASSERT_LT(i, got.size());
      EXPECT_NEAR(got[i], w, tolerance) << "weight " << i;
      ++i;
    }
  EXPECT_EQ(i, got.size());
}

// What torch.nn.functional.interpolate(mode="bicubic", align_corners=False) makes of one table's rows.
TEST(BiasTable, BicubicIsTorchs) {
  expect_weights(offset_weights(2, 3, TableResampling::kBicubic),
                 {{1.096, -0.096, 0}, {0.612, 0.46, -0.072}, {0, 1, 0}, {-0.072, 0.46, 0.612}, {0, -0.096, 1.096}}, 1e-12);
  const double a = 0.685185185185185, b = 0.37037037037037, c = -0.0555555555555556;
  expect_weights(offset_weights(3, 2, TableResampling::kBicubic), {{a, b, c, 0, 0}, {0, 0, 1, 0, 0}, {0, 0, c, b, a}}, 1e-12);
}

// What timm 1.0.31's resize_rel_pos_bias_table makes of one table's rows, in float.
TEST(BiasTable, GeometricIsTimms) {
  const double third = 0.3333329, rest = 0.6666671;
  expect_weights(offset_weights(3, 4, TableResampling::kGeometric),
                 {{1, 0, 0, 0, 0}, {rest, third, 0, 0, 0}, {0, 1, 0, 0, 0}, {0, 0, 1, 0, 0}, {0, 0, 0, 1, 0}, {0, 0, 0, third, rest}, {0, 0, 0, 0, 1}}, 1e-6);
  expect_weights(offset_weights(4, 3, TableResampling::kGeometric),
                 {{0, 0.9900981, 0.0099019, 0, 0, 0, 0}, {0, 0, 1, 0, 0, 0, 0}, {0, 0, 0, 1, 0, 0, 0}, {0, 0, 0, 0, 1, 0, 0}, {0, 0, 0, 0, 0.0099019, 0.9900981, 0}},
                 1e-6);
}

// An axis that keeps its size moves a little where the other one changes, as in timm: a table of squares from windows of 3x3 to 2x3.
TEST(BiasTable, GeometricMovesBothAxes) {
  std::vector<double> squares(25), got(15);
  for (size_t i = 0; i < squares.size(); ++i) squares[i] = static_cast<double>(i * i);
  Context ctx(kernel_table("reference"), DType::kF64, 1);
  resample_bias_table({3, 3, 2, 3}, TableResampling::kGeometric, ConstTensor(squares.data(), Shape{25, 1}, DType::kF64), Tensor(got.data(), Shape{15, 1}, DType::kF64), ctx);
  const std::vector<double> want = {25.10891915, 36, 49, 64, 80.83166504, 100.20793915, 121, 144, 169, 195.73265076, 225.30696106, 256, 289, 324, 360.63360596};
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-4) << i;
}

TEST(BiasTable, EveryRowIsAnAverage) {
  for (const TableResampling how : {TableResampling::kBicubic, TableResampling::kGeometric})
    for (int64_t from = 1; from <= 14; ++from)
      for (int64_t to = 1; to <= 14; ++to) {
        const auto w = offset_weights(from, to, how);
        for (int64_t i = 0; i < 2 * to - 1; ++i) {
          const auto begin = w.begin() + i * (2 * from - 1);
          EXPECT_NEAR(std::accumulate(begin, begin + (2 * from - 1), 0.0), 1, 1e-12) << from << " to " << to << " row " << i;
        }
      }
}

}  // namespace
}  // namespace fovea
