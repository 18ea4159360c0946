// Cases of grouped attention: what groups can say, at sizes where tiles, blocks and threads are cut differently.
#include "kernels/grouped_attention_oracle.h"

namespace fovea {
namespace {

Run tokens(int64_t begin, int64_t count, int64_t stride = 1) {
  return {static_cast<int32_t>(begin), static_cast<int32_t>(stride), static_cast<int32_t>(count)};
}
Run free_tokens(int64_t begin, int64_t count, int64_t stride = 1) {
  Run run = tokens(begin, count, stride);
  run.free = true;
  return run;
}
Run pads(int32_t count) { return {.count = count, .source = RowSource::kPad}; }
Run memory_rows(int32_t begin, int32_t count) { return {.begin = begin, .count = count, .source = RowSource::kMemory}; }

void add_group(TokenGroups& g, const std::vector<Run>& queries, const std::vector<Run>& keys, int32_t rule = 0, int32_t bias = 0) {
  g.begin_group(rule, bias);
  for (const Run& r : queries) g.add_query_run(r);
  for (const Run& r : keys) g.add_key_run(r);
  g.end_group();
}

Case global(int64_t queries, int64_t keys, int64_t head_dim) {
  Case c;
  c.name = fmt::format("global {} x {} x {}", queries, keys, head_dim);
  c.queries = queries;
  c.keys = keys;
  c.head_dim = head_dim;
  add_group(c.groups, {tokens(0, queries)}, {tokens(0, keys)});
  c.groups.keys_disjoint = true;
  c.groups.finish();
  return c;
}

// Windows of side `w` over a height x width map that is padded to multiples of w and then rolled by `shift`; labels are the
// regions of Swin.
Case windows(int32_t height, int32_t width, int32_t w, int32_t shift) {
  Case c;
  c.name = fmt::format("windows {} of {} x {}, shift {}", w, height, width, shift);
  c.queries = c.keys = height * width;
  const int32_t h = (height + w - 1) / w * w, v = (width + w - 1) / w * w;
  const auto region = [&](int32_t i, int32_t length) { return shift == 0 || i < length - w ? 0 : i < length - shift ? 1 : 2; };
  for (int32_t y0 = 0; y0 < h; y0 += w) {
    for (int32_t x0 = 0; x0 < v; x0 += w) {
      std::vector<Run> runs;
      for (int32_t y = y0; y < y0 + w; ++y) {
        for (int32_t x = x0; x < x0 + w; ++x) {
          const int32_t from_y = (y + shift) % h, from_x = (x + shift) % v;
          runs.push_back(from_y < height && from_x < width ? tokens(from_y * width + from_x, 1) : pads(1));
          const int32_t label = 3 * region(y, h) + region(x, v);
          c.groups.query_labels.push_back(label);
          c.groups.key_labels.push_back(label);
        }
      }
      add_group(c.groups, runs, runs);
    }
  }
  c.groups.only_rule().region_penalty = -100;
  c.groups.keys_disjoint = true;
  c.groups.finish();
  return c;
}

TEST(GroupedAttention, GlobalOfOddSizes) {
  for (const int64_t n : {1, 2, 3, 31, 49, 197}) verify(global(n, n, 32));
  for (const int64_t d : {1, 24, 80, 256}) verify(global(31, 50, d));
}

// Tiles of all shapes: rows and keys that leave a rest, channels in one piece and in several.
TEST(GroupedAttention, TilesOfManyShapes) {
  for (const int64_t d : {4, 20, 48, 64, 112, 128})
    for (const int64_t n : {5, 16, 49, 110}) {
      Case c = global(n, n + 1, d);
      c.bias = n < 100;
      verify(c);
    }
}

TEST(GroupedAttention, ManyKeyBlocksStream) {
  for (const double sharpness : {1.0, 30.0}) {  // 30: reference points of rows must move from block to block
    Case c = global(70, 1100, 16);
    c.sharpness = sharpness;
    verify(c);
  }
}

TEST(GroupedAttention, OneLargeGroupIsCutBetweenThreads) {
  Case c = global(600, 600, 24);
  c.batch = c.heads = 1;
  c.head_scale = c.bias = true;
  verify(c, false);
  c.groups.only_rule().causal = true;
  c.name += ", causal";
  verify(c, false);
}

// Few keys: the queries are cut into parts with gradients of their own for the keys, each done in stretches.
TEST(GroupedAttention, ManyQueriesMeetFewKeys) {
  Case c = global(5000, 37, 16);
  c.batch = 1;
  c.padding = c.head_scale = true;
  verify(c);
  c = global(2100, 200, 8);  // several key blocks
  c.heads = 3;
  verify(c);
  c = global(4200, 5, 8);
  c.pad_rows = true;
  c.groups = TokenGroups();
  add_group(c.groups, {tokens(0, 4000)}, {tokens(0, 2), {.count = 3, .source = RowSource::kPad}, tokens(2, 1)});
  add_group(c.groups, {tokens(4000, 200)}, {tokens(3, 2)});  // too few queries for the parts
  c.groups.keys_disjoint = true;
  c.groups.finish();
  verify(c);
}

// More queries than a stretch holds against keys that are no few, with rules by position.
TEST(GroupedAttention, ManyQueriesAndKeys) {
  Case c = global(2200, 900, 8);
  c.batch = c.heads = 1;
  verify(c, false);
  c.groups.only_rule().band = 70;
  c.name += ", band";
  verify(c, false);
}

TEST(GroupedAttention, NothingToDo) {
  Case c = global(5, 7, 8);
  c.batch = 0;
  verify(c);
  verify(global(0, 7, 8));
  verify(global(5, 0, 8));
  c = global(9, 9, 8);
  c.groups = TokenGroups();
  add_group(c.groups, {tokens(0, 4)}, {});
  add_group(c.groups, {}, {tokens(0, 4)});
  add_group(c.groups, {tokens(4, 2)}, {tokens(4, 4)});  // rows 6.. belong to no group
  c.groups.finish();
  verify(c);
}

TEST(GroupedAttention, WindowsWithBiasAndLabels) {
  for (const int32_t shift : {0, 2}) {
    Case c = windows(8, 12, 4, shift);
    c.bias = true;
    verify(c);
  }
  Case c = windows(14, 14, 7, 3);
  c.bias = true;
  c.heads = 3;
  verify(c);
  c.groups.only_rule().region_penalty = -static_cast<float>(kInf);
  c.name += ", forbidden";
  verify(c);
  Case large = windows(36, 36, 18, 5);  // several chunks of queries and blocks of keys
  large.bias = true;
  verify(large);
}

TEST(GroupedAttention, PaddedWindows) {
  for (const bool given : {false, true}) {
    Case c = windows(9, 10, 4, 1);
    c.bias = true;
    c.pad_rows = given;
    verify(c);
  }
}

TEST(GroupedAttention, CausalWithShift) {
  for (const int32_t shift : {0, 19, -3}) {
    Case c = global(300, 320, 16);
    c.groups.only_rule().causal = true;
    c.groups.only_rule().query_position_shift = shift;
    c.name += fmt::format(", causal {}", shift);
    verify(c);
  }
}

TEST(GroupedAttention, BandAndDilation) {
  for (const int32_t dilation : {1, 3}) {
    for (const int32_t band : {0, 5, 40}) {
      for (const bool causal : {false, true}) {
        Case c = global(330, 330, 8);
        c.groups.only_rule().band = band;
        c.groups.only_rule().dilation = dilation;
        c.groups.only_rule().causal = causal;
        c.name += fmt::format(", band {} x {} {}", band, dilation, causal);
        verify(c);
      }
    }
  }
}

TEST(GroupedAttention, DilationCountsFromShiftedPositions) {
  for (const int32_t shift : {-7, 5}) {  // -7: positions before the first key
    Case c = global(60, 60, 8);
    c.groups.only_rule().band = 4;
    c.groups.only_rule().dilation = 3;
    c.groups.only_rule().query_position_shift = shift;
    c.name += fmt::format(", shift {}", shift);
    verify(c);
  }
}

TEST(GroupedAttention, SelfPenaltyAndPadding) {
  Case c = global(49, 49, 32);
  c.groups.only_rule().self_penalty = -5e4f;
  verify(c);
  c.groups.only_rule().self_penalty = 2;
  c.padding = true;
  verify(c);
  c.bias = true;
  verify(c);
}

TEST(GroupedAttention, AdditiveMask) {
  for (const bool rows_out : {false, true}) {
    Case c = global(35, 50, 24);
    c.mask = true;
    c.mask_rows_out = rows_out;
    c.head_scale = true;
    verify(c);
    c.groups.runs[1] = tokens(49, 50, -1);  // mask columns out of order
    verify(c);
  }
}

TEST(GroupedAttention, BiasTooLargeToLayOut) {
  Case c = global(1450, 1450, 4);
  c.batch = 1;
  c.bias = true;
  verify(c, false);
}

TEST(GroupedAttention, GroupsOfDifferentLengthsShareABias) {
  Case c = global(60, 60, 16);
  c.groups = TokenGroups();
  add_group(c.groups, {tokens(0, 20)}, {tokens(0, 20)});
  add_group(c.groups, {tokens(20, 7)}, {tokens(20, 33)});
  add_group(c.groups, {tokens(27, 33)}, {tokens(53, 7)});
  c.groups.keys_disjoint = true;
  c.groups.finish();
  c.bias = c.padding = true;
  verify(c);
}

TEST(GroupedAttention, RangesPerHeadAndBatch) {
  Case c = global(40, 40, 16);
  c.heads = 2;
  c.groups = TokenGroups();
  add_group(c.groups, {tokens(0, 20, 2)}, {tokens(0, 20, 2)});
  add_group(c.groups, {tokens(1, 20, 2)}, {tokens(1, 20, 2)});
  add_group(c.groups, {tokens(0, 40)}, {tokens(0, 13), tokens(20, 9)});
  add_group(c.groups, {tokens(30, 5)}, {tokens(0, 40)});
  c.groups.ranges = {{0, 2}, {2, 3}, {3, 4}, {0, 0}};
  c.groups.batches = 2;
  c.groups.heads = 2;
  c.groups.keys_disjoint = true;
  c.groups.finish();
  verify(c);
}

TEST(GroupedAttention, MemoryRowsAreNeverExcludedByARule) {
  for (const bool shared : {false, true}) {
    Case c = global(40, 40, 24);
    c.memory = 11;
    c.shared_memory = shared;
    c.batch = 5;  // their order shows in the sums of shared rows
    c.groups = TokenGroups();
    c.groups.only_rule().causal = true;
    c.groups.only_rule().band = 6;
    add_group(c.groups, {tokens(0, 18)}, {memory_rows(2, 9), tokens(0, 18)});
    add_group(c.groups, {tokens(18, 22)}, {memory_rows(0, 4), tokens(18, 22), memory_rows(7, 2)});
    c.groups.keys_disjoint = true;
    c.groups.finish();
    c.head_scale = true;
    verify(c);
  }
}

TEST(GroupedAttention, OneKeyHeadForAllHeads) {
  Case c = global(33, 20, 16);
  c.heads = 3;
  c.shared_kv_head = true;
  verify(c);
}

TEST(GroupedAttention, OverlappingGroups) {
  for (const Reduction reduction : {Reduction::kMean, Reduction::kMergeLse}) {
    Case c = global(150, 150, 24);
    c.groups = TokenGroups();
    c.groups.reduction = reduction;
    c.groups.mean_epsilon = 1e-2;
    add_group(c.groups, {tokens(0, 100)}, {tokens(0, 60)});
    add_group(c.groups, {tokens(40, 100), pads(3)}, {tokens(60, 40), pads(2)});
    add_group(c.groups, {tokens(10, 20, 3)}, {tokens(100, 40)});  // rows 140.. belong to no group
    c.groups.finish();
    verify(c);
    c.mask = c.mask_rows_out = true;
    c.bias = true;
    verify(c);
  }
}

// Keys in several blocks: what belongs to a whole row has to be collected over them.
TEST(GroupedAttention, LongOverlappingGroups) {
  for (const Reduction reduction : {Reduction::kMean, Reduction::kMergeLse}) {
    Case c = global(310, 310, 32);
    c.batch = 2;
    c.groups = TokenGroups();
    c.groups.reduction = reduction;
    add_group(c.groups, {tokens(0, 130)}, {tokens(0, 300)});
    add_group(c.groups, {tokens(100, 150)}, {tokens(10, 150), tokens(200, 110)});  // rows 250.. belong to no group
    c.groups.finish();
    verify(c);
  }
}

// Each group with a rule of its own, or none; prefix rows in free runs; a map whose prefix is no cell of it.
TEST(GroupedAttention, RulesPerGroupAndFreeRuns) {
  Case c = global(300, 300, 16);
  c.groups = TokenGroups();
  c.groups.rules.resize(2);
  c.groups.rules[0].causal = true;
  c.groups.rules[1].band = 3;
  c.groups.rules[1].dilation = 2;
  c.groups.rules[1].self_penalty = -0.5f;
  add_group(c.groups, {tokens(100, 120)}, {free_tokens(290, 7), tokens(0, 250), free_tokens(3, 4)}, 0);
  add_group(c.groups, {tokens(0, 100)}, {tokens(20, 200), free_tokens(0, 5, 2)}, 1);
  add_group(c.groups, {tokens(220, 60)}, {tokens(150, 150)}, -1);
  c.groups.finish();
  verify(c);
  c.padding = c.mask = true;
  verify(c);
}

TEST(GroupedAttention, BandsOnMaps) {
  for (const int32_t width : {1, 7, 19}) {
    for (const int32_t dilation : {1, 2}) {
      for (const int32_t band : {0, 1, 4}) {
        const int32_t height = 18, prefix = 3, n = prefix + height * width;
        Case c = global(n, n, 8);
        c.name += fmt::format(", map {} x {}, band {} x {}", height, width, band, dilation);
        c.groups = TokenGroups();
        PairRule& rule = c.groups.only_rule();
        rule.band = band;
        rule.dilation = dilation;
        rule.map_width = width;
        rule.first_row = prefix;
        add_group(c.groups, {tokens(0, prefix)}, {tokens(0, n)}, -1);
        add_group(c.groups, {tokens(prefix, n - prefix)}, {tokens(prefix, n - prefix), free_tokens(0, prefix)});
        c.groups.finish();
        verify(c, width == 7);
      }
    }
  }
}

TEST(GroupedAttention, AWildcardLabelDiffersFromNone) {
  Case c = windows(10, 10, 5, 2);
  for (size_t i = 0; i < c.groups.query_labels.size(); i += 7) c.groups.query_labels[i] = -1;
  for (size_t i = 3; i < c.groups.key_labels.size(); i += 5) c.groups.key_labels[i] = -1;
  c.groups.finish();
  c.bias = true;
  verify(c);
  std::fill(c.groups.query_labels.begin(), c.groups.query_labels.end(), -1);
  c.groups.finish();
  for (const TokenGroups::Group& g : c.groups.groups) EXPECT_FALSE(g.mixed_labels);
  verify(c);
}

// Several bias tables; groups without one do not count for their sizes.
TEST(GroupedAttention, ABiasForSomeGroups) {
  Case c = global(160, 160, 16);
  c.groups = TokenGroups();
  add_group(c.groups, {tokens(0, 9)}, {tokens(0, 160)}, 0, -1);
  add_group(c.groups, {tokens(9, 20)}, {tokens(9, 33)}, 0, 0);
  add_group(c.groups, {tokens(29, 20)}, {tokens(0, 17)}, 0, 1);
  add_group(c.groups, {tokens(49, 31)}, {tokens(29, 12)}, 0, 0);
  add_group(c.groups, {tokens(80, 7)}, {tokens(100, 60)}, 0, 1);
  c.groups.finish();
  ASSERT_EQ(c.groups.biases.size(), 2u);
  EXPECT_EQ(c.groups.biases[1].offset, 31 * 33);
  EXPECT_EQ(c.groups.bias_elements(), 31 * 33 + 20 * 60);
  c.bias = c.padding = true;
  verify(c);
  c.batch = 20;  // more units than chunks
  verify(c, false);
}

// Every kind of term as an exclusion, in a group that also has free keys, pads and memory.
TEST(GroupedAttention, ExcludedPairsHaveNoScore) {
  const int32_t n = 150;
  std::vector<int32_t> blocks, residues;
  for (int32_t i = 0; i < n; ++i) {
    blocks.push_back(i % 11 == 4 ? -1 : i / 16);
    residues.push_back(i % 5 == 2 ? 0 : -1);
  }
  const std::vector<PairTerm> terms = {
      PairTerm::partition(blocks),
      PairTerm::labels(blocks, blocks, -1, 2),
      PairTerm::labels(blocks, residues, -3, 0),
      PairTerm::band_of(9, 1),
      PairTerm::band_of(6, 3),
      PairTerm::band_on_map(2, 1, 13, 7),
      PairTerm::band_on_map(1, 2, 12, 6),
      PairTerm::keys(residues),
      PairTerm::queries(residues),
      PairTerm::all(true),
      PairTerm::partition(blocks, true),
      PairTerm::band_of(20, 1, true),
      PairTerm::keys(residues, true),
      PairTerm::queries(residues, true),
      PairTerm::all(),
  };
  for (size_t t = 0; t < terms.size(); ++t) {
    Case c = global(n, n, 8);
    c.name = fmt::format("term {}", t);
    c.memory = 4;
    c.groups = TokenGroups();
    c.groups.terms = {terms[t], terms[(t + 3) % terms.size()]};
    PairRule& rule = c.groups.only_rule();
    rule.exclusions = {{0, true}};
    if (t % 2 == 1) rule.exclusions.push_back({1, false});
    if (t % 3 == 1) rule.causal = true;
    if (t % 3 == 2) rule.band = 30;
    add_group(c.groups, {tokens(0, n)}, {tokens(0, 140), memory_rows(1, 3), free_tokens(140, 10), pads(2)});
    c.groups.finish();
    c.bias = t % 4 == 0;
    verify(c, t % 4 == 3);
  }
}

// Parts that exclude what earlier ones have are one softmax over the union.
TEST(GroupedAttention, AUnionCountsNoPairTwice) {
  const int32_t n = 90;
  std::vector<int32_t> blocks;
  for (int32_t i = 0; i < n; ++i) blocks.push_back(i / 20);
  std::vector<int32_t> strided(static_cast<size_t>(n), -1);
  for (int32_t i = 0; i < n; i += 7) strided[static_cast<size_t>(i)] = 0;
  Case c = global(n, n, 16);
  c.groups = TokenGroups();
  TokenGroups& g = c.groups;
  g.terms = {PairTerm::partition(blocks), PairTerm::band_of(8, 1), PairTerm::keys(strided)};
  g.rules.resize(3);
  g.rules[1].band = 8;
  g.rules[1].exclusions = {{0, true}};
  g.rules[2].exclusions = {{0, true}, {1, true}};
  g.reduction = Reduction::kMergeLse;
  for (int32_t at = 0; at < n; at += 20)
    add_group(g, {tokens(at, std::min(20, n - at))}, {tokens(at, std::min(20, n - at))}, 0, 0);
  add_group(g, {tokens(0, n)}, {tokens(0, n)}, 1, -1);
  add_group(g, {tokens(0, n)}, {tokens(0, 13, 7)}, 2, 1);
  g.finish();
  verify(c);
  c.bias = true;
  verify(c);
  // Without a bias it is one group with a mask.
  c.bias = false;
  Case dense = global(n, n, 16);
  dense.mask = true;
  Inputs a(c), b(dense);
  PairPattern pattern{g.terms};
  for (int64_t i = 0; i < static_cast<int64_t>(b.mask.size()); ++i) {
    const int64_t q = i / b.mask_row % n, k = i % b.mask_row;
    b.mask[static_cast<size_t>(i)] = k < n && pattern.contains(q, k) ? 0 : -static_cast<float>(kInf);
  }
  for (const NamedTable& t : tables()) {
    SCOPED_TRACE(t.name);
    Outputs x(c, a), y(dense, b);
    run(c, a, x, t.table, 1);
    run(dense, b, y, t.table, 1);
    const auto expect_close = [](const Rows& p, const Rows& q, const char* what) {
      p.for_each([&](int64_t i) { EXPECT_NEAR(p.data[static_cast<size_t>(i)], q.data[static_cast<size_t>(i)], 1e-5) << what; });
    };
    expect_close(x.out, y.out, "out");
    expect_close(x.dq, y.dq, "dq");
    expect_close(x.dk, y.dk, "dk");
    expect_close(x.dv, y.dv, "dv");
  }
}

TEST(GroupedAttention, ExtremeScoresStayFinite) {
  for (const double sharpness : {200.0, 2000.0}) {
    Case c = global(37, 300, 8);
    c.sharpness = sharpness;
    verify(c);
  }
}

TEST(GroupedAttention, NotANumberIsNotHidden) {
  for (const NamedTable& t : tables()) {
    SCOPED_TRACE(t.name);
    const Case c = global(20, 40, 16);
    Inputs in(c);
    in.k.data[static_cast<size_t>(in.k.at(0, 0, 35, 3))] = std::numeric_limits<float>::quiet_NaN();
    Outputs o(c, in);
    run(c, in, o, t.table, 1);
    for (int64_t n = 0; n < c.queries; ++n)
      EXPECT_TRUE(std::isnan(o.out.data[static_cast<size_t>(o.out.at(0, 0, n, 7))])) << "row " << n;
    EXPECT_FALSE(std::isnan(o.out.data[static_cast<size_t>(o.out.at(1, 0, 0, 7))]));
  }
}

}  // namespace
}  // namespace fovea
