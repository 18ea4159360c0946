// Line charts as SVG: no script, nothing loaded from elsewhere, light and dark by the reader's preference, colours that
// remain distinct to the colour-blind (Okabe and Ito) and a dash and marker of their own for each series.
#pragma once

#include <string>
#include <vector>

namespace fovea::report {

enum class AxisScale { kLinear, kLog };  // kLog: values <= 0 are left out
enum class AxisTicks { kAny, kWhole };   // kWhole: ticks at whole numbers only (epochs, steps)

struct Axis {
  std::string label;  // with its unit: "cross-entropy loss (nats)"
  AxisScale scale = AxisScale::kLinear;
  AxisTicks ticks = AxisTicks::kAny;
  bool from_zero = false;  // the axis includes zero (linear axes)
};

struct Series {
  std::string name;  // in the legend
  std::vector<double> x;
  std::vector<double> y;  // as many as x; a value that is not finite leaves a gap
};

// A vertical line across the plot with its text above it.
struct Annotation {
  double x = 0;
  std::string text;
};

struct LineChart {
  std::string title;  // for screen readers; the page writes its own heading
  Axis x;
  Axis y;
  std::vector<Series> series;  // a legend is drawn for two or more
  std::vector<Annotation> annotations;
};

// The style sheet the charts need, once per page.
std::string chart_css();

// The chart as an <svg> element for a page that holds chart_css(). Width 100 % of its container.
std::string to_svg(const LineChart& chart);

// The chart as an SVG file of its own.
std::string to_svg_file(const LineChart& chart);

// Tick positions for one axis.
struct Ticks {
  double low, high;  // ends of the axis
  std::vector<double> at;
  std::vector<std::string> labels;  // one per position
};

// Between three and about `most` ticks at 1, 2 or 5 times a power of ten (log: decades, or 1-2-5 within few decades).
// The ends are ticks themselves (`round_ends`) or the range as given. Equal ends are widened.
Ticks nice_ticks(double low, double high, const Axis& axis, int most, bool round_ends);

}  // namespace fovea::report
