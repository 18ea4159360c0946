// Feature attention: the reference against the definition, pair by pair in double, and every f32 table against the reference.
#include "kernels/small_kernels.h"

namespace fovea {
namespace {

using namespace test;  // NOLINT

struct Case {
  std::string name;
  FeatureKernel map = FeatureKernel::kSoftmax;
  bool causal = false;
  int64_t batch = 1, heads = 2, head_dim = 6, value_dim = 6, queries = 9, keys = 9, features = 11;
  double epsilon = 1e-4, sharpness = 1, growth = 0;  // of q and k; growth per token
  enum class Padding : uint8_t { kNone, kSome, kFirst, kAll } padding = Padding::kNone;
  bool constant = false, whole = false;
  double causal_epsilon = 0;
};

// Rows in a buffer (B, N, H, D) with a gap behind each token.
struct Rows {
  int64_t batch, tokens, heads, dim;
  Data data;
  int64_t stride() const { return heads * dim + 3; }
  Rows(DType dtype, int64_t b, int64_t n, int64_t h, int64_t d) : batch(b), tokens(n), heads(h), dim(d), data(dtype, b * n * (h * d + 3)) {}
  void fill(uint64_t tag, double scale, double growth) {
    const Rng rng(77, tag);
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t n = 0; n < tokens; ++n)
        for (int64_t i = 0; i < heads * dim; ++i) {
          const int64_t at = (b * tokens + n) * stride() + i;
          const double s = scale * (1 + growth * static_cast<double>(n));
          data.set(at, static_cast<double>(static_cast<float>(s * rng.normal(static_cast<uint64_t>(at)))));
        }
  }
  double get(int64_t b, int64_t n, int64_t h, int64_t i) const { return data.get((b * tokens + n) * stride() + h * dim + i); }
  ConstHeadsView view() const { return {data.p(), tokens * stride(), stride(), dim}; }
  HeadsView view() { return {data.p(), tokens * stride(), stride(), dim}; }
};

struct Inputs {
  Rows q, k, v, dout;
  Data w;
  std::vector<uint8_t> padding;
  Inputs(const Case& c, DType t)
      : q(t, c.batch, c.queries, c.heads, c.head_dim), k(t, c.batch, c.keys, c.heads, c.head_dim), v(t, c.batch, c.keys, c.heads, c.value_dim),
        dout(t, c.batch, c.queries, c.heads, c.value_dim), w(random_data(t, c.features * c.head_dim, 5)) {
    q.fill(1, c.sharpness, 0);
    k.fill(2, c.sharpness, c.growth);
    v.fill(3, 1, 0);
    dout.fill(4, 1, 0);
    if (c.map == FeatureKernel::kSoftmax && c.epsilon != 0) part_maxima(c);
    for (int64_t i = 0; i < c.batch * c.keys; ++i) {
      const int64_t n = i % c.keys;
      padding.push_back(c.padding == Case::Padding::kAll || (c.padding == Case::Padding::kSome && n % 3 == 1) ||
                        (c.padding == Case::Padding::kFirst && n < c.keys / 2 + 1));
    }
  }
  // The stabiliser is differentiated through the feature that is its maximum: which one must not hang on a rounding. Rows of q and k
  // whose two largest features are nearer than that are moved.
  void part_maxima(const Case& c) {
    for (Rows* rows : {&q, &k})
      for (int64_t row = 0; row < c.batch * rows->tokens; ++row)
        for (int64_t h = 0; h < c.heads; ++h) {
          const int64_t at = row * rows->stride() + h * c.head_dim;
          for (int attempt = 0; attempt < 20; ++attempt) {
            double first = -INFINITY, second = -INFINITY, largest = 0;
            for (int64_t f = 0; f < c.features; ++f) {
              double u = 0;
              for (int64_t d = 0; d < c.head_dim; ++d) u += w.get(f * c.head_dim + d) * rows->data.get(at + d);
              second = std::max(second, std::min(first, u));
              first = std::max(first, u);
              largest = std::max(largest, std::fabs(u));
            }
            if (first - second > 1e-4 * largest) break;
            rows->data.set(at, rows->data.get(at) + 0.25);
          }
        }
  }
  FeatureAttentionArgs args(const Case& c) const {
    FeatureAttentionArgs a;
    a.batch = c.batch;
    a.heads = c.heads;
    a.head_dim = c.head_dim;
    a.value_dim = c.value_dim;
    a.queries = c.queries;
    a.keys = c.keys;
    a.map = c.map;
    a.features = c.map == FeatureKernel::kNone ? c.head_dim : c.features;
    a.projection = c.map == FeatureKernel::kNone ? nullptr : w.p();
    a.input_scale = c.map == FeatureKernel::kNone ? 1 : std::pow(static_cast<double>(c.head_dim), -0.25);
    a.epsilon = c.map == FeatureKernel::kNone ? 0 : c.epsilon;
    a.causal = c.causal;
    a.q = q.view();
    a.k = k.view();
    a.v = v.view();
    a.key_padding = c.padding == Case::Padding::kNone ? nullptr : padding.data();
    a.constant_stabilisers = c.constant;
    a.whole_stabiliser = c.whole;
    a.causal_epsilon = c.causal_epsilon;
    return a;
  }
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const FeatureKernel map : {FeatureKernel::kSoftmax, FeatureKernel::kRelu, FeatureKernel::kExp, FeatureKernel::kGelu, FeatureKernel::kNone})
    for (const bool causal : {false, true}) {
      const std::string name = std::to_string(static_cast<int>(map)) + (causal ? " causal" : "");
      Case c;
      c.map = map;
      c.causal = causal;
      c.name = name + " small";
      if (map == FeatureKernel::kGelu) c.epsilon = 1;  // sums of gelu may vanish
      all.push_back(c);
      c.padding = Case::Padding::kSome;
      c.name = name + " padding";
      all.push_back(c);
      c.padding = Case::Padding::kFirst;
      c.name = name + " leading padding";
      c.queries = c.keys = 150;
      all.push_back(c);
      c.padding = Case::Padding::kAll;
      c.name = name + " padding only";
      all.push_back(c);
      c.padding = Case::Padding::kSome;
      c.name = name + " several spans";
      c.batch = 2;
      c.heads = 1;
      c.head_dim = 17;
      c.value_dim = 9;
      c.features = 40;
      c.queries = c.keys = 700;
      all.push_back(c);
      c.padding = Case::Padding::kFirst;
      c.name = name + " several spans, the first ones padded";
      all.push_back(c);
      c.padding = Case::Padding::kNone;
      c.batch = 1;
      c.heads = 2;
      c.head_dim = c.value_dim = 64;
      c.features = 266;
      c.queries = c.keys = 130;
      c.name = name + " usual";
      all.push_back(c);
      c.queries = c.keys = 1;
      c.name = name + " one token";
      all.push_back(c);
      if (causal) continue;
      c.head_dim = 16;
      c.features = 31;
      c.queries = 3;
      c.keys = 200;
      c.name = name + " cross";
      all.push_back(c);
    }
  for (const bool causal : {false, true}) {
    Case c;
    c.causal = causal;
    c.name = causal ? "causal " : "";
    c.queries = c.keys = 300;
    c.epsilon = 0;
    const std::string prefix = c.name;
    c.name = prefix + "without epsilon";
    all.push_back(c);
    c.growth = 0.02;
    c.name = prefix + "without epsilon, keys grow";
    all.push_back(c);
    c.epsilon = 1e-4;
    c.sharpness = 3;
    c.name = prefix + "keys grow and sharpen";
    all.push_back(c);
    c.sharpness = 1;
    c.constant = true;
    c.name = prefix + "constant stabilisers";
    all.push_back(c);
    c.whole = true;
    c.causal_epsilon = 1e-2;
    c.name = prefix + "whole stabiliser";
    all.push_back(c);
    c.constant = false;
    c.heads = 1;
    c.queries = c.keys = 700;
    c.name = prefix + "whole stabiliser, differentiated, several spans";
    all.push_back(c);
  }
  return all;
}

double gelu(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }

// The definition for one query: weights of all pairs, features of every key made for that query.
std::vector<double> defined_row(const Case& c, const Inputs& in, const FeatureAttentionArgs& a, int64_t b, int64_t h, int64_t i) {
  const auto u_of = [&](const Rows& rows, int64_t n, int64_t f) {
    if (c.map == FeatureKernel::kNone) return rows.get(b, n, h, f);
    double u = 0;
    for (int64_t d = 0; d < c.head_dim; ++d) u += in.w.get(f * c.head_dim + d) * a.input_scale * rows.get(b, n, h, d);
    return u;
  };
  const auto half = [&](const Rows& rows, int64_t n) {
    double s = 0;
    for (int64_t d = 0; d < c.head_dim; ++d) s += rows.get(b, n, h, d) * rows.get(b, n, h, d);
    return s * a.input_scale * a.input_scale / 2;
  };
  const auto general = [&](double u) { return c.map == FeatureKernel::kRelu ? std::max(0.0, u) : c.map == FeatureKernel::kExp ? std::exp(u) : gelu(u); };
  std::vector<int64_t> met;
  double key_c = -INFINITY;
  for (int64_t j = 0; j < c.keys; ++j) {
    if (a.key_padding && in.padding[static_cast<size_t>(b * c.keys + j)]) continue;
    if (!c.causal || j <= i) met.push_back(j);
    if (!c.causal || j <= i || c.whole)
      for (int64_t f = 0; f < a.features; ++f) key_c = std::max(key_c, u_of(in.k, j, f));
  }
  double query_c = -INFINITY, query_sum = 0;
  for (int64_t f = 0; f < a.features; ++f) query_c = std::max(query_c, u_of(in.q, i, f));
  for (int64_t f = 0; f < a.features; ++f) query_sum += std::exp(u_of(in.q, i, f) - query_c);
  std::vector<double> numerator(static_cast<size_t>(c.value_dim));
  double denominator = 0;
  for (int64_t f = 0; f < a.features; ++f) {
    double phi_q = 0, feature_sum = 0;
    if (c.map == FeatureKernel::kSoftmax)
      phi_q = std::exp(u_of(in.q, i, f) - half(in.q, i) - query_c) + a.epsilon;
    else if (c.map == FeatureKernel::kNone)
      phi_q = std::exp(u_of(in.q, i, f) - query_c) / query_sum;
    else
      phi_q = general(u_of(in.q, i, f)) + a.epsilon;
    if (c.map == FeatureKernel::kNone && !c.causal)
      for (const int64_t j : met) feature_sum += std::exp(u_of(in.k, j, f));
    for (const int64_t j : met) {
      const double u = u_of(in.k, j, f);
      double phi_k = general(u) + a.epsilon;
      if (c.map == FeatureKernel::kSoftmax) phi_k = std::exp(u - half(in.k, j) - key_c) + a.epsilon;
      if (c.map == FeatureKernel::kNone) phi_k = c.causal ? std::exp(u) : std::exp(u) / feature_sum;
      denominator += phi_q * phi_k;
      for (int64_t d = 0; d < c.value_dim; ++d) numerator[static_cast<size_t>(d)] += phi_q * phi_k * in.v.get(b, j, h, d);
    }
    if (c.causal && !met.empty()) denominator += phi_q * a.causal_epsilon;
  }
  for (double& x : numerator) x = met.empty() ? 0 : x / denominator;
  return numerator;
}

TEST(FeatureAttention, TheReferenceIsTheDefinition) {
  Context ctx(kernel_table("reference"), DType::kF64, 1);
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    const Inputs in(c, DType::kF64);
    FeatureAttentionArgs a = in.args(c);
    Rows out(DType::kF64, c.batch, c.queries, c.heads, c.value_dim);
    a.out = out.view();
    ctx.kernels().feature_attention(a, ctx);
    const int64_t step = c.queries > 50 ? 37 : 1;
    for (int64_t b = 0; b < c.batch; ++b)
      for (int64_t h = 0; h < c.heads; ++h)
        for (int64_t i = 0; i < c.queries; i += step) {
          const std::vector<double> row = defined_row(c, in, a, b, h, i);
          for (int64_t d = 0; d < c.value_dim; ++d)
            ASSERT_NEAR(out.get(b, i, h, d), row[static_cast<size_t>(d)], 1e-11) << "batch " << b << " head " << h << " query " << i;
        }
  }
}

// An exponent of size s is off by about s eps, a positive sum of n terms by sqrt(n) eps of itself; gradients are sums of
// terms of either sign, so theirs is held against the largest.
TEST(FeatureAttention, EveryTableAgreesWithTheReference) {
  for (const Case& c : cases()) {
    double largest_exponent = 4;
    {
      const Inputs in(c, DType::kF64);
      for (const Rows* rows : {&in.q, &in.k}) {
        double square = 0;
        for (int64_t n = 0; n < rows->tokens; ++n) {
          double s = 0;
          for (int64_t d = 0; d < c.head_dim; ++d) s += rows->get(0, n, 0, d) * rows->get(0, n, 0, d);
          square = std::max(square, s);
        }
        largest_exponent = std::max(largest_exponent, square / std::sqrt(static_cast<double>(c.head_dim)) + 4 * std::sqrt(square));
      }
    }
    const double unit = kEps * (largest_exponent + std::sqrt(static_cast<double>(c.keys)));
    expect_like_reference(c.name, [&](const KernelTable& table, Context& ctx) {
      const Inputs in(c, table.dtype);
      FeatureAttentionArgs a = in.args(c);
      Rows out(table.dtype, c.batch, c.queries, c.heads, c.value_dim), dq(table.dtype, c.batch, c.queries, c.heads, c.head_dim),
          dk(table.dtype, c.batch, c.keys, c.heads, c.head_dim), dv(table.dtype, c.batch, c.keys, c.heads, c.value_dim);
      Rows inference = out;
      a.out = inference.view();
      table.feature_attention(a, ctx);
      a.out = out.view();
      Data state(table.dtype, table.feature_attention_state(a));
      a.state = state.p();
      table.feature_attention(a, ctx);
      table.feature_attention_backward({a, in.dout.view(), dq.view(), dk.view(), dv.view()}, ctx);
      EXPECT_TRUE(inference.data.same_bits(out.data));
      EXPECT_TRUE(state.guards_intact());
      const auto gradient = [&](const Rows& rows) { return Output{rows.data, 8 * unit * std::max(1.0, rows.data.largest())}; };
      return Outputs{{out.data, unit * in.v.data.largest()}, gradient(dq), gradient(dk), gradient(dv)};
    });
  }
}

TEST(FeatureAttention, NothingToDo) {
  for (const KernelTable* table : f32_tables()) {
    Context ctx(*table, DType::kF32, 2);
    for (const auto& [batch, queries, keys] : {std::array<int64_t, 3>{0, 4, 4}, {1, 0, 4}, {1, 4, 0}}) {
      Case c;
      c.batch = batch;
      c.queries = queries;
      c.keys = keys;
      const Inputs in(c, DType::kF32);
      FeatureAttentionArgs a = in.args(c);
      Rows out(DType::kF32, batch, queries, c.heads, c.value_dim), dq = out, dk(DType::kF32, batch, keys, c.heads, c.head_dim), dv = dk;
      for (int64_t i = 0; i < out.data.count(); ++i) out.data.set(i, 7);
      a.out = out.view();
      Data state(DType::kF32, table->feature_attention_state(a));
      a.state = state.p();
      table->feature_attention(a, ctx);
      table->feature_attention_backward({a, in.dout.view(), dq.view(), dk.view(), dv.view()}, ctx);
      for (int64_t n = 0; n < out.tokens * batch; ++n) EXPECT_EQ(out.get(0, n, 0, 0), 0) << "no key";
    }
  }
}

}  // namespace
}  // namespace fovea
