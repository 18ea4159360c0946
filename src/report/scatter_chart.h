// Points with names and error bars: what is reached against what it costs.
#pragma once

#include "report/svg_chart.h"

namespace fovea::report {

struct ScatterPoint {
  std::string name;
  double x = 0, y = 0;
  double half_height = 0;  // of the error bar; 0: none
};

struct ScatterChart {
  std::string title;  // for screen readers
  Axis x, y;
  std::vector<ScatterPoint> points;
};

// An <svg> element for a page that holds chart_css(): each point a number, with a key below the plot.
std::string to_svg(const ScatterChart& chart);

// A map of who influences whom: cells of a small map, shaded by strength, the asking cell marked.
struct CellMap {
  std::string title;
  int height = 0, width = 0;
  std::vector<double> strength;  // (height, width) in 0..1; 0: no influence
  int query = 0;                 // index of the asking cell
};
std::string to_svg(const CellMap& map);

}  // namespace fovea::report
