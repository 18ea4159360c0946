#include "report/svg_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <optional>

#include "core/check.h"
#include "report/chart_layout.h"
#include "report/html.h"

namespace fovea::report {
namespace {

constexpr double kPlotHeight = 214, kLineHeight = 19, kRight = 14;
constexpr double kLargest = 1e30;  // beyond, a value is treated as not finite
constexpr size_t kMarkersAtMost = 60;

double text_width(std::string_view text) { return kCharacterWidth * count_characters(text); }

bool drawable(double value, AxisScale scale) {
  return std::abs(value) <= kLargest && (scale == AxisScale::kLinear || value >= 1 / kLargest);
}

struct Scaled {
  Ticks ticks;
  AxisScale scale;
  double begin, end;  // in view box units

  double operator()(double value) const {
    const bool log = scale == AxisScale::kLog;
    const double low = log ? std::log10(ticks.low) : ticks.low, high = log ? std::log10(ticks.high) : ticks.high;
    return begin + (end - begin) * ((log ? std::log10(value) : value) - low) / (high - low);
  }
};

struct Range {
  double low = INFINITY, high = -INFINITY;
  void add(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
};

class Writer {
 public:
  explicit Writer(const LineChart& chart) : chart_(chart) {
    for (const Series& series : chart.series) {
      check(series.x.size() == series.y.size(), "LineChart '{}': series '{}' has {} x for {} y", chart.title,
            series.name, series.x.size(), series.y.size());
      for (size_t i = 0; i < series.x.size(); ++i) {
        if (!drawable(series.x[i], chart.x.scale) || !drawable(series.y[i], chart.y.scale)) continue;
        x_range_.add(series.x[i]);
        y_range_.add(series.y[i]);
      }
    }
  }

  std::string write(std::string_view style) {
    legend();
    annotation_texts();
    plot();
    return fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 {:.0f} {:.0f}\" role=\"img\" "
        "aria-label=\"{}\">"
        "<title>{}</title>{}{}</svg>",
        kChartWidth, height_, escape(chart_.title), escape(chart_.title), style, body_);
  }

 private:
  template <class... Args>
  void put(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(body_), format, std::forward<Args>(args)...);
  }

  void label(double x, double y, const char* anchor, const char* css, std::string_view text) {
    put("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" class=\"{}\">{}</text>", x, y, anchor, css, escape(text));
  }

  // Above the plot, in as many lines as it takes, so that it never lies on a curve.
  void legend() {
    constexpr double kSample = 30, kGap = 16;
    if (chart_.series.size() < 2) return;  // the axis says what a single curve is
    double x = 4, y = top_ + 10;
    for (size_t i = 0; i < chart_.series.size(); ++i) {
      const std::string name = shortened(chart_.series[i].name, static_cast<int>((kChartWidth - kSample - 14) / kCharacterWidth));
      const double width = kSample + 6 + text_width(name);
      if (x > 4 && x + width > kChartWidth - 4) {
        x = 4;
        y += kLineHeight;
      }
      put("<path class=\"line s{}\" d=\"M{:.1f} {:.1f}h{:.0f}\"/>", i % kChartColours, x, y, kSample);
      marker(i, x + kSample / 2, y, {});
      label(x + kSample + 6, y + 4.5, "start", "name", name);
      x += width + kGap;
    }
    top_ = y + 14;
  }

  // One line each, between the legend and the plot; positions follow when the axes are known.
  void annotation_texts() {
    for (const Annotation& annotation : chart_.annotations)
      if (drawable(annotation.x, chart_.x.scale)) x_range_.add(annotation.x);
    annotations_top_ = top_;
    top_ += kLineHeight * static_cast<double>(chart_.annotations.size()) + 6;
  }

  void plot() {
    const bool empty = y_range_.low > y_range_.high;
    if (empty) y_range_ = {1, 1};
    if (x_range_.low > x_range_.high) x_range_ = {1, 1};
    Ticks y_ticks = nice_ticks(y_range_.low, y_range_.high, chart_.y, 6, true);
    double widest = 0;
    for (const std::string& text : y_ticks.labels) widest = std::max(widest, text_width(text));
    const double plot_height = std::max(kPlotHeight, text_width(chart_.y.label) + 4);
    const double left = 22 + widest + 8, right = kChartWidth - kRight, bottom = top_ + plot_height;
    Ticks x_ticks = x_axis_ticks(right - left);
    const Scaled x{std::move(x_ticks), chart_.x.scale, left, right};
    const Scaled y{std::move(y_ticks), chart_.y.scale, bottom, top_};

    for (size_t i = 0; i < y.ticks.at.size(); ++i) {
      const double at = y(y.ticks.at[i]);
      put("<path class=\"grid\" d=\"M{:.1f} {:.1f}H{:.1f}\"/>", left, at, right);
      if (!empty) label(left - 7, at + 4.5, "end", "tick", y.ticks.labels[i]);
    }
    for (size_t i = 0; i < x.ticks.at.size(); ++i) {
      const double at = x(x.ticks.at[i]);
      put("<path class=\"axis\" d=\"M{:.1f} {:.1f}v5\"/>", at, bottom);
      label(at, bottom + 19, "middle", "tick", x.ticks.labels[i]);
    }
    put("<path class=\"axis\" d=\"M{:.1f} {:.1f}V{:.1f}H{:.1f}\"/>", left, top_, bottom, right);
    label((left + right) / 2, bottom + 39, "middle", "label", chart_.x.label);
    const double middle = (top_ + bottom) / 2;
    height_ = bottom + 46;
    put("<text transform=\"translate(13 {:.1f}) rotate(-90)\" text-anchor=\"middle\" class=\"label\">{}</text>", middle,
        escape(chart_.y.label));

    annotation_lines(x, bottom);
    if (empty) label((left + right) / 2, middle, "middle", "label", "no data");
    for (size_t i = 0; i < chart_.series.size(); ++i) curve(i, x, y);
  }

  // Thins the ticks until their labels stand apart.
  Ticks x_axis_ticks(double width) const {
    for (int most = 9;; --most) {
      Ticks ticks = nice_ticks(x_range_.low, x_range_.high, chart_.x, most, false);
      double widest = 0;
      for (const std::string& text : ticks.labels) widest = std::max(widest, text_width(text));
      if (most == 2 || static_cast<double>(ticks.at.size()) * (widest + 14) <= width) return ticks;
    }
  }

  void annotation_lines(const Scaled& x, double bottom) {
    for (size_t i = 0; i < chart_.annotations.size(); ++i)
      if (drawable(chart_.annotations[i].x, chart_.x.scale))
        put("<path class=\"mark\" d=\"M{:.1f} {:.1f}V{:.1f}\"/>", x(chart_.annotations[i].x),
            annotation_line(i) + kLineHeight - 1, bottom);
    // The texts follow the lines: their halo keeps them readable where a line of another annotation passes.
    for (size_t i = 0; i < chart_.annotations.size(); ++i) {
      const Annotation& annotation = chart_.annotations[i];
      if (!drawable(annotation.x, chart_.x.scale)) continue;
      const double line = annotation_line(i), at = x(annotation.x);
      const std::string text = shortened(annotation.text, static_cast<int>((kChartWidth - 8) / kCharacterWidth));
      const double width = text_width(text), begin = std::clamp(at - width / 2, 4.0, std::max(4.0, kChartWidth - 4 - width));
      label(begin + width / 2, line + 13, "middle", "note", text);
    }
  }

  double annotation_line(size_t index) const { return annotations_top_ + kLineHeight * static_cast<double>(index); }

  void curve(size_t index, const Scaled& x, const Scaled& y) {
    const Series& series = chart_.series[index];
    struct Point {
      double x, y;
      size_t at;
      bool starts;  // after a gap
    };
    std::vector<Point> points;
    bool gap = true;
    for (size_t i = 0; i < series.x.size(); ++i) {
      if (drawable(series.x[i], chart_.x.scale) && drawable(series.y[i], chart_.y.scale)) {
        points.push_back({x(series.x[i]), y(series.y[i]), i, gap});
        gap = false;
      } else {
        gap = true;
      }
    }
    if (points.empty()) return;
    std::string path;
    for (const Point& point : points)
      fmt::format_to(std::back_inserter(path), "{}{:.1f} {:.1f}", point.starts ? 'M' : 'L', point.x, point.y);
    put("<path class=\"line s{}\" d=\"{}\"/>", index % kChartColours, path);
    for (size_t i = 0; i < points.size(); ++i) {
      const bool alone = points[i].starts && (i + 1 == points.size() || points[i + 1].starts);
      if (!alone && points.size() > kMarkersAtMost) continue;
      const size_t at = points[i].at;
      marker(index, points[i].x, points[i].y,
             fmt::format("{}: {:.5g} at {:.6g}", series.name, series.y[at], series.x[at]));
    }
  }

  void marker(size_t index, double x, double y, std::string_view tip) {
    const std::string title = tip.empty() ? "" : "<title>" + escape(tip) + "</title>";
    const char* shape = nullptr;
    switch (index % 4) {
      case 0:
        put("<circle class=\"m{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.6\">{}</circle>", index % kChartColours, x, y, title);
        return;
      case 1:
        shape = "m-3.4 -3.4h6.8v6.8h-6.8z";
        break;
      case 2:
        shape = "m0 -4.4l4.2 7.6h-8.4z";
        break;
      default:
        shape = "m0 -4.8l4.4 4.8l-4.4 4.8l-4.4 -4.8z";
        break;
    }
    put("<path class=\"m{}\" d=\"M{:.1f} {:.1f}{}\">{}</path>", index % kChartColours, x, y, shape, title);
  }

  const LineChart& chart_;
  Range x_range_, y_range_;
  std::string body_;
  double top_ = 4, annotations_top_ = 0, height_ = 0;
};

}  // namespace

std::string chart_css() {
  std::string css =
      ":root{--page:#fff;--ink:#1b2733;--soft:#5a6875;--rule:#d5dce3;--mark:#8a3ffc;"
      "--s0:#0072b2;--s1:#d55e00;--s2:#009e73;--s3:#b8578f;--s4:#b27a00;--s5:#3b8fc4}"
      "@media(prefers-color-scheme:dark){:root{--page:#12171c;--ink:#e4e9ee;--soft:#9fadba;--rule:#36424e;--mark:#"
      "c09bff;"
      "--s0:#5ab4ea;--s1:#ff8f4a;--s2:#2fc59a;--s3:#e39ac4;--s4:#f0c94a;--s5:#a5c8e4}}"
      ".chart{display:block;width:100%;height:auto;font:13px system-ui,-apple-system,\"Segoe UI\",Roboto,sans-serif}"
      ".chart text{fill:var(--ink)}.chart .tick{fill:var(--soft);font-size:12.5px}.chart "
      ".note{fill:var(--mark);paint-order:stroke;stroke:var(--page);stroke-width:4px}"
      ".chart path{fill:none}.chart .grid{stroke:var(--rule);stroke-width:.8}"
      ".chart .axis{stroke:var(--soft);stroke-width:1}"
      ".chart .mark{stroke:var(--mark);stroke-width:1.2;stroke-dasharray:5 4}"
      ".chart .line{stroke-width:2;stroke-linejoin:round;stroke-linecap:round}";
  constexpr const char* kDashes[kChartColours] = {"none", "7 4.5", "2 4.5", "10 4 2 4", "4 4", "12 4"};
  for (int i = 0; i < kChartColours; ++i)
    css += fmt::format(".chart .s{0}{{stroke:var(--s{0});stroke-dasharray:{1}}}.chart .m{0}{{fill:var(--s{0})}}", i,
                       kDashes[i]);
  return css;
}

std::string to_svg(const LineChart& chart) { return Writer(chart).write({}); }

std::string to_svg_file(const LineChart& chart) {
  return "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n" +
         Writer(chart).write("<style>" + chart_css() + ".chart{background:var(--page)}</style>") + "\n";
}

}  // namespace fovea::report
