#include "report/svg_chart.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <regex>

#include "fovea/error.h"
#include "markup_check.h"

namespace fovea::report {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

LineChart two_curves() {
  LineChart chart;
  chart.title = "Loss";
  chart.x = {"epoch (passes)", AxisScale::kLinear, AxisTicks::kWhole};
  chart.y = {"loss (nats)"};
  chart.series = {{"training", {1, 2, 3, 4}, {1.0, 0.7, 0.5, 0.4}}, {"validation", {1, 2, 3, 4}, {1.1, 0.8, 0.7, 0.9}}};
  return chart;
}

// Every coordinate pair of the curves ("M1 2L3 4") of one series.
std::vector<std::pair<double, double>> curve_points(const std::string& svg, int series) {
  const std::regex path("<path class=\"line s" + std::to_string(series) + "\" d=\"([^\"h]*)\"/>"),
      point("[ML]([-0-9.]+) ([-0-9.]+)");
  std::vector<std::pair<double, double>> points;
  for (std::sregex_iterator p(svg.begin(), svg.end(), path), none; p != none; ++p) {
    const std::string d = (*p)[1];
    for (std::sregex_iterator q(d.begin(), d.end(), point); q != none; ++q)
      points.emplace_back(std::stod((*q)[1]), std::stod((*q)[2]));
  }
  return points;
}

TEST(NiceTicks, LinearAreOneTwoOrFiveTimesAPowerOfTen) {
  const Ticks ticks = nice_ticks(0.13, 0.87, {"y"}, 6, true);
  EXPECT_THAT(ticks.labels, ElementsAre("0", "0.2", "0.4", "0.6", "0.8", "1.0"));
  EXPECT_DOUBLE_EQ(ticks.low, 0);
  EXPECT_DOUBLE_EQ(ticks.high, 1);
}

TEST(NiceTicks, WholeNumbersOnlyWhereAsked) {
  EXPECT_THAT(nice_ticks(1, 3, {"x", AxisScale::kLinear, AxisTicks::kWhole}, 9, false).labels,
              ElementsAre("1", "2", "3"));
  EXPECT_THAT(nice_ticks(1, 1, {"x", AxisScale::kLinear, AxisTicks::kWhole}, 9, false).labels, ElementsAre("1"));
  EXPECT_THAT(nice_ticks(0, 40000, {"x"}, 5, true).labels, ElementsAre("0", "10,000", "20,000", "30,000", "40,000"));
}

TEST(NiceTicks, SmallAndLargeValuesHaveExponents) {
  EXPECT_THAT(nice_ticks(0, 1e-4, {"y"}, 6, true).labels, ElementsAre("0", "2e-5", "4e-5", "6e-5", "8e-5", "1e-4"));
  EXPECT_THAT(nice_ticks(0, 2e6, {"y"}, 6, true).labels, ElementsAre("0", "500,000", "1e6", "1.5e6", "2e6"));
}

TEST(NiceTicks, LogScaleHasDecades) {
  const Axis log{"y", AxisScale::kLog};
  EXPECT_THAT(nice_ticks(0.09, 3300, log, 6, true).labels, ElementsAre("0.1", "1", "10", "100", "1,000"));
  EXPECT_THAT(nice_ticks(3, 40, log, 6, true).labels, ElementsAre("2", "5", "10", "20", "50"));
  EXPECT_GE(nice_ticks(3.1, 3.2, log, 6, true).at.size(), 2u);
}

// No pair of ends may hang, yield no tick or yield crowds of them.
TEST(NiceTicks, SurviveExtremeRanges) {
  for (const double low : {-1e30, -5.0, 0.0, 1e-30, 1e-300, 1.0, 1e15, 1e30})
    for (const double high : {-1e30, -5.0, 0.0, 1e-30, 1e-300, 1.0, 1e15, std::nextafter(1e15, 2e15), 1e30})
      for (const AxisTicks kind : {AxisTicks::kAny, AxisTicks::kWhole})
        for (const bool round : {false, true}) {
          if (low > high) continue;
          const Ticks ticks = nice_ticks(low, high, {"y", AxisScale::kLinear, kind}, 6, round);
          EXPECT_LE(ticks.at.size(), 14u) << low << " " << high;
          EXPECT_LT(ticks.low, ticks.high) << low << " " << high;
          if (low <= 0) continue;
          EXPECT_LE(nice_ticks(low, high, {"y", AxisScale::kLog}, 6, round).at.size(), 14u) << low << " " << high;
        }
}

TEST(SvgChart, IsWellFormedAndSelfContained) {
  const std::string file = to_svg_file(two_curves());
  EXPECT_EQ(markup_problem(file), "");
  EXPECT_EQ(occurrences(file, "http"), 1);  // the name space
  EXPECT_THAT(file, HasSubstr("xmlns=\"http://www.w3.org/2000/svg\""));
  EXPECT_THAT(file, Not(HasSubstr("<script")));
  EXPECT_THAT(file, HasSubstr("prefers-color-scheme:dark"));
  for (const char* text : {">training<", ">validation<", ">epoch (passes)<", ">loss (nats)<"})
    EXPECT_EQ(occurrences(file, text), 1) << text;
}

TEST(SvgChart, CurvesLieInsideThePlotBelowTheLegend) {
  LineChart chart = two_curves();
  for (int i = 0; i < 9; ++i)
    chart.series.push_back({"another series with a long name " + std::to_string(i), {1, 4}, {0.1 * i, 1}});
  chart.annotations = {{1, "left"}, {4, "a fairly long remark at the right edge"}, {2.5, std::string(300, 'w')}};
  const std::string svg = to_svg(chart);
  double lowest_legend = 0, y_axis_top = 0;
  const std::regex name("y=\"([-0-9.]+)\" text-anchor=\"[a-z]+\" class=\"(name|note)\""),
      axis("class=\"axis\" d=\"M[-0-9.]+ ([-0-9.]+)V");
  int names = 0;
  for (std::sregex_iterator it(svg.begin(), svg.end(), name), none; it != none; ++it, ++names)
    lowest_legend = std::max(lowest_legend, std::stod((*it)[1]));
  EXPECT_EQ(names, 11 + 3);
  std::smatch match;
  ASSERT_TRUE(std::regex_search(svg, match, axis));
  y_axis_top = std::stod(match[1]);
  EXPECT_LT(lowest_legend, y_axis_top);
  for (int s = 0; s < 6; ++s)
    for (const auto& [x, y] : curve_points(svg, s)) {
      EXPECT_GE(y, y_axis_top - 0.1);
      EXPECT_LE(x, 460 - 14 + 0.1);
    }
}

TEST(SvgChart, LegendEntriesDoNotLieOnEachOther) {
  LineChart chart = two_curves();
  for (int i = 0; i < 9; ++i) chart.series.push_back({"series number " + std::to_string(i), {1, 4}, {0.1 * i, 1}});
  const std::string svg = to_svg(chart);
  const std::regex entry("x=\"([-0-9.]+)\" y=\"([-0-9.]+)\" text-anchor=\"start\" class=\"name\">([^<]*)<");
  double end = 0, line = -1;
  int entries = 0;
  for (std::sregex_iterator it(svg.begin(), svg.end(), entry), none; it != none; ++it, ++entries) {
    const double x = std::stod((*it)[1]), y = std::stod((*it)[2]);
    if (y == line) {
      EXPECT_GT(x, end + 30);  // room for the sample line
    } else {
      EXPECT_GE(y, line + 13);
    }
    line = y;
    end = x + 7 * static_cast<double>((*it)[3].length());
    EXPECT_LE(end, 460);
  }
  EXPECT_EQ(entries, 11);
}

TEST(SvgChart, HigherValuesAreHigherUp) {
  const auto points = curve_points(to_svg(two_curves()), 0);
  ASSERT_EQ(points.size(), 4u);
  for (size_t i = 1; i < 4; ++i) {
    EXPECT_GT(points[i].second, points[i - 1].second);  // the loss falls: further down
    EXPECT_NEAR(points[i].first - points[i - 1].first, points[1].first - points[0].first, 0.11);
  }
}

TEST(SvgChart, NotFiniteValuesLeaveGaps) {
  LineChart chart = two_curves();
  chart.series[0].y = {1.0, NAN, 0.5, INFINITY};
  const std::string svg = to_svg(chart);
  EXPECT_EQ(curve_points(svg, 0).size(), 2u);
  EXPECT_EQ(occurrences(svg, "nan"), 0);
  EXPECT_EQ(occurrences(svg, "inf"), 0);
  const std::regex path("class=\"line s0\" d=\"M[-0-9. ]+M[-0-9. ]+\"");  // two points, each after a gap
  EXPECT_TRUE(std::regex_search(svg, path)) << svg;
}

TEST(SvgChart, LogAxisLeavesOutWhatIsNotPositive) {
  LineChart chart = two_curves();
  chart.y.scale = AxisScale::kLog;
  chart.series[0].y = {100, 0, -3, 1};
  const std::string svg = to_svg(chart);
  EXPECT_EQ(curve_points(svg, 0).size(), 2u);
  EXPECT_EQ(occurrences(svg, "nan"), 0);
}

TEST(SvgChart, OnePointNoPointNoSeries) {
  LineChart chart = two_curves();
  chart.series = {{"alone", {1}, {0.5}}};
  EXPECT_EQ(occurrences(to_svg(chart), "<circle"), 1);
  chart.series = {{"empty", {}, {}}, {"nothing", {1, 2}, {NAN, NAN}}};
  EXPECT_THAT(to_svg(chart), HasSubstr("no data"));
  EXPECT_EQ(markup_problem(to_svg(chart)), "");
  chart.series.clear();
  EXPECT_THAT(to_svg(chart), HasSubstr("no data"));
}

TEST(SvgChart, IsolatedPointsOfLongCurvesKeepAMarker) {
  LineChart chart = two_curves();
  Series series{"many", {}, {}};
  for (int i = 0; i < 500; ++i) {
    series.x.push_back(i);
    series.y.push_back(i == 100 || i == 102 ? std::nan("") : i);
  }
  chart.series = {series};
  EXPECT_EQ(occurrences(to_svg(chart), "<circle"), 1);  // the point at 101
}

TEST(SvgChart, EscapesHostileNames) {
  LineChart chart = two_curves();
  chart.title = chart.x.label = chart.y.label = chart.series[0].name = "</svg><script>alert('&')</script>\"";
  chart.annotations = {{2, "<b>\x01\xff</b>"}};
  const std::string svg = to_svg(chart);
  EXPECT_EQ(markup_problem(svg), "");
  EXPECT_THAT(svg, Not(HasSubstr("<script")));
}

TEST(SvgChart, UnequalSeriesAreOurMistake) {
  LineChart chart = two_curves();
  chart.series[0].y.pop_back();
  EXPECT_THROW(to_svg(chart), InternalError);
}

}  // namespace
}  // namespace fovea::report
