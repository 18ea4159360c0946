#include "report/scatter_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "report/chart_layout.h"
#include "report/html.h"

namespace fovea::report {

namespace {

constexpr double kScatterHeight = 280, kScatterRight = 18, kKeyLine = 19;

double position(double value, const Ticks& ticks, AxisScale scale, double begin, double end) {
  const auto on = [&](double v) { return scale == AxisScale::kLog ? std::log10(v) : v; };
  return begin + (end - begin) * (on(value) - on(ticks.low)) / (on(ticks.high) - on(ticks.low));
}

}  // namespace

std::string to_svg(const ScatterChart& chart) {
  std::string body;
  const auto put = [&]<class... Args>(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(body), format, std::forward<Args>(args)...);
  };
  std::vector<ScatterPoint> points;
  for (const ScatterPoint& p : chart.points)
    if (std::isfinite(p.x) && std::isfinite(p.y) && (chart.x.scale == AxisScale::kLinear || p.x > 0)) points.push_back(p);
  double x_low = INFINITY, x_high = -INFINITY, y_low = INFINITY, y_high = -INFINITY;
  for (const ScatterPoint& p : points) {
    x_low = std::min(x_low, p.x);
    x_high = std::max(x_high, p.x);
    y_low = std::min(y_low, p.y - p.half_height);
    y_high = std::max(y_high, p.y + p.half_height);
  }
  if (points.empty()) x_low = x_high = y_low = y_high = 1;
  const Ticks x_ticks = nice_ticks(x_low, x_high, chart.x, 7, true), y_ticks = nice_ticks(y_low, y_high, chart.y, 7, true);
  double widest = 0;
  for (const std::string& t : y_ticks.labels) widest = std::max(widest, kCharacterWidth * count_characters(t));
  const double top = 12, left = 22 + widest + 8, right = kChartWidth - kScatterRight, bottom = top + kScatterHeight;
  for (size_t i = 0; i < y_ticks.at.size(); ++i) {
    const double at = position(y_ticks.at[i], y_ticks, chart.y.scale, bottom, top);
    put("<path class=\"grid\" d=\"M{:.1f} {:.1f}H{:.1f}\"/>", left, at, right);
    put("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\" class=\"tick\">{}</text>", left - 7, at + 4.5, escape(y_ticks.labels[i]));
  }
  for (size_t i = 0; i < x_ticks.at.size(); ++i) {
    const double at = position(x_ticks.at[i], x_ticks, chart.x.scale, left, right);
    put("<path class=\"axis\" d=\"M{:.1f} {:.1f}v5\"/>", at, bottom);
    put("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\" class=\"tick\">{}</text>", at, bottom + 19, escape(x_ticks.labels[i]));
  }
  put("<path class=\"axis\" d=\"M{:.1f} {:.1f}V{:.1f}H{:.1f}\"/>", left, top, bottom, right);
  put("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\" class=\"label\">{}</text>", (left + right) / 2, bottom + 39, escape(chart.x.label));
  put("<text transform=\"translate(13 {:.1f}) rotate(-90)\" text-anchor=\"middle\" class=\"label\">{}</text>", (top + bottom) / 2,
      escape(chart.y.label));
  // Bars below all points; a point's number stands to its right, or to its left at the right border.
  for (size_t i = 0; i < points.size(); ++i) {
    const ScatterPoint& p = points[i];
    if (p.half_height <= 0) continue;
    const double x = position(p.x, x_ticks, chart.x.scale, left, right);
    const double low = position(p.y - p.half_height, y_ticks, chart.y.scale, bottom, top);
    const double high = position(p.y + p.half_height, y_ticks, chart.y.scale, bottom, top);
    put("<path style=\"stroke:var(--s{})\" d=\"M{:.1f} {:.1f}V{:.1f}m-4 0h8M{:.1f} {:.1f}h8\"/>", i % kChartColours, x, low, high, x - 4, low);
  }
  for (size_t i = 0; i < points.size(); ++i) {
    const ScatterPoint& p = points[i];
    const double x = position(p.x, x_ticks, chart.x.scale, left, right), y = position(p.y, y_ticks, chart.y.scale, bottom, top);
    put("<circle class=\"m{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4.2\"><title>{}: {:.4g} at {:.4g}</title></circle>", i % kChartColours, x, y,
        escape(p.name), p.y, p.x);
    const bool turn = x > right - 24;
    put("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" style=\"font-weight:600\">{}</text>", turn ? x - 7 : x + 7, y - 5,
        turn ? "end" : "start", i + 1);
  }
  double y = bottom + 62;
  for (size_t i = 0; i < points.size(); ++i, y += kKeyLine) {
    put("<circle class=\"m{}\" cx=\"12\" cy=\"{:.1f}\" r=\"4.2\"/>", i % kChartColours, y - 4);
    put("<text x=\"24\" y=\"{:.1f}\"><tspan style=\"font-weight:600\">{}</tspan> {}</text>", y, i + 1,
        escape(shortened(points[i].name, static_cast<int>((kChartWidth - 50) / kCharacterWidth))));
  }
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 {:.0f} {:.0f}\" role=\"img\" aria-label=\"{}\">"
      "<title>{}</title>{}</svg>",
      kChartWidth, y, escape(chart.title), escape(chart.title), body);
}

std::string to_svg(const CellMap& map) {
  constexpr int kCell = 10;
  std::string body;
  for (int i = 0; i < map.height * map.width; ++i) {
    const int x = i % map.width * kCell, y = i / map.width * kCell;
    const double s = std::clamp(map.strength[static_cast<size_t>(i)], 0.0, 1.0);
    fmt::format_to(std::back_inserter(body),
                   "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" style=\"fill:{};fill-opacity:{:.2f};stroke:var(--rule);stroke-width:.6\"/>", x, y,
                   kCell, kCell, s > 0 ? "var(--s0)" : "none", s);
  }
  fmt::format_to(std::back_inserter(body),
                 "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" style=\"fill:none;stroke:var(--s1);stroke-width:2.4\"/>",
                 map.query % map.width * kCell, map.query / map.width * kCell, kCell, kCell);
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"-2 -2 {} {}\" style=\"display:block;flex:0 1 140px;min-width:0\" role=\"img\" "
      "aria-label=\"{}\"><title>{}</title>{}</svg>",
      map.width * kCell + 4, map.height * kCell + 4, escape(map.title), escape(map.title), body);
}

}  // namespace fovea::report
