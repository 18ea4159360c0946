// performer_convergence OUT: writes OUT.svg and OUT.csv, the error of attention on random features over their number.
#include <fmt/format.h>

#include "attention/performer_estimate.h"
#include "report/svg_chart.h"
#include "report/text_file.h"

int main(int argc, char** argv) {
  using namespace fovea;  // NOLINT
  if (argc != 2) {
    fmt::print(stderr, "usage: {} OUT, for OUT.svg and OUT.csv\n", argv[0]);
    return 2;
  }
  report::LineChart chart;
  chart.title = "Error of Performer attention against softmax attention over the number of random features";
  chart.x.label = "random features";
  chart.y.label = "relative error";
  chart.x.scale = chart.y.scale = report::AxisScale::kLog;
  chart.series = {{"entries N(0, 1/4), epsilon 0", {}, {}}, {"entries N(0, 1), epsilon 1e-4", {}, {}}};
  std::string csv = "features,error_small_entries_epsilon_0,error_unit_entries_epsilon_1e-4\n";
  for (int64_t features = 8; features <= 8192; features *= 2) {
    const double errors[] = {harness::performer_error(features, 0, 0.5), harness::performer_error(features, 1e-4, 1)};
    csv += fmt::format("{},{:.6g},{:.6g}\n", features, errors[0], errors[1]);
    for (size_t i = 0; i < 2; ++i) {
      chart.series[i].x.push_back(static_cast<double>(features));
      chart.series[i].y.push_back(errors[i]);
    }
  }
  report::write_text_atomically(std::string(argv[1]) + ".svg", report::to_svg_file(chart));
  report::write_text_atomically(std::string(argv[1]) + ".csv", csv);
  return 0;
}
