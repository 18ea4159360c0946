#include "report/html.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "fovea/error.h"
#include "markup_check.h"
#include "report/numbers.h"

namespace fovea::report {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(Escape, MarkupBecomesEntities) { EXPECT_EQ(escape("<a href=\"x\">&'"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;"); }

TEST(Escape, KeepsGoodUtf8AndReplacesTheRest) {
  EXPECT_EQ(escape("naïve 日本 🐈"), "naïve 日本 🐈");
  EXPECT_EQ(escape("a\xffz"), "a\xEF\xBF\xBDz");
  EXPECT_EQ(escape("\xC3"), "\xEF\xBF\xBD");                                                  // cut off
  EXPECT_EQ(escape("\xC0\xAF"), "\xEF\xBF\xBD\xEF\xBF\xBD");                                  // overlong
  EXPECT_EQ(escape("\xED\xA0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");                  // surrogate
  EXPECT_EQ(escape("\xF4\x90\x80\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");  // beyond U+10FFFF
  EXPECT_EQ(escape(std::string_view("\0\x1b\x7f\t\n", 5)), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\t\n");
}

TEST(Shortened, CountsCharactersNotBytes) {
  EXPECT_EQ(shortened("日本語", 3), "日本語");
  EXPECT_EQ(shortened("日本語です", 3), "日本…");
  EXPECT_EQ(shortened("", 3), "");
}

TEST(HtmlTable, HasCaptionHeadsMeaningsAndItsOwnScrollContainer) {
  Table table{"<caption>",
              {{"class", "", Align::kText}, {"recall", "found & right (%)", Align::kNumber}},
              {{text("<cat>"), text("1")}}};
  const std::string markup = to_html(table).markup;
  EXPECT_EQ(markup_problem(markup), "");
  EXPECT_THAT(markup, HasSubstr("class=\"scroll\""));
  EXPECT_THAT(markup, HasSubstr("&lt;cat&gt;"));
  EXPECT_THAT(markup, HasSubstr("<dt>recall</dt><dd>found &amp; right (%)</dd>"));
  EXPECT_THAT(markup, Not(HasSubstr("<dt>class</dt>")));
  table.rows.assign(100, {text("x"), text("1")});
  EXPECT_THAT(to_html(table).markup, HasSubstr("class=\"scroll tall\""));
  table.rows[5].pop_back();
  EXPECT_THROW(to_html(table), InternalError);
}

TEST(HtmlPage, IsWellFormedAndScriptless) {
  Page page("A & B <report>");
  page.lead(paragraph(text("lead")));
  page.section("<One>", definitions({{"seed", "7", "start of the random numbers"}}));
  const std::string markup = page.str();
  EXPECT_EQ(markup_problem(markup), "");
  EXPECT_EQ(occurrences(markup, "http"), 0);
  EXPECT_EQ(occurrences(markup, "<script"), 0);
  EXPECT_EQ(occurrences(markup, "@import"), 0);
  EXPECT_EQ(occurrences(markup, "url("), 0);
  EXPECT_THAT(markup, HasSubstr("<title>A &amp; B &lt;report&gt;</title>"));
  EXPECT_THAT(markup, HasSubstr("width=device-width"));
}

TEST(Numbers, ReadAsPeopleWriteThem) {
  EXPECT_EQ(grouped(0), "0");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(1000), "1,000");
  EXPECT_EQ(grouped(-1234567), "-1,234,567");
  EXPECT_EQ(grouped(-123), "-123");
  EXPECT_EQ(percent(0.9123), "91.2\u00a0%");
  EXPECT_EQ(percent(NAN), "–");
  EXPECT_EQ(significant(0.00012345, 3), "0.000123");
  EXPECT_EQ(significant(1e-5, 3), "1e-5");
  EXPECT_EQ(significant(12345.6, 4), "12346");
  EXPECT_EQ(fixed(0.52), "0.5200");
  EXPECT_EQ(fixed(0), "0.0000");
  EXPECT_EQ(fixed(0.00001234), "1.2e-5");
  EXPECT_EQ(short_exponent("5e+07"), "5e7");
  EXPECT_EQ(duration(0.42), "0.4 s");
  EXPECT_EQ(duration(59.97), "1 min 0 s");
  EXPECT_EQ(duration(192), "3 min 12 s");
  EXPECT_EQ(duration(7261), "2 h 1 min");
  EXPECT_EQ(duration(-1), "–");
  EXPECT_EQ(counted(1, "image", "images"), "1 image");
  EXPECT_EQ(counted(5000, "image", "images"), "5,000 images");
}

// 81 of 263: 0.2553 to 0.3662, the worked example of Newcombe, Statistics in Medicine 17 (1998), table I.
TEST(Numbers, WilsonInterval) {
  const Interval interval = wilson_interval(81.0 / 263, 263);
  EXPECT_NEAR(interval.low, 0.2553, 5e-5);
  EXPECT_NEAR(interval.high, 0.3662, 5e-5);
  EXPECT_EQ(wilson_interval(0.5, 0).high, 1);
  EXPECT_DOUBLE_EQ(wilson_interval(1, 10).high, 1);
}

}  // namespace
}  // namespace fovea::report
