#include "kernels/small_kernels.h"

namespace fovea::test {
namespace {

TEST(Elementwise, Adds) {
  for (int64_t count : kCountSweep)
    expect_like_reference(fmt::format("add {}", count), [&](const KernelTable& t, Context& context) {
      Data x = random_data(t.dtype, count, 1), y = random_data(t.dtype, count, 2);
      Data z(t.dtype, count), sum = y;
      t.add(count, x.p(), y.p(), z.p(), context);
      t.scale_add(count, 0.3, x.p(), sum.p(), context);
      t.add(count, x.p(), y.p(), x.p(), context);
      t.add(count, z.p(), y.p(), y.p(), context);
      return Outputs{{x, 8 * kEps}, {y, 16 * kEps}, {z, 8 * kEps}, {sum, 8 * kEps}};
    });
}

TEST(Elementwise, ScalesRowsAndColumns) {
  for (int64_t channels : kChannelSweep)
    for (int64_t rows : {0, 1, 2, 3, 31, 49, 197})
      for (bool residual : {false, true})
        expect_like_reference(fmt::format("scale {} x {}", rows, channels), [&](const KernelTable& t, Context& context) {
          const int64_t rows_per_scale = 7, count = rows * channels;
          const Data x = random_data(t.dtype, count, 1), rest = random_data(t.dtype, count, 2);
          const Data row_scale = random_data(t.dtype, (rows + rows_per_scale - 1) / rows_per_scale, 3);
          const Data gamma = random_data(t.dtype, channels, 4), dy = random_data(t.dtype, count, 5);
          Data by_row(t.dtype, count), by_column(t.dtype, count), dx(t.dtype, count);
          Data dgamma = random_data(t.dtype, channels, 6), sum = random_data(t.dtype, channels, 7);
          Data dgamma_only = dgamma;
          const void* r = residual ? rest.p() : nullptr;
          t.scale_rows(rows, channels, rows_per_scale, row_scale.p(), x.p(), r, by_row.p(), context);
          t.scale_columns(rows, channels, gamma.p(), x.p(), r, by_column.p(), context);
          t.scale_columns_backward(rows, channels, gamma.p(), x.p(), dy.p(), dx.p(), dgamma.p(), context);
          t.scale_columns_backward(rows, channels, gamma.p(), x.p(), dy.p(), nullptr, dgamma_only.p(), context);
          t.column_sum(rows, channels, channels, x.p(), sum.p(), context);
          const double columns = (4 + static_cast<double>(rows)) * kEps * 4;
          return Outputs{{by_row, 16 * kEps}, {by_column, 16 * kEps}, {dx, 16 * kEps},
                         {dgamma, columns},   {dgamma_only, columns}, {sum, columns}};
        });
}

TEST(Elementwise, SumsColumnsOfAWiderMatrix) {
  for (int64_t rows : {3, 1111, 5000})
    expect_like_reference(fmt::format("column sum {}", rows), [&](const KernelTable& t, Context& context) {
      const Data x = random_data(t.dtype, rows * 100, 1);
      Data sum(t.dtype, 97);
      t.column_sum(rows, 97, 100, x.p(), sum.p(), context);
      return Outputs{{sum, (4 + std::sqrt(static_cast<double>(rows)) * 8) * kEps * 8}};
    });
}

TEST(Elementwise, DropsTheElementsThatTheGeneratorSays) {
  for (double probability : {0.0, 0.1, 0.5, 1.0 / 3, 0.999})
    for (int64_t count : kCountSweep)
      for (bool in_place : {false, true})
        expect_like_reference(fmt::format("dropout {} of {}", probability, count), [&](const KernelTable& t, Context& context) {
          Data x(t.dtype, count), y(t.dtype, count, 7);
          for (int64_t i = 0; i < count; ++i) x.set(i, 0.5 + static_cast<double>(i % 7));  // no zeros: drops are visible
          DropoutArgs a;
          a.count = count;
          a.probability = probability;
          a.rng = Rng(0x123456789ABCDEF0ULL).fork(0xFEDCBA9876543210ULL);
          a.x = x.p();
          a.y = in_place ? x.p() : y.p();
          t.dropout(a, context);
          // Zero or x / (1 - p) >= 0.5: any difference in what is dropped is far beyond the rounding.
          return Outputs{{in_place ? x : y, 4 * kEps * 7 / (1 - probability)}};
        });
}

// The border of the comparison: probabilities that equal an element's fraction exactly keep it, the next ones drop it.
TEST(Elementwise, DropsBelowTheProbabilityOnly) {
  for_each_f32_table([](const KernelTable& t, Context& context) {
    const Rng rng(99, 7);
    for (uint64_t i = 0; i < 37; ++i) {
      const double u = rng.uniform(i);
      for (double p : {u, std::nextafter(u, 1.0)}) {
        Data x(t.dtype, 37, 1), y(t.dtype, 37);
        DropoutArgs a;
        a.count = 37;
        a.probability = p;
        a.rng = rng;
        a.x = x.p();
        a.y = y.p();
        t.dropout(a, context);
        for (uint64_t j = 0; j < 37; ++j) EXPECT_EQ(y.get(static_cast<int64_t>(j)) == 0, rng.uniform(j) < p) << i << " " << j;
      }
    }
  });
}

TEST(Elementwise, DropsEverythingAtOne) {
  for_each_f32_table([](const KernelTable& t, Context& context) {
    Data x(t.dtype, 100, 3), y(t.dtype, 100, 7);
    x.set(5, std::nan(""));
    DropoutArgs a;
    a.count = 100;
    a.probability = 1;
    a.rng = Rng(1);
    a.x = x.p();
    a.y = y.p();
    t.dropout(a, context);
    EXPECT_EQ(y.largest(), 0);
    EXPECT_EQ(y.get(5), 0);
  });
}

}  // namespace
}  // namespace fovea::test
