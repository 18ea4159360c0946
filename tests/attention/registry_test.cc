#include "attention/registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "harness/layers.h"

namespace fovea {
namespace {

TEST(AttentionSpec, NamesOptionsAndStages) {
  const auto s = parse_attention_stages("window:size=7x5:rule=mmdet/global");
  ASSERT_EQ(s.size(), 2u);
  EXPECT_EQ(s[0].name, "window");
  EXPECT_EQ(s[0].options.at("size"), "7x5");
  EXPECT_EQ(s[1].name, "global");
  EXPECT_EQ(parse_attention(s[0].str()).str(), s[0].str());
}

TEST(AttentionSpec, EachMistakeIsNamed) {
  EXPECT_THAT(harness::spec_error("windw"), testing::HasSubstr("did you mean 'window'"));
  EXPECT_THAT(harness::spec_error("window:sise=7"), testing::HasSubstr("no option 'sise'"));
  EXPECT_THAT(harness::spec_error("window:size"), testing::HasSubstr("key=value"));
  EXPECT_THAT(harness::spec_error("window:size=7:size=8"), testing::HasSubstr("twice"));
  EXPECT_THAT(harness::spec_error("global:size=7"), testing::HasSubstr("it has none"));
  EXPECT_THAT(harness::spec_error(""), testing::HasSubstr("no name"));
  EXPECT_THAT(harness::spec_error("global/"), testing::HasSubstr("no name"));
}

TEST(AttentionSpec, PartsAndWeightsHaveTheirLimits) {
  EXPECT_THROW((void)parse_attention("global@1e308,window@1e308"), Error);
  std::string many = "global";
  for (int i = 0; i < 63; ++i) many += "+global";
  EXPECT_EQ(parse_attention(many).parts.size(), 64u);
  EXPECT_THROW((void)parse_attention(many + "+global"), Error);
}

TEST(AttentionSpec, ValuesAreCheckedWhenBuilt) {
  ParamStore p;
  AttentionConfig c;
  c.dim = 4;
  EXPECT_THROW(make_attention(parse_attention("window:size=seven"), Scope(p) / "a", c), Error);
  EXPECT_THROW(make_attention(parse_attention("window:size=0"), Scope(p) / "b", c), Error);
  EXPECT_THROW(make_attention(parse_attention("window:size=16385"), Scope(p) / "e", c), Error);
  EXPECT_THROW(make_attention(parse_attention("cross_shaped:stripe=9223372036854775807"), Scope(p) / "f", c), Error);
  EXPECT_THROW(make_attention(parse_attention("window:rule=tim"), Scope(p) / "c", c), Error);
  EXPECT_THROW(make_attention(parse_attention("window:pad=never"), Scope(p) / "d", c), Error);
}

}  // namespace
}  // namespace fovea
