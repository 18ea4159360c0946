#include <cmath>

#include "harness/expect.h"
#include "harness/layer_under_test.h"
#include "kernels/small_kernels.h"

namespace fovea::test {
namespace {

struct Sizes {
  int64_t batch, heads, rows, clusters, head_dim;
  std::string str() const { return fmt::format("{} x {} heads x {} rows of {}, {} clusters", batch, heads, rows, head_dim, clusters); }
};
constexpr int64_t kBig = 131;  // more than a block of clusters
const Sizes kSizes[] = {{1, 1, 1, 1, 1},  {2, 3, 31, 5, 24}, {1, 2, 197, 14, 32}, {2, 1, 49, 70, 80},
                        {1, 1, 600, kBig, 20}, {3, 2, 2, 7, 3},    {0, 2, 10, 3, 8},    {1, 2, 700, 64, 16}};

// The arguments over buffers whose rows lie apart, as heads in a fused projection do.
ClusterArgs args_of(const Sizes& s, const Data& x, const Data& means, const std::vector<uint8_t>& padding, bool unit) {
  ClusterArgs a;
  a.batch = s.batch;
  a.heads = s.heads;
  a.rows = s.rows;
  a.clusters = s.clusters;
  a.head_dim = s.head_dim;
  a.unit = unit;
  const int64_t token = 3 * s.heads * s.head_dim;
  a.x = {x.p(), s.rows * token, token, s.head_dim};
  a.means = means.p();
  if (!padding.empty()) {
    a.padding = padding.data();
    a.padding_stride = s.rows;
  }
  return a;
}

std::vector<uint8_t> some_padding(const Sizes& s, int every) {
  std::vector<uint8_t> p(static_cast<size_t>(s.batch * s.rows), 0);
  for (size_t i = 0; i < p.size(); ++i) p[i] = i % static_cast<size_t>(every) == 1;
  return p;
}

Data as_data(DType dtype, const std::vector<int32_t>& v) {
  Data d(dtype, static_cast<int64_t>(v.size()));
  for (size_t i = 0; i < v.size(); ++i) d.set(static_cast<int64_t>(i), v[i]);
  return d;
}

TEST(Clusters, ChoosesLikeTheReference) {
  for (const Sizes& s : kSizes)
    for (const bool unit : {true, false})
      for (const int every : {0, 3}) {
        const auto padding = every == 0 ? std::vector<uint8_t>() : some_padding(s, every);
        for (const int64_t count : {int64_t{1}, (s.rows + s.clusters - 1) / s.clusters, s.rows, s.rows + 2})
          expect_like_reference(fmt::format("{}, {} rows a cluster", s.str(), count), [&](const KernelTable& t, Context& context) {
            const Data x = random_data(t.dtype, s.batch * s.rows * 3 * s.heads * s.head_dim, 1);
            const Data means = random_data(t.dtype, s.heads * s.clusters * s.head_dim, 2);
            const ClusterArgs a = args_of(s, x, means, padding, unit);
            std::vector<int32_t> nearest(static_cast<size_t>(s.batch * s.heads * s.rows), -7);
            std::vector<int32_t> chosen(static_cast<size_t>(s.batch * s.heads * s.clusters * count), -7);
            t.nearest_clusters(a, nearest.data(), context);
            t.top_rows(a, count, chosen.data(), context);
            return Outputs{{as_data(t.dtype, nearest), 0}, {as_data(t.dtype, chosen), 0}};
          });
      }
}

// Equal similarities everywhere: the first rows and the first cluster win, on every table.
TEST(Clusters, TiesGoToTheFirst) {
  for (const std::string_view name : kernel_table_names()) {
    const KernelTable& t = kernel_table(name);
    if (t.dtype == DType::kDual) continue;
    Context context(t, t.dtype, 2);
    const Sizes s{1, 1, 50, 70, 4};
    const Data x(t.dtype, s.rows * 3 * s.head_dim, 1), means(t.dtype, s.clusters * s.head_dim, 1);
    const ClusterArgs a = args_of(s, x, means, {}, true);
    std::vector<int32_t> nearest(50), chosen(70 * 3);
    t.nearest_clusters(a, nearest.data(), context);
    t.top_rows(a, 3, chosen.data(), context);
    for (const int32_t c : nearest) ASSERT_EQ(c, 0) << name;
    for (size_t i = 0; i < chosen.size(); ++i) ASSERT_EQ(chosen[i], static_cast<int32_t>(i % 3)) << name;
  }
}

// A NaN is never nearer than a number, and every choice stays a row.
TEST(Clusters, NaNAndInfinityAreChosenLast) {
  for (const std::string_view name : kernel_table_names()) {
    const KernelTable& t = kernel_table(name);
    if (t.dtype == DType::kDual) continue;
    Context context(t, t.dtype, 1);
    const Sizes s{1, 1, 20, 2, 2};
    Data x = random_data(t.dtype, s.rows * 3 * s.head_dim, 1);
    const Data means = random_data(t.dtype, s.clusters * s.head_dim, 2);
    for (const int64_t row : {0, 3, 17}) x.set(row * 3 * s.head_dim, std::numeric_limits<double>::quiet_NaN());
    const ClusterArgs a = args_of(s, x, means, {}, false);
    std::vector<int32_t> chosen(2 * 17), all(2 * 19);
    t.top_rows(a, 17, chosen.data(), context);
    for (const int32_t row : chosen) EXPECT_TRUE(row != 0 && row != 3 && row != 17) << name << " " << row;
    t.top_rows(a, 19, all.data(), context);
    EXPECT_EQ(std::count(all.begin(), all.end(), 17), 0) << name << ": of three NaN the first two";
  }
}

TEST(Clusters, MeasuresDistances) {
  for (const Sizes& s : kSizes)
    for (const bool unit : {true, false})
      expect_like_reference(s.str(), [&](const KernelTable& t, Context& context) {
        const int64_t elements = s.batch * s.rows * 3 * s.heads * s.head_dim;
        const Data x = random_data(t.dtype, elements, 1), means = random_data(t.dtype, s.heads * s.clusters * s.head_dim, 2);
        const auto padding = some_padding(s, 4);
        ClusterDistanceArgs a;
        a.clusters = args_of(s, x, means, padding, unit);
        std::vector<int32_t> nearest(static_cast<size_t>(s.batch * s.heads * s.rows));
        t.nearest_clusters(a.clusters, nearest.data(), context);
        a.nearest = nearest.data();
        Data distance(t.dtype, 1, 3), totals = random_data(t.dtype, s.heads * s.clusters * s.head_dim, 4),
             counts(t.dtype, s.heads * s.clusters, 1), dx = random_data(t.dtype, elements, 5);
        a.distance = distance.p();
        a.totals = totals.p();
        a.counts = counts.p();
        t.cluster_distance(a, context);
        t.cluster_distance_backward(a, 0.37, {dx.p(), a.clusters.x.batch_stride, a.clusters.x.token_stride, a.clusters.x.head_stride},
                                    context);
        const double n = static_cast<double>(s.batch * s.rows * s.heads), largest = unit ? 1 : x.largest();
        return Outputs{{distance, kEps * (4 + std::sqrt(n)) * std::max(4.0, distance.largest())},
                       {totals, kEps * 8 * (4 + std::sqrt(n)) * (4 + largest)},
                       {counts, 0},
                       // A short row divides its gradient by its length.
                       {dx, kEps * 64 * std::max(1.0, dx.largest())}};
      });
}

// The backward against dual numbers, padding included.
TEST(Clusters, DistanceHasTheRightGradient) {
  for (const bool unit : {true, false}) {
    const int64_t batch = 2, heads = 2, rows = 5, clusters = 3, dim = 4;
    static const std::vector<uint8_t> padding = {0, 0, 1, 0, 0, 0, 1, 0, 0, 0};
    const auto args = [=](const void* x, const void* means) {
      ClusterDistanceArgs a;
      a.clusters = {batch, heads, dim, rows, clusters, unit, {x, rows * heads * dim, heads * dim, dim}, means, padding.data(), rows};
      return a;
    };
    const auto choose = [=](const ClusterDistanceArgs& a, std::vector<int32_t>& nearest, Context& ctx) {
      nearest.resize(batch * heads * rows);
      ctx.kernels().nearest_clusters(a.clusters, nearest.data(), ctx);
      return nearest.data();
    };
    harness::Operation o;
    o.inputs = {{Shape{batch, rows, heads, dim}}, {Shape{heads, clusters, dim}, false}};
    o.outputs = {{Shape{1}}};
    o.forward = [=](auto in, auto out, Context& ctx) {
      ClusterDistanceArgs a = args(in[0].data, in[1].data);
      std::vector<int32_t> nearest;
      a.nearest = choose(a, nearest, ctx);
      ArenaScope scope(ctx.scratch());
      const Tensor totals = ctx.scratch().take(Shape{heads, clusters, dim}, ctx.dtype()), counts = ctx.scratch().take(Shape{heads, clusters}, ctx.dtype());
      totals.zero();
      counts.zero();
      out[0].zero();
      a.distance = out[0].data;
      a.totals = totals.data;
      a.counts = counts.data;
      ctx.kernels().cluster_distance(a, ctx);
    };
    o.backward = [=](auto in, auto, auto dout, auto din, Context& ctx) {
      ClusterDistanceArgs a = args(in[0].data, in[1].data);
      std::vector<int32_t> nearest;
      a.nearest = choose(a, nearest, ctx);
      din[0].zero();
      ctx.kernels().cluster_distance_backward(a, harness::value_at(dout[0], 0), {din[0].data, rows * heads * dim, heads * dim, dim}, ctx);
    };
    harness::expect_adjoint(harness::layer_of(o));
    harness::expect_jacobian(harness::layer_of(o));
  }
}

}  // namespace
}  // namespace fovea::test
