#include "weights/key_map.h"

#include <gmock/gmock.h>

#include <numeric>

#include "weights/round_trip.h"
#include "weights/strict_load.h"
#include "weights/weight_fixtures.h"

namespace fovea {
namespace {

using testing::error_of;
using testing::zeros;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;
using ::testing::Not;

using Entries = std::vector<std::pair<std::string, Shape>>;

std::string text_of(const RecognisedModel& m, const std::string& key) { return std::get<std::string>(m.facts.at(key)); }

std::vector<std::string> names_of(const MappedWeights& w) {
  std::vector<std::string> out;
  for (const MappedTensor& t : w.tensors) out.push_back(t.name);
  return out;
}

TEST(MatchKey, PlaceholdersStandForNumbersAndRests) {
  EXPECT_THAT(*match_key("a.{i}.b.{j}", "a.12.b.0"), ElementsAre("12", "0"));
  EXPECT_THAT(*match_key("a.{*}.w", "a.b.c.w"), ElementsAre("b.c"));
  EXPECT_THAT(*match_key("{*}", ""), ElementsAre(""));
  EXPECT_TRUE(match_key("a", "a").has_value());
  for (const char* name : {"a..b", "a.x.b", "a.1.bc", "a.1", "xa.1.b", ""}) EXPECT_FALSE(match_key("a.{i}.b", name)) << name;
}

constexpr auto kNever = [](const WeightFile&) -> std::optional<RecognisedModel> { return std::nullopt; };

TEST(MapKeys, RenamesShiftsJoinsIgnoresAndReportsTheRest) {
  const Dialect dialect{"test",
                        {{"s.{i}.up.{*}", "stage.{i+1}.up.{*}"},
                         {"l.{i}.q.weight", "b.{i}.qkv", nullptr, 0, 3},
                         {"l.{i}.k.weight", "b.{i}.qkv", nullptr, 1, 3},
                         {"l.{i}.v.weight", "b.{i}.qkv", nullptr, 2, 3}},
                        {"mask.{i}"},
                        kNever};
  RecognisedModel model;
  model.dialect = &dialect;
  std::vector<float> data(64);
  std::iota(data.begin(), data.end(), 0.0f);
  const auto* bytes = std::as_bytes(std::span(data)).data();
  const WeightFile file("memory", "test",
                        {{"l.0.v.weight", StoredType::kF32, {2, 2}, bytes + 32, {}}, {"s.9.up.w", StoredType::kF32, {1}, bytes, {}},
                         {"l.0.q.weight", StoredType::kF32, {1, 2}, bytes, {}}, {"l.0.k.weight", StoredType::kF32, {1, 2}, bytes + 16, {}},
                         {"mask.3", StoredType::kF32, {1}, bytes, {}}, {"other", StoredType::kF32, {1}, bytes, {}}},
                        {}, nullptr);
  const MappedWeights mapped = map_keys(file, model);
  EXPECT_THAT(names_of(mapped), ElementsAre("b.0.qkv", "stage.10.up.w"));
  EXPECT_THAT(mapped.ignored, ElementsAre("mask.3"));
  EXPECT_THAT(mapped.unmatched, ElementsAre("other"));
  const MappedTensor& qkv = *mapped.find("b.0.qkv");
  EXPECT_EQ(qkv.shape, (Shape{4, 2}));
  std::vector<double> values(8);
  qkv.read(values.data());
  EXPECT_THAT(values, ElementsAre(0, 1, 4, 5, 8, 9, 10, 11));
}

TEST(MapKeys, MissingAndDoubledPartsAreErrors) {
  const Dialect dialect{"test",
                        {{"q.{i}", "qkv.{i}", nullptr, 0, 2}, {"k.{i}", "qkv.{i}", nullptr, 1, 2}, {"old", "same"}, {"new", "same"}},
                        {},
                        kNever};
  RecognisedModel model;
  model.dialect = &dialect;
  EXPECT_THAT(error_of([&] { map_keys(zeros({{"q.0", {1, 2}}}), model); }), HasSubstr("'qkv.0' needs 2 tensors"));
  EXPECT_THAT(error_of([&] { map_keys(zeros({{"q.0", {1, 2}}, {"k.0", {1, 3}}}), model); }), HasSubstr("cannot be joined"));
  EXPECT_THAT(error_of([&] { map_keys(zeros({{"old", {1}}, {"new", {1}}}), model); }), HasSubstr("two names of one parameter (same)"));
}

TEST(RenameKey, GoesBothWays) {
  EXPECT_EQ(rename_key("s.{i}.up.{*}", "t.{i+1}.up.{*}", "s.9.up.w"), "t.10.up.w");
  EXPECT_EQ(rename_key("t.{i+1}.up.{*}", "s.{i}.up.{*}", "t.10.up.w"), "s.9.up.w");
  EXPECT_FALSE(rename_key("t.{i+1}.w", "s.{i}.w", "t.0.w").has_value());
  EXPECT_FALSE(rename_key("a.{i}", "b.{j}", "a.1").has_value());
  EXPECT_FALSE(rename_key("a.{i+1}", "b.{i}", "a.99999999999999999999").has_value());
}

std::vector<double> read_all(const MappedTensor& t) {
  std::vector<double> out(static_cast<size_t>(t.shape.elements()));
  t.read(out.data());
  return out;
}

// (rows, columns) as its transpose.
WeightTensor transposed(const WeightTensor& t, const RecognisedModel&) {
  WeightTensor out = t;
  out.shape = {t.shape[1], t.shape[0]};
  out.strides = t.strides.empty() ? std::vector<int64_t>{1, t.shape[1]} : std::vector<int64_t>{t.strides[1], t.strides[0]};
  return out;
}

TEST(WriteAs, UndoesWhatReadingDoes) {
  const Dialect dialect{"test",
                        {{"s.{i}.up.{*}", "stage.{i+1}.up.{*}"},
                         {"l.{i}.q", "b.{i}.qkv", transposed, 0, 3, transposed},
                         {"l.{i}.k", "b.{i}.qkv", transposed, 1, 3, transposed},
                         {"l.{i}.query", "b.{i}.qkv", transposed, 0, 3, transposed},  // an older name: read, never written
                         {"l.{i}.v", "b.{i}.qkv", transposed, 2, 3, transposed},
                         {"n.{i}.bias", "b.{i}.q_bias", nullptr, 0, 1, nullptr, 0, 3},
                         {"n.{i}.bias", "b.{i}.v_bias", nullptr, 0, 1, nullptr, 2, 3},
                         {"head.{*}", "head.fc.{*}"},
                         {"only.read", "fixed", transposed},
                         {"{*}", "{*}"}},
                        {},
                        kNever};
  RecognisedModel model;
  model.dialect = &dialect;
  std::vector<float> data(64);
  std::iota(data.begin(), data.end(), 1.0f);
  const auto* bytes = std::as_bytes(std::span(data)).data();
  const std::vector<WeightTensor> ours{{"stage.3.up.w", StoredType::kF32, {2}, bytes, {}},
                                       {"b.1.qkv", StoredType::kF32, {6, 4}, bytes, {}},
                                       {"b.1.q_bias", StoredType::kF32, {2}, bytes + 128, {}},
                                       {"b.1.v_bias", StoredType::kF32, {2}, bytes + 136, {}},
                                       {"head.fc.w", StoredType::kF32, {1}, bytes, {}},
                                       {"norm", StoredType::kF32, {1}, bytes, {}}};
  const std::vector<MappedTensor> written = write_as(dialect, ours, model);
  std::vector<std::string> names;
  std::vector<WeightTensor> tensors;
  std::vector<std::vector<float>> memory;
  for (const MappedTensor& t : written) {
    names.push_back(t.name);
    auto& values = memory.emplace_back(static_cast<size_t>(t.shape.elements()));
    t.read(values.data());
    tensors.push_back({t.name, StoredType::kF32, t.shape, std::as_bytes(std::span(values)).data(), {}});
  }
  EXPECT_THAT(names, ElementsAre("s.2.up.w", "l.1.q", "l.1.k", "l.1.v", "n.1.bias", "head.w", "norm"));
  EXPECT_THAT(read_all(written[2]), ElementsAre(9, 13, 10, 14, 11, 15, 12, 16));
  EXPECT_THAT(read_all(written[4]), ElementsAre(33, 34, 0, 0, 35, 36));  // the middle slice is nobody's

  const MappedWeights back = map_keys(WeightFile("memory", "test", tensors, {}, nullptr), model);
  ASSERT_EQ(back.tensors.size(), ours.size());
  for (const WeightTensor& t : ours) {
    const MappedTensor* b = back.find(t.name);
    ASSERT_NE(b, nullptr) << t.name;
    EXPECT_EQ(b->shape, t.shape);
    std::vector<double> values(static_cast<size_t>(t.elements()));
    t.read(values.data());
    EXPECT_EQ(read_all(*b), values) << t.name;
  }
}

TEST(WriteAs, RefusesWhatADialectHasNoNameFor) {
  const Dialect dialect{"test", {{"head.{*}", "head.fc.{*}"}, {"a.{i}", "b.{i+1}"}, {"c", "d", transposed}, {"{*}", "x.{*}"}}, {}, kNever};
  RecognisedModel model;
  const auto writing = [&](const std::string& name) {
    return error_of([&] { write_as(dialect, std::vector<WeightTensor>{{name, StoredType::kF32, {1}, nullptr, {}}}, model); });
  };
  EXPECT_EQ(writing("b.0"), "the model cannot be written as test, which has no name for 1 of its tensors: 'b.0'");
  EXPECT_THAT(writing("d"), HasSubstr("no name"));           // the rule for it only reads
  EXPECT_THAT(writing("x.head.w"), HasSubstr("no name"));    // head.w would come back as head.fc.w
}

TEST(MapKeys, AViewOfMoreDimensionsThanItsShape) {
  std::vector<float> data(24);
  std::iota(data.begin(), data.end(), 0.0f);
  WeightTensor t{"t", StoredType::kF32, {2, 12}, std::as_bytes(std::span(data)).data(), {12, 1, 4}, false, {2, 4, 3}};
  std::vector<float> out(24);
  t.read(out.data());
  EXPECT_THAT(std::vector<float>(out.begin(), out.begin() + 6), ElementsAre(0, 4, 8, 1, 5, 9));
  EXPECT_EQ(out[12], 12);
  const WeightTensor second = rows_of(t, 1, 2);
  EXPECT_EQ(second.shape, (Shape{1, 12}));
  second.read(out.data());
  EXPECT_THAT(std::vector<float>(out.begin(), out.begin() + 6), ElementsAre(12, 16, 20, 13, 17, 21));
}

Entries timm_vit(int64_t dim, int64_t depth) {
  Entries e{{"cls_token", {1, 1, dim}}, {"pos_embed", {1, 197, dim}}, {"patch_embed.proj.weight", {dim, 3, 16, 16}},
            {"patch_embed.proj.bias", {dim}}, {"norm.weight", {dim}}, {"norm.bias", {dim}}, {"head.weight", {10, dim}}, {"head.bias", {10}}};
  for (int64_t i = 0; i < depth; ++i) {
    const std::string b = fmt::format("blocks.{}.", i);
    e.insert(e.end(), {{b + "norm1.weight", {dim}}, {b + "attn.qkv.weight", {3 * dim, dim}}, {b + "attn.qkv.bias", {3 * dim}},
                       {b + "mlp.fc1.weight", {4 * dim, dim}}});
  }
  return e;
}

TEST(Recognise, TimmVitAndDeit) {
  const RecognisedModel vit = require_recognised(zeros(timm_vit(192, 11)));
  EXPECT_EQ(vit.kind, "vit");
  EXPECT_EQ(vit.dialect->name, "timm");
  EXPECT_EQ(vit.integer("dim"), 192);
  EXPECT_EQ(vit.integer("depth"), 11);
  EXPECT_EQ(vit.integer("patch_size"), 16);
  EXPECT_EQ(vit.integer("in_channels"), 3);
  EXPECT_EQ(vit.integer("image_size"), 224);
  EXPECT_EQ(vit.integer("attention_width"), 192);
  EXPECT_EQ(vit.integer("mlp_width"), 768);
  EXPECT_EQ(vit.integer("num_classes"), 10);
  EXPECT_EQ(vit.integer("num_heads"), 3);
  EXPECT_EQ(vit.integer("qkv_bias"), 1);
  EXPECT_EQ(text_of(vit, "pool"), "token");
  EXPECT_THAT(vit.assumed, Contains("num_heads"));
  EXPECT_THAT(vit.unknown, ElementsAre("mean", "std"));

  Entries e = timm_vit(192, 2);
  e[1].second = {1, 198, 192};
  e.insert(e.end(), {{"dist_token", {1, 1, 192}}, {"head_dist.weight", {10, 192}}, {"head_dist.bias", {10}}});
  const RecognisedModel deit = require_recognised(zeros(e));
  EXPECT_EQ(deit.kind, "deit_distilled");
  EXPECT_EQ(deit.integer("image_size"), 224);
  EXPECT_EQ(deit.integer("prefix_tokens"), 2);
}

TEST(Recognise, ATimmVitWithOddWidthsLeavesTheHeadsOpen) {
  const RecognisedModel m = require_recognised(zeros(timm_vit(100, 1)));
  EXPECT_FALSE(m.facts.contains("num_heads"));
  EXPECT_THAT(m.unknown, Contains("num_heads"));
}

Entries swin(bool timm) {
  Entries e{{"patch_embed.proj.weight", {8, 3, 4, 4}}};
  const int64_t depths[] = {2, 3, 1};
  for (int64_t s = 0; s < 3; ++s) {
    for (int64_t b = 0; b < depths[s]; ++b) {
      const std::string n = fmt::format("layers.{}.blocks.{}.", s, b);
      e.insert(e.end(), {{n + "attn.qkv.weight", {24 << s, 8 << s}}, {n + "attn.relative_position_bias_table", {s == 2 ? 25 : 169, 2 << s}},
                         {n + "attn.relative_position_index", {49, 49}}, {n + "attn_mask", {4, 49, 49}}});
    }
    if (s < 2) e.push_back({fmt::format("layers.{}.downsample.reduction.weight", timm ? s + 1 : s), {16 << s, 32 << s}});
  }
  e.push_back({timm ? "head.fc.weight" : "head.weight", {5, 32}});
  return e;
}

TEST(Recognise, SwinInBothLayouts) {
  for (bool timm : {true, false}) {
    const WeightFile file = zeros(swin(timm));
    const RecognisedModel m = require_recognised(file);
    EXPECT_EQ(m.dialect->name, timm ? "timm" : "microsoft-swin");
    EXPECT_EQ(m.kind, "swin");
    EXPECT_EQ(text_of(m, "depths"), "2,3,1");
    EXPECT_EQ(text_of(m, "num_heads"), "2,4,8");
    EXPECT_EQ(text_of(m, "window_sizes"), "7,7,3");
    EXPECT_EQ(m.integer("num_classes"), 5);
    const MappedWeights mapped = map_keys(file, m);
    EXPECT_THAT(names_of(mapped), IsSupersetOf({"layers.1.downsample.reduction.weight", "layers.2.downsample.reduction.weight", "head.fc.weight"}));
    EXPECT_THAT(names_of(mapped), Not(Contains("layers.0.blocks.0.attn.relative_position_index")));
    EXPECT_EQ(mapped.ignored.size(), 12u);
    EXPECT_TRUE(mapped.unmatched.empty());
  }
}

Entries cswin(int64_t dim) {
  Entries e{{"stage1_conv_embed.0.weight", {dim, 3, 7, 7}}, {"stage1_conv_embed.2.weight", {dim}}, {"norm.weight", {8 * dim}}, {"head.weight", {5, 8 * dim}}};
  const int64_t depths[] = {1, 2, 3, 1};
  for (int64_t s = 0; s < 4; ++s)
    for (int64_t b = 0; b < depths[s]; ++b) {
      const std::string n = fmt::format("stage{}.{}.", s + 1, b);
      const int64_t c = dim << s;
      e.insert(e.end(), {{n + "qkv.weight", {3 * c, c}}, {n + "qkv.bias", {3 * c}}, {n + "attns.0.get_v.weight", {s == 3 ? c : c / 2, 1, 3, 3}},
                         {n + "mlp.fc1.weight", {4 * c, c}}});
      if (s < 3) e.push_back({n + "attns.1.get_v.weight", {c / 2, 1, 3, 3}});
      if (s < 3 && b == 0) e.push_back({fmt::format("merge{}.conv.weight", s + 1), {2 * c, c, 3, 3}});
    }
  return e;
}

TEST(Recognise, CSwinWhoseHeadsGoWithItsWidth) {
  const WeightFile file = zeros(cswin(96));
  const RecognisedModel m = require_recognised(file);
  EXPECT_EQ(m.dialect->name, "microsoft-cswin");
  EXPECT_EQ(m.kind, "cswin");
  EXPECT_EQ(text_of(m, "depths"), "1,2,3,1");
  EXPECT_EQ(text_of(m, "branches"), "2,2,2,1");
  EXPECT_EQ(text_of(m, "num_heads"), "4,8,16,32");
  EXPECT_EQ(m.integer("mlp_width"), 384);
  EXPECT_EQ(m.integer("num_classes"), 5);
  EXPECT_EQ(m.integer("qkv_bias"), 1);
  EXPECT_THAT(m.assumed, IsSupersetOf({"num_heads", "norm_eps"}));
  EXPECT_THAT(m.unknown, IsSupersetOf({"stripes", "image_size"}));
  const MappedWeights mapped = map_keys(file, m);
  EXPECT_TRUE(mapped.unmatched.empty());
  EXPECT_THAT(names_of(mapped), IsSupersetOf({"stage3.2.attns.1.get_v.weight", "merge3.conv.weight", "head.weight"}));
  EXPECT_THAT(require_recognised(zeros(cswin(8))).unknown, Contains("num_heads"));
}

// Version 2 with the buffers that its official files hold, or without them as timm writes it.
Entries swin_v2(bool timm) {
  Entries e{{"patch_embed.proj.weight", {8, 3, 4, 4}}};
  for (int64_t s = 0; s < 2; ++s) {
    for (int64_t b = 0; b < 2; ++b) {
      const std::string n = fmt::format("layers.{}.blocks.{}.", s, b);
      e.insert(e.end(), {{n + "attn.qkv.weight", {24 << s, 8 << s}}, {n + "attn.logit_scale", {2 << s, 1, 1}}, {n + "attn.q_bias", {8 << s}},
                         {n + "attn.v_bias", {8 << s}}, {n + "attn.cpb_mlp.0.weight", {512, 2}}, {n + "attn.cpb_mlp.0.bias", {512}},
                         {n + "attn.cpb_mlp.2.weight", {2 << s, 512}}});
      if (!timm) e.insert(e.end(), {{n + "attn.relative_coords_table", {1, s == 0 ? 15 : 7, s == 0 ? 15 : 7, 2}},
                                    {n + "attn.relative_position_index", {s == 0 ? 64 : 16, s == 0 ? 64 : 16}}, {n + "attn_mask", {4, 64, 64}}});
    }
    if (s == 0) e.push_back({fmt::format("layers.{}.downsample.reduction.weight", timm ? 1 : 0), {16, 32}});
  }
  e.push_back({timm ? "head.fc.weight" : "head.weight", {5, 16}});
  return e;
}

TEST(Recognise, SwinV2InBothLayouts) {
  for (bool timm : {true, false}) {
    const WeightFile file = zeros(swin_v2(timm));
    const RecognisedModel m = require_recognised(file);
    EXPECT_EQ(m.dialect->name, timm ? "timm" : "microsoft-swin");
    EXPECT_EQ(m.kind, "swin_v2");
    EXPECT_EQ(m.integer("swin_version"), 2);
    EXPECT_EQ(m.integer("qkv_bias"), 1);
    EXPECT_EQ(text_of(m, "num_heads"), "2,4");
    if (timm) EXPECT_THAT(m.unknown, Contains("window_sizes"));
    else EXPECT_EQ(text_of(m, "window_sizes"), "8,4");
    EXPECT_FALSE(m.facts.contains("pretrained_windows"));  // the buffers of this file are zeros
    const MappedWeights mapped = map_keys(file, m);
    EXPECT_THAT(names_of(mapped), IsSupersetOf({"layers.1.downsample.reduction.weight", "head.fc.weight", "layers.1.blocks.1.attn.logit_scale"}));
    EXPECT_EQ(mapped.ignored.size(), timm ? 0u : 12u);
    EXPECT_TRUE(mapped.unmatched.empty());
  }
}

Entries lucidrains(bool current) {
  const std::string proj = current ? "to_patch_embedding.2." : "to_patch_embedding.1.";
  Entries e{{"pos_embedding", {1, 50, 8}}, {"cls_token", {1, 1, 8}}, {proj + "weight", {8, 48}}, {proj + "bias", {8}}};
  if (current)
    e.insert(e.end(), {{"to_patch_embedding.1.weight", {48}}, {"to_patch_embedding.1.bias", {48}}, {"to_patch_embedding.3.weight", {8}},
                       {"transformer.norm.weight", {8}}, {"mlp_head.weight", {10, 8}}});
  else
    e.insert(e.end(), {{"mlp_head.0.weight", {8}}, {"mlp_head.1.weight", {10, 8}}});
  for (int i = 0; i < 2; ++i) {
    const std::string l = fmt::format("transformer.layers.{}.", i), fn = current ? "" : "fn.";
    e.insert(e.end(), {{l + "0.norm.weight", {8}}, {l + "0." + fn + "to_qkv.weight", {384, 8}}, {l + "0." + fn + "to_out.0.weight", {8, 128}},
                       {l + (current ? "1.net.0.weight" : "1.norm.weight"), {8}},
                       {l + (current ? "1.net.1.weight" : "1.fn.net.0.weight"), {16, 8}},
                       {l + (current ? "1.net.4.weight" : "1.fn.net.3.weight"), {8, 16}}});
  }
  return e;
}

TEST(Recognise, LucidrainsOldAndCurrentNames) {
  for (bool current : {false, true}) {
    const WeightFile file = zeros(lucidrains(current));
    const RecognisedModel m = require_recognised(file);
    EXPECT_EQ(m.dialect->name, current ? "lucidrains-vit-patch-norm" : "lucidrains-vit");
    EXPECT_EQ(m.integer("patch_size"), 4);
    EXPECT_EQ(m.integer("in_channels"), 3);
    EXPECT_EQ(m.integer("image_size"), 28);
    EXPECT_EQ(m.integer("attention_width"), 128);
    EXPECT_EQ(m.integer("num_heads"), 2);
    EXPECT_EQ(m.integer("mlp_width"), 16);
    EXPECT_EQ(m.integer("num_classes"), 10);
    const MappedWeights mapped = map_keys(file, m);
    EXPECT_TRUE(mapped.unmatched.empty());
    EXPECT_THAT(names_of(mapped), IsSupersetOf({"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.1.norm1.weight",
                                                "blocks.1.attn.qkv.weight", "blocks.1.attn.proj.weight", "blocks.1.norm2.weight",
                                                "blocks.1.mlp.fc1.weight", "blocks.1.mlp.fc2.weight", "norm.weight", "head.weight"}));
  }
}

TEST(MapKeys, LucidrainsPatchesBecomeAConvolution) {
  std::vector<float> data(8 * 12);
  std::iota(data.begin(), data.end(), 0.0f);
  WeightFile plain = zeros(lucidrains(false));
  std::vector<WeightTensor> tensors(plain.tensors().begin(), plain.tensors().end());
  for (WeightTensor& t : tensors)
    if (t.name == "to_patch_embedding.1.weight") t = {t.name, StoredType::kF32, {8, 12}, std::as_bytes(std::span(data)).data(), {}};
  const WeightFile file("memory", "test", tensors, {}, nullptr);
  const MappedWeights mapped = map_keys(file, require_recognised(file));
  const MappedTensor& conv = *mapped.find("patch_embed.proj.weight");
  ASSERT_EQ(conv.shape, (Shape{8, 3, 2, 2}));
  std::vector<float> out(96);
  conv.read(out.data());
  for (int o = 0; o < 8; ++o)
    for (int c = 0; c < 3; ++c)
      for (int y = 0; y < 2; ++y)
        for (int x = 0; x < 2; ++x)
          EXPECT_EQ(out[static_cast<size_t>(((o * 3 + c) * 2 + y) * 2 + x)], static_cast<float>(o * 12 + (y * 2 + x) * 3 + c));
}

TEST(Recognise, AnUnknownSchemeIsNamed) {
  const WeightFile file = zeros({{"conv1.weight", {1}}, {"bn1.weight", {1}}});
  EXPECT_FALSE(recognise(file).has_value());
  const std::string message = error_of([&] { require_recognised(file); });
  EXPECT_THAT(message, HasSubstr("2 tensors ('conv1.weight', 'bn1.weight')"));
  EXPECT_THAT(message, HasSubstr("microsoft-swin"));
}

TEST(RoundTrip, EveryDialectWritesWhatItReads) {
  testing::expect_round_trip(testing::numbered(timm_vit(192, 2)));
  for (bool timm : {false, true}) testing::expect_round_trip(testing::numbered(swin(timm)));
  for (bool timm : {false, true}) testing::expect_round_trip(testing::numbered(swin_v2(timm)));
  testing::expect_round_trip(testing::numbered(cswin(96)));
  for (bool current : {false, true}) testing::expect_round_trip(testing::numbered(lucidrains(current)));
}

Entries renamed(Entries e, const std::string& from, const std::string& to) {
  for (auto& [name, shape] : e)
    if (name.starts_with(from)) name = to + name.substr(from.size());
  return e;
}

TEST(Recognise, AModelInsideALargerOneIsFoundAndTheRestIsBeside) {
  Entries e{{"decoder.conv.weight", {1}}};
  for (const auto& [name, shape] : timm_vit(192, 2)) e.emplace_back("net.trunk." + name, shape);
  const WeightFile file = zeros(e);
  const RecognisedModel m = require_recognised(file);
  EXPECT_EQ(m.prefix, "net.trunk.");
  EXPECT_EQ(m.integer("depth"), 2);
  const MappedWeights mapped = map_keys(file, m);
  EXPECT_THAT(mapped.beside, ElementsAre("decoder.conv.weight"));
  EXPECT_TRUE(mapped.unmatched.empty());
  EXPECT_NE(mapped.find("blocks.1.attn.qkv.weight"), nullptr);
}

TEST(Recognise, AFileThatIsNearlyInADialectSaysInWhich) {
  const std::string vit = error_of([] { require_recognised(zeros(renamed(timm_vit(192, 2), "patch_embed.", "patches."))); });
  EXPECT_THAT(vit, HasSubstr("the file is nearly 'timm' (vit): it has 4 of the 5 names that mark it, not 'patch_embed.proj.weight'"));
  const std::string old = error_of([] { require_recognised(zeros(renamed(lucidrains(false), "pos_embedding", "positions"))); });
  EXPECT_THAT(old, HasSubstr("nearly 'lucidrains-vit' (vit)"));
}

TEST(Dialects, AreChosenByNameOrHomeForAKindOfModel) {
  const auto first = [](const char* name, const char* kind) { return dialects_named(name, kind).front()->name; };
  EXPECT_EQ(first("microsoft", "swin"), "microsoft-swin");
  EXPECT_EQ(first("ms", "cswin"), "microsoft-cswin");
  EXPECT_EQ(first("lucidrains-vit-patch-norm", "vit"), "lucidrains-vit-patch-norm");
  EXPECT_EQ(first("timm", "deit_distilled"), "timm");
  EXPECT_EQ(dialects_named("lucidrains", "vit").size(), 2u);
  EXPECT_THAT(error_of([] { dialects_named("microsoft-cswin", "vit"); }), HasSubstr("has no vit models; for this one there are fovea, facebook-deit3"));
  EXPECT_THAT(error_of([] { dialects_named("onnx", "vit"); }), HasSubstr("no such naming scheme"));
}

TEST(StrictLoad, OneErrorListsAllThreeGroups) {
  MappedWeights weights;
  weights.path = "file.pt";
  weights.tensors = {{"fits", {2}, {}}, {"other", {3}, {}}, {"extra", {1}, {}}};
  weights.unmatched = {"foreign"};
  const std::vector<WantedTensor> wanted{{"fits", {2}}, {"other", {2, 2}}, {"absent", {1}}};
  EXPECT_EQ(error_of([&] { require_match(wanted, weights, "vit_mini"); }),
            "the weights in 'file.pt' do not fit vit_mini: 1 missing: 'absent'; 2 unexpected: 'extra', 'foreign'; "
            "1 of another shape: 'other' is [3] instead of [2, 2]");
  EXPECT_NO_THROW(require_match(std::vector<WantedTensor>{{"a", {1}}}, MappedWeights{"f", {{"a", {1}, {}}}, {}, {}}, "m"));
}

TEST(StrictLoad, LongListsPutNumbersTogether) {
  std::vector<WantedTensor> wanted;
  for (int i = 0; i < 25; ++i) wanted.push_back({fmt::format("t{}", i), {1}});
  EXPECT_EQ(error_of([&] { require_match(wanted, MappedWeights{"f", {}, {}, {}}, "m", [] { return std::string("; a remark"); }); }),
            "the weights in 'f' do not fit m: 25 missing: 't{0-24}'; a remark");
}

TEST(StrictLoad, NamesArePutTogetherCompletely) {
  const auto together = [](std::vector<std::string> names) { return put_together(names); };
  EXPECT_THAT(together({"b.0.n1.w", "b.0.n2.w", "b.1.n1.w", "b.1.n2.w", "b.2.n1.w", "b.2.n2.w", "c"}), ElementsAre("b.{0-2}.n{1,2}.w", "c"));
  EXPECT_THAT(together({"l.0.b.0", "l.0.b.1", "l.1.b.0", "l.1.b.1", "l.2.b.0", "l.2.b.5"}), ElementsAre("l.{0-2}.b.0", "l.{0,1}.b.1", "l.2.b.5"));
  EXPECT_THAT(together({"x.00", "x.01", "x.99999999999999999999", "x"}), ElementsAre("x.{00,01,99999999999999999999}", "x"));
  EXPECT_THAT(together({"1.a", "3.a", "4.a"}), ElementsAre("{1,3,4}.a"));
  EXPECT_THAT(together({}), ElementsAre());
}

TEST(VitMnist, AStrangersCheckpointIsReadAndMapped) {
  const std::string path = FOVEA_SHARED "/data/vit_mnist/vit_mnist_gpu.pt";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "the checkpoint " << path << " is not here";
  const WeightFile file = open_weights(path);
  ASSERT_EQ(file.tensors().size(), 74u);
  const RecognisedModel m = require_recognised(file);
  EXPECT_EQ(m.dialect->name, "lucidrains-vit");
  const std::vector<std::pair<const char*, int64_t>> facts{
      {"patch_size", 4}, {"in_channels", 1}, {"dim", 64}, {"depth", 6}, {"attention_width", 256}, {"num_heads", 4}, {"mlp_width", 128},
      {"num_classes", 10}, {"tokens", 50}, {"image_size", 28}, {"qkv_bias", 0}, {"class_token", 1}};
  for (const auto& [key, value] : facts) EXPECT_EQ(m.integer(key), value) << key;
  const MappedWeights mapped = map_keys(file, m);

  std::vector<WantedTensor> wanted{{"cls_token", {1, 1, 64}}, {"pos_embed", {1, 50, 64}}, {"patch_embed.proj.weight", {64, 1, 4, 4}},
                                   {"patch_embed.proj.bias", {64}}, {"norm.weight", {64}}, {"norm.bias", {64}},
                                   {"head.weight", {10, 64}}, {"head.bias", {10}}};
  for (int i = 0; i < 6; ++i) {
    const std::string b = fmt::format("blocks.{}.", i);
    for (const char* norm : {"norm1", "norm2"})
      for (const char* part : {".weight", ".bias"}) wanted.push_back({b + norm + part, {64}});
    wanted.insert(wanted.end(), {{b + "attn.qkv.weight", {768, 64}}, {b + "attn.proj.weight", {64, 256}}, {b + "attn.proj.bias", {64}},
                                 {b + "mlp.fc1.weight", {128, 64}}, {b + "mlp.fc1.bias", {128}}, {b + "mlp.fc2.weight", {64, 128}},
                                 {b + "mlp.fc2.bias", {64}}});
  }
  EXPECT_NO_THROW(require_match(wanted, mapped, "the ViT of 28x28 digits"));
  std::vector<float> v(10);
  mapped.find("head.bias")->read(v.data());
  for (float x : v) EXPECT_TRUE(std::isfinite(x) && x != 0);
}

}  // namespace
}  // namespace fovea
