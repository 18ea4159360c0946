// Grouped attention in bfloat16: every f32 table against the reference, which rounds where they round.
#include "core/convert.h"
#include "kernels/attention_sizes.h"
#include "kernels/small_kernels.h"

namespace fovea::test {
namespace {

struct Case {
  std::string name;
  TokenGroups groups;
  int64_t batch = 2, heads = 2, head_dim = 32, queries = 0, keys = 0, memory = 0;
  bool bias = false, mask = false, padding = false, pad_rows = false, head_scale = false, lse = false;
  double sharpness = 1;  // factor on q, of rows
  int64_t sharp_from = 0, sharp_to = INT64_MAX;
};

Run tokens(int64_t begin, int64_t count) { return {static_cast<int32_t>(begin), 1, static_cast<int32_t>(count)}; }

// Queries against tokens and, behind them, memory rows.
void add_group(TokenGroups& groups, Run queries, Run keys, Run memory) {
  groups.begin_group();
  groups.add_query_run(queries);
  groups.add_key_run(keys);
  memory.source = RowSource::kMemory;
  groups.add_key_run(memory);
  groups.end_group();
}

Case global(int64_t queries, int64_t keys, int64_t head_dim) {
  Case c;
  c.name = fmt::format("global {} x {} x {}", queries, keys, head_dim);
  c.queries = queries;
  c.keys = keys;
  c.head_dim = head_dim;
  c.groups.begin_group();
  c.groups.add_query_run(tokens(0, queries));
  c.groups.add_key_run(tokens(0, keys));
  c.groups.end_group();
  c.groups.finish();
  return c;
}

// Stretches of `size` slots over a line whose end is padded, in two regions of labels.
Case windows(int64_t length, int32_t size, int64_t head_dim) {
  Case c;
  c.name = fmt::format("windows of {} over {} x {}", size, length, head_dim);
  c.queries = c.keys = length;
  c.head_dim = head_dim;
  for (int64_t begin = 0; begin < length; begin += size) {
    const int64_t count = std::min<int64_t>(size, length - begin);
    const Run pads{.count = static_cast<int32_t>(size - count), .source = RowSource::kPad};
    c.groups.begin_group();
    c.groups.add_query_run(tokens(begin, count));
    if (pads.count > 0) c.groups.add_query_run(pads);
    c.groups.add_key_run(tokens(begin, count));
    if (pads.count > 0) c.groups.add_key_run(pads);
    c.groups.end_group();
    for (int32_t i = 0; i < size; ++i) {
      c.groups.query_labels.push_back(i * 3 < size ? 0 : 1);
      c.groups.key_labels.push_back(i * 3 < size ? 0 : 1);
    }
  }
  c.groups.only_rule().region_penalty = -100;
  c.groups.finish();
  return c;
}

// Numbers of bfloat16 in rows with gaps, and the same in a table's type.
struct HeadRows {
  int64_t rows, token, batch;
  std::vector<uint16_t> rounded;
  Data wide;
  HeadRows(const Case& c, int64_t n, DType dtype, uint64_t tag, double scale = 1)
      : rows(n), token(c.heads * c.head_dim + 3), batch(n * token + 5), wide(random_data(dtype, c.batch * batch, tag, scale)) {
    for (int64_t i = 0; i < wide.count(); ++i) {
      const int64_t row = i % batch / token;
      const double blunted = row >= c.sharp_from && row < c.sharp_to ? 1 : scale;
      rounded.push_back(to_bf16(static_cast<float>(wide.get(i) / blunted)));
      wide.set(i, static_cast<double>(from_bf16(rounded.back())));
    }
  }
  ConstHeadsView view(const Case& c, bool bf16) const { return {bf16 ? static_cast<const void*>(rounded.data()) : wide.p(), batch, token, c.head_dim}; }
};

struct Result {
  std::vector<double> out, lse;
  bool same(const Result& other) const { return out == other.out && lse == other.lse; }
};

enum class Form { kFloats, kBf16, kBf16Out };
enum class Scores { kOfBf16, kOfIntegers };

Result run(const Case& c, const KernelTable& t, int threads, Form form, Scores scores = Scores::kOfBf16) {
  Context ctx(t, t.dtype, threads);
  const bool bf16 = form != Form::kFloats;
  const HeadRows q(c, c.queries, t.dtype, 1, c.sharpness), k(c, c.keys, t.dtype, 2), v(c, c.keys, t.dtype, 3), mk(c, c.memory, t.dtype, 4), mv(c, c.memory, t.dtype, 5);
  Data pad_k = random_data(t.dtype, c.heads * c.head_dim, 6), pad_v = random_data(t.dtype, c.heads * c.head_dim, 7);
  for (Data* pad : {&pad_k, &pad_v})
    for (int64_t i = 0; i < pad->count() && !bf16; ++i) pad->set(i, static_cast<double>(from_bf16(to_bf16(static_cast<float>(pad->get(i))))));
  const Data bias = random_data(t.dtype, c.heads * c.groups.bias_elements(), 8, 0.5), mask = random_data(t.dtype, c.queries * c.keys, 9, 0.5);
  const Data head_scale = random_data(t.dtype, c.heads, 10, 0.02, 0.2);
  std::vector<uint8_t> padding(static_cast<size_t>(c.batch * c.keys));
  for (size_t i = 0; i < padding.size(); ++i) padding[i] = i % 4 == 1;
  const int64_t token = c.heads * c.head_dim + 1, all = c.batch * c.queries * token;
  Data out(t.dtype, all, 3), lse(t.dtype, c.batch * c.heads * c.groups.query_slots);
  std::vector<uint16_t> out16(static_cast<size_t>(all), to_bf16(3));
  GroupedAttentionArgs a;
  set_sizes(c, a);
  if (c.head_scale) a.head_scale = head_scale.p();
  a.q = q.view(c, bf16);
  a.k = k.view(c, bf16);
  a.v = v.view(c, bf16);
  if (c.memory > 0) {
    a.memory_k = mk.view(c, bf16);
    a.memory_v = mv.view(c, bf16);
  }
  if (c.pad_rows) {
    a.pad_k = pad_k.p();
    a.pad_v = pad_v.p();
  }
  if (c.bias) a.bias = bias.p();
  if (c.mask) {
    a.mask = mask.p();
    a.mask_row_stride = c.keys;
  }
  if (c.padding) a.key_padding = padding.data();
  a.bf16 = bf16;
  a.int8_scores = scores == Scores::kOfIntegers;
  a.out_bf16 = form == Form::kBf16Out;
  a.out = {a.out_bf16 ? static_cast<void*>(out16.data()) : out.p(), c.queries * token, token, c.head_dim};
  if (c.lse) a.lse = lse.p();
  t.grouped_attention(a, ctx);
  EXPECT_EQ(ctx.scratch().used(), 0u);
  EXPECT_TRUE(out.guards_intact());
  Result r;
  for (int64_t i = 0; i < all; ++i) {
    r.out.push_back(a.out_bf16 ? static_cast<double>(from_bf16(out16[static_cast<size_t>(i)])) : out.get(i));
    if (i % token == token - 1) {
      EXPECT_EQ(r.out.back(), 3) << "written between rows";
    }
  }
  for (int64_t i = 0; i < lse.count(); ++i) r.lse.push_back(lse.get(i));
  return r;
}

double largest_difference(const std::vector<double>& x, const std::vector<double>& y) {
  double most = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double d = x[i] == y[i] ? 0 : std::fabs(x[i] - y[i]);
    if (!(d <= most)) most = d;
    if (std::isnan(most)) break;
  }
  return most;
}

double mean_difference(const std::vector<double>& x, const std::vector<double>& y) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += std::fabs(x[i] - y[i]);
  return sum / static_cast<double>(x.size());
}

// A weight's error before it is rounded comes from its score (8 eps of what the score was added up from, twice) and the power (3e-6). It
// seldom decides where a weight is rounded to, but may for each: 2^-8 of a mean of values. Results are much nearer to the reference than what is not rounded.
// Where an integer is a tie but for its own float rounding, as half of a row's greatest element is, it may go to either side.
void verify(const Case& c, Scores of = Scores::kOfBf16) {
  SCOPED_TRACE(c.name + (of == Scores::kOfIntegers ? " of integers" : ""));
  const KernelTable& reference = kernel_table("reference");
  const bool stores = c.groups.reduction == Reduction::kAssign;
  const Result exact = run(c, reference, 1, Form::kFloats), expected = run(c, reference, 1, Form::kBf16, of);
  const Result stored = stores ? run(c, reference, 1, Form::kBf16Out, of) : expected;
  const double values = HeadRows(c, std::max(c.keys, c.memory), DType::kF32, 3).wide.largest() + 4, scores = 8 * kEps * c.sharpness * 40 + 4e-6;
  const double rounding = mean_difference(exact.out, expected.out);
  const double level = of == Scores::kOfIntegers ? 4 * c.sharpness / 127 * 4 / std::sqrt(static_cast<double>(c.head_dim)) : 0;  // of a score
  EXPECT_LE(largest_difference(stored.out, expected.out), 0x1p-9 * values);
  for (const KernelTable* t : f32_tables()) {
    SCOPED_TRACE(std::string(t->name));
    for (const Form form : {Form::kBf16, Form::kBf16Out}) {
      if (form == Form::kBf16Out && !stores) continue;
      const bool floats = form == Form::kBf16;
      const Result one = run(c, *t, 1, form, of);
      EXPECT_LE(largest_difference(one.out, floats ? expected.out : stored.out), (0x1p-8 + 2 * scores + (floats ? 0 : 0x1p-8)) * values);
      EXPECT_LE(largest_difference(one.lse, expected.lse), scores * 4 + level);
      if (floats && c.keys > 16) {
        EXPECT_LT(mean_difference(one.out, expected.out), rounding / 4);
      }
      for (const int threads : {2, 3}) EXPECT_TRUE(run(c, *t, threads, form, of).same(one)) << threads << " threads";
    }
  }
}

TEST(Bf16Attention, GroupsOfManySizes) {
  for (const int64_t n : {1, 2, 5, 16, 31, 49, 65, 110, 197, 256}) verify(global(n, n + n % 2, 32));
  for (const int64_t d : {1, 7, 8, 16, 24, 40, 48, 64, 80, 104, 128, 136, 256}) verify(global(29, 49, d));
  verify(global(130, 600, 64));
}

TEST(Bf16Attention, WindowsWithEverything) {
  for (const int64_t d : {16, 32, 48}) {
    Case c = windows(150, 49, d);
    c.bias = c.pad_rows = true;
    verify(c);
    c.padding = c.lse = true;
    verify(c);
    c.pad_rows = false;
    c.head_scale = true;
    c.bias = false;
    verify(c);
  }
  Case c = global(70, 90, 32);
  c.bias = c.mask = true;
  verify(c);
}

// Scores beyond what one reference point serves, so that tiles are left to the slow way, some rows of a block or all.
TEST(Bf16Attention, LargeScores) {
  for (const double sharpness : {8.0, 30.0})
    for (const int64_t keys : {49, 197, 600}) {
      Case c = global(60, keys, 32);
      c.sharpness = sharpness;
      c.lse = keys == 197;
      verify(c);
    }
  for (const int64_t row : {0, 5, 23}) {  // the first or the second part of a tile, or some of both
    Case c = global(60, 49, 32);
    c.sharpness = 30;
    c.sharp_from = row;
    c.sharp_to = row + 5;
    verify(c);
  }
}

TEST(Bf16Attention, RulesMemoryAndReductions) {
  Case c = global(60, 60, 16);
  c.groups.only_rule().causal = true;
  verify(c);
  for (const Reduction reduction : {Reduction::kAssign, Reduction::kMean, Reduction::kMergeLse}) {
    c = global(50, 50, 24);
    c.memory = 9;
    c.groups = TokenGroups();
    c.groups.reduction = reduction;
    for (const int64_t half : {0, 1})  // rows from 40 on have no group
      add_group(c.groups, tokens(reduction == Reduction::kAssign ? half * 20 : 0, 20), tokens(half * 25, 25), tokens(half * 4, 4));
    c.groups.finish();
    verify(c);
  }
}

// Groups of fewer keys stay as they are; head_dims that are no multiple of 16 have no tiles.
TEST(Bf16Attention, ScoresOfIntegers) {
  for (const int64_t n : {97, 110, 128, 144, 197, 256}) verify(global(n + 1, n, 32), Scores::kOfIntegers);
  for (const int64_t d : {1, 7, 16, 24, 48, 64, 80, 104, 128, 136}) verify(global(29, 100, d), Scores::kOfIntegers);
  verify(global(530, 600, 64), Scores::kOfIntegers);  // several blocks of keys, several chunks of queries
  const Case few = global(96, 96, 32);
  EXPECT_TRUE(run(few, kernel_table("reference"), 1, Form::kBf16, Scores::kOfIntegers).same(run(few, kernel_table("reference"), 1, Form::kBf16)));
  verify(few, Scores::kOfIntegers);
  const Case more = global(97, 97, 32);
  EXPECT_FALSE(run(more, kernel_table("reference"), 1, Form::kBf16, Scores::kOfIntegers).same(run(more, kernel_table("reference"), 1, Form::kBf16)));
}

TEST(Bf16Attention, ScoresOfIntegersWithEverything) {
  for (const int64_t d : {16, 24, 48}) {
    Case c = windows(330, 144, d);
    c.bias = c.pad_rows = true;
    verify(c, Scores::kOfIntegers);
    c.padding = c.lse = true;
    verify(c, Scores::kOfIntegers);
    c.head_scale = true;
    c.pad_rows = c.bias = false;
    verify(c, Scores::kOfIntegers);
  }
  Case c = global(70, 150, 32);
  c.bias = c.mask = true;
  verify(c, Scores::kOfIntegers);
  c = global(60, 40, 32);
  c.memory = 80;
  c.groups = TokenGroups();
  add_group(c.groups, tokens(0, 60), tokens(0, 40), tokens(0, 80));
  c.groups.finish();
  verify(c, Scores::kOfIntegers);
}

TEST(Bf16Attention, LargeScoresOfIntegers) {
  for (const double sharpness : {8.0, 30.0})
    for (const int64_t keys : {110, 197, 600}) {
      Case c = global(60, keys, 32);
      c.sharpness = sharpness;
      c.lse = keys == 197;
      verify(c, Scores::kOfIntegers);
      c.sharp_from = 5;
      c.sharp_to = 11;
      verify(c, Scores::kOfIntegers);
    }
}

TEST(Bf16Attention, NotANumberIsNotHidden) {
  for_each_f32_table([](const KernelTable& t, Context& ctx) {
    for (const int64_t broken : {0, 1, 2, 3, 4}) {
      // The last two of integers, which a row's infinity takes with it.
      const int64_t n = broken < 3 ? 49 : 110, d = 32;
      std::vector<uint16_t> rows[3], out(static_cast<size_t>(n * d));
      for (auto& r : rows) r.assign(static_cast<size_t>(n * d), to_bf16(0.5f));
      using Limits = std::numeric_limits<float>;
      rows[broken % 3][static_cast<size_t>(35 * d + 3)] = to_bf16(broken < 3 ? Limits::quiet_NaN() : -Limits::infinity());
      const Case c = global(n, n, d);
      GroupedAttentionArgs a;
      a.groups = &c.groups;
      a.batch = a.heads = 1;
      a.head_dim = d;
      a.queries = a.keys = n;
      a.q = {rows[0].data(), 0, d, d};
      a.k = {rows[1].data(), 0, d, d};
      a.v = {rows[2].data(), 0, d, d};
      a.bf16 = a.out_bf16 = true;
      a.int8_scores = broken >= 3;
      a.out = {out.data(), 0, d, d};
      t.grouped_attention(a, ctx);
      for (int64_t i = 0; i < n; ++i)
        if (broken % 3 > 0 || i == 35) {
          EXPECT_TRUE(std::isnan(from_bf16(out[static_cast<size_t>(i * d + 3)]))) << "row " << i << " of " << broken;
        }
    }
  });
}

// ---- what stands beside it ------------------------------------------------------------------------------------------

TEST(Bf16Attention, UnitRowsInBf16) {
  for (const int64_t channels : {1, 3, 24, 32, 97})
    for (const bool in_place : {false, true})
      expect_like_reference(fmt::format("{} channels", channels), [&](const KernelTable& t, Context& ctx) {
        const int64_t rows = 21, stride = channels + 2;
        const Data x = random_data(DType::kF32, rows * stride, 1, 3.0);
        std::vector<uint16_t> from, other(static_cast<size_t>(rows * stride), to_bf16(7));
        for (int64_t i = 0; i < x.count(); ++i) from.push_back(to_bf16(static_cast<float>(i / stride == 4 ? 0 : x.get(i))));
        std::vector<uint16_t>& to = in_place ? from : other;
        Data norm(t.dtype, rows), y(t.dtype, rows * stride);
        UnitRowsArgs a;
        a.channels = channels;
        a.x_rows = a.y_rows = {rows, 1, stride, 0};
        a.x = from.data();
        a.y = to.data();
        a.bf16 = true;
        a.norm = norm.p();
        t.unit_rows(a, ctx);
        for (int64_t i = 0; i < y.count(); ++i) y.set(i, static_cast<double>(from_bf16(to[static_cast<size_t>(i)])));
        return Outputs{{y, 0x1p-8}, {norm, (6 + std::sqrt(static_cast<double>(channels))) * kEps * norm.largest()}};
      });
}

TEST(Bf16Attention, DepthwiseOfBf16) {
  for (const int64_t channels : {1, 24, 32, 97})
    expect_like_reference(fmt::format("{} channels", channels), [&](const KernelTable& t, Context& ctx) {
      const int64_t tokens = 7 * 10, stride = channels + 3;
      const Data numbers = random_data(DType::kF32, 2 * tokens * stride, 1), weight = random_data(t.dtype, 9 * channels, 2), residual = random_data(t.dtype, 2 * tokens * channels, 3);
      std::vector<uint16_t> x;
      for (int64_t i = 0; i < numbers.count(); ++i) x.push_back(to_bf16(static_cast<float>(numbers.get(i))));
      Data y(t.dtype, 2 * tokens * channels);
      Depthwise3x3Args a;
      a.batch = 2;
      a.channels = channels;
      a.height = a.block_h = 7;
      a.width = 10;
      a.block_w = 3;
      a.x = {x.data(), tokens * stride, stride, 0};
      a.x_bf16 = true;
      a.weight = weight.p();
      a.residual = {residual.p(), tokens * channels, channels, 0};
      a.y = {y.p(), tokens * channels, channels, 0};
      t.depthwise3x3(a, ctx);
      return Outputs{{y, 11 * kEps * 9 * weight.largest() * numbers.largest()}};
    });
}

}  // namespace
}  // namespace fovea::test
