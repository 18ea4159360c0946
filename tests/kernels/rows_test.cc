#include "kernels/small_kernels.h"

namespace fovea::test {
namespace {

std::vector<int32_t> some_rows(int64_t count, int64_t of) {
  std::vector<int32_t> index(static_cast<size_t>(count));
  const Rng rng(5);
  for (size_t i = 0; i < index.size(); ++i)
    index[i] = static_cast<int32_t>(rng.bits(i) % static_cast<uint32_t>(of + 1)) - 1;  // -1 too, and repeats
  return index;
}

TEST(Rows, GathersAndScatters) {
  for (int64_t channels : kChannelSweep)
    for (int64_t rows : {0, 1, 3, 49, 197})
      expect_like_reference(fmt::format("rows {} x {}", rows, channels), [&](const KernelTable& t, Context& context) {
        const int64_t sources = 23;
        const std::vector<int32_t> index = some_rows(rows, sources);
        const Data x = random_data(t.dtype, sources * channels, 1), dout = random_data(t.dtype, rows * channels, 2);
        Data out(t.dtype, rows * channels, 7), dx = random_data(t.dtype, sources * channels, 3);
        t.gather_rows(rows, channels, x.p(), index.data(), out.p(), context);
        t.scatter_add_rows(rows, channels, dout.p(), index.data(), dx.p(), context);
        return Outputs{{out, 0}, {dx, (2 + static_cast<double>(rows)) * kEps * 4}};
      });
}

TEST(Rows, SpreadsTheTableOverABias) {
  for (int64_t heads : {1, 3, 24})
    for (int64_t count : {0, 1, 49, 2401})
      expect_like_reference(fmt::format("table bias {} x {}", count, heads), [&](const KernelTable& t, Context& context) {
        const int64_t entries = 169;
        const std::vector<int32_t> index = some_rows(count, entries);
        const Data table = random_data(t.dtype, entries * heads, 1), dout = random_data(t.dtype, heads * count, 2);
        Data out(t.dtype, heads * count, 7), dtable = random_data(t.dtype, entries * heads, 3);
        t.table_bias(count, heads, table.p(), index.data(), out.p(), context);
        t.table_bias_backward(count, heads, dout.p(), index.data(), dtable.p(), context);
        return Outputs{{out, 0}, {dtable, 40 * kEps * 16}};
      });
}

TEST(Rows, AveragesTokens) {
  for (int64_t channels : kChannelSweep)
    for (int64_t tokens : {1, 2, 49, 197})
      for (int64_t begin : {0, 1, 2}) {
        if (begin > tokens) continue;
        expect_like_reference(fmt::format("mean of {} - {} tokens of {}", tokens, begin, channels),
                              [&](const KernelTable& t, Context& context) {
          const int64_t batch = 3;
          const Data x = random_data(t.dtype, batch * tokens * channels, 1), dout = random_data(t.dtype, batch * channels, 2);
          Data out(t.dtype, batch * channels, 7), dx(t.dtype, batch * tokens * channels, 7);
          t.mean_tokens(batch, tokens, begin, channels, x.p(), out.p(), context);
          if (tokens > begin) {
            t.mean_tokens_backward(batch, tokens, begin, channels, dout.p(), dx.p(), context);
          }
          return Outputs{{out, (4 + std::sqrt(static_cast<double>(tokens))) * kEps * 4}, {dx, 4 * kEps * dout.largest()}};
        });
      }
  expect_like_reference("no batch", [](const KernelTable& t, Context& context) {
    Data nothing(t.dtype, 0);
    t.mean_tokens(0, 4, 1, 8, nothing.p(), nothing.p(), context);
    return Outputs{{nothing, 0}};
  });
}

// A chain over a thousand equal numbers would be wrong by 20 last places or more.
TEST(Rows, AveragesManyTokensInRuns) {
  expect_like_reference("mean of 1000 equal tokens", [](const KernelTable& t, Context& context) {
    const Data x(t.dtype, 1000 * 19, 1.1);
    Data out(t.dtype, 19);
    t.mean_tokens(1, 1000, 0, 19, x.p(), out.p(), context);
    return Outputs{{out, 8 * kEps}};
  });
}

}  // namespace
}  // namespace fovea::test
