#include "report/class_sections.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/check.h"
#include "report/numbers.h"

namespace fovea::report {
namespace {

constexpr size_t kMatrixAtMost = 30;
constexpr size_t kPairsAtMost = 30;
constexpr int kThumbnail = 112;

struct Pair {
  size_t truth, predicted;
  int64_t count;
};

std::vector<Pair> confused_pairs(const TrainingReport& report) {
  const size_t n = report.classes.size();
  std::vector<Pair> pairs;
  for (size_t t = 0; t < n; ++t)
    for (size_t p = 0; p < n; ++p)
      if (t != p && report.confusion[t * n + p] > 0) pairs.push_back({t, p, report.confusion[t * n + p]});
  std::stable_sort(pairs.begin(), pairs.end(), [](const Pair& a, const Pair& b) { return a.count > b.count; });
  return pairs;
}

std::vector<int64_t> row_sums(const TrainingReport& report) {
  const size_t n = report.classes.size();
  std::vector<int64_t> sums(n);
  for (size_t t = 0; t < n; ++t)
    sums[t] = std::accumulate(report.confusion.begin() + static_cast<std::ptrdiff_t>(t * n),
                              report.confusion.begin() + static_cast<std::ptrdiff_t>((t + 1) * n), int64_t{0});
  return sums;
}

double share(int64_t part, int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : kNotMeasured;
}

std::string matrix_cell(const TrainingReport& report, size_t truth, size_t predicted, int64_t row_sum) {
  const int64_t count = report.confusion[truth * report.classes.size() + predicted];
  const std::string tip =
      escape(fmt::format("{} of {} images of '{}' were called '{}' ({})", grouped(count), grouped(row_sum),
                         report.classes[truth], report.classes[predicted], percent(share(count, row_sum))));
  if (count == 0) return fmt::format("<td class=\"z\" title=\"{}\">0</td>", tip);
  const double part = share(count, row_sum);
  // Mistakes are rare in a good model: the square root keeps shares of a few per cent visible.
  const double alpha = truth == predicted ? 0.1 + 0.9 * part : 0.12 + 0.88 * std::sqrt(part);
  return fmt::format("<td class=\"{}{}\" style=\"--a:{:.2f}\" title=\"{}\">{}</td>", truth == predicted ? "h" : "e",
                     alpha > 0.6 ? " x" : "", alpha, tip, grouped(count));
}

Html matrix(const TrainingReport& report) {
  const size_t n = report.classes.size();
  const std::vector<int64_t> sums = row_sums(report);
  std::string out =
      "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Confusion matrix\"><table "
      "class=\"cm\"><thead><tr>"
      "<th scope=\"col\">true ↓ predicted →</th>";
  for (const std::string& name : report.classes)
    out += fmt::format("<th scope=\"col\" title=\"{}\"><div class=\"v\">{}</div></th>", escape(name), escape(name));
  out += "</tr></thead><tbody>\n";
  for (size_t t = 0; t < n; ++t) {
    out +=
        fmt::format("<tr><th scope=\"row\" title=\"{}\">{}</th>", escape(report.classes[t]), escape(report.classes[t]));
    for (size_t p = 0; p < n; ++p) out += matrix_cell(report, t, p, sums[t]);
    out += "</tr>\n";
  }
  return {out + "</tbody></table></div>\n"};
}

Html pair_table(const TrainingReport& report, const std::vector<Pair>& pairs, size_t most) {
  const std::vector<int64_t> sums = row_sums(report);
  Table table;
  table.caption = pairs.size() > most ? fmt::format("The {} most frequent of {} kinds of mistake", most,
                                                    grouped(static_cast<int64_t>(pairs.size())))
                                      : "All kinds of mistake, the most frequent first";
  table.columns = {{"true class", "what the image shows", Align::kText},
                   {"predicted class", "what the model called it", Align::kText},
                   {"images", "how many images of the true class were called so", Align::kNumber},
                   {"share", "the same in per cent of all images of the true class", Align::kNumber}};
  for (size_t i = 0; i < std::min(most, pairs.size()); ++i) {
    const Pair& pair = pairs[i];
    table.rows.push_back({text(report.classes[pair.truth]), text(report.classes[pair.predicted]),
                          text(grouped(pair.count)), text(percent(share(pair.count, sums[pair.truth])))});
  }
  return to_html(table);
}

std::string of_images(const TrainingReport& report) {
  const int64_t total = std::accumulate(report.confusion.begin(), report.confusion.end(), int64_t{0});
  return fmt::format("{} {}", grouped(total),
                     total == 1 ? report.evaluated_split + " image" : report.evaluated_split + " images");
}

}  // namespace

Html confusion_section(const TrainingReport& report) {
  const size_t n = report.classes.size();
  if (report.confusion.empty()) return paragraph(text("No confusion matrix was computed."));
  check(report.confusion.size() == n * n, "TrainingReport: {} confusion counts for {} classes", report.confusion.size(),
        n);
  const std::vector<Pair> pairs = confused_pairs(report);
  Html out = paragraph(
      text(fmt::format("What the model took the {} for, with {}.", of_images(report), report.evaluated_weights)));
  if (n <= kMatrixAtMost) {
    out += matrix(report);
    out += {"<p class=\"note\">"};
    out += text(
        "A row is a true class, a column what the model called it; each cell is a number of images. Blue on the "
        "diagonal: right "
        "answers, the darker the larger their share of the row. Orange: mistakes, shaded by the square root of their "
        "share.");
    out += {"</p>\n"};
  } else {
    out += paragraph(text(
        fmt::format("With {} classes a matrix would be unreadable; the most confused pairs are listed instead.", n)));
  }
  const std::vector<int64_t> sums = row_sums(report);
  const int64_t largest = sums.empty() ? 0 : *std::max_element(sums.begin(), sums.end());
  if (largest > 0)
    out += paragraph(text(
        fmt::format("For comparison: always answering the most frequent class would be right for {} of these images.",
                    percent(share(largest, std::accumulate(sums.begin(), sums.end(), int64_t{0}))))));
  if (pairs.empty()) {
    out += paragraph(text("No image was taken for another class."));
  } else {
    out += pair_table(report, pairs, n <= kMatrixAtMost ? 5 : kPairsAtMost);
  }
  return out;
}

Html class_table_section(const TrainingReport& report) {
  if (report.class_metrics.empty()) return paragraph(text("No per-class results were computed."));
  const size_t n = report.classes.size();
  check(report.class_metrics.size() == n, "TrainingReport: {} class results for {} classes",
        report.class_metrics.size(), n);
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  const auto key = [&](size_t i) {
    const double f1 = report.class_metrics[i].f1;
    return std::isfinite(f1) ? f1 : -1.0;  // classes without a value come first: they need a look most
  };
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return key(a) < key(b); });
  Table table;
  table.caption = fmt::format("Each class on the {} images, the weakest (lowest F1) first", report.evaluated_split);
  table.columns = {
      {"class", "", Align::kText},
      {"precision", "of the images called this class, the share that is of it (%)", Align::kNumber},
      {"recall", "of the images of this class, the share called so (%)", Align::kNumber},
      {"F1", "harmonic mean of precision and recall (%); high only when both are", Align::kNumber},
      {"support",
       fmt::format("images of this class in the {} part; – means undefined: no such image, or none called so",
                   report.evaluated_split),
       Align::kNumber}};
  for (const size_t i : order) {
    const ClassMetrics& metrics = report.class_metrics[i];
    table.rows.push_back({text(report.classes[i]), text(percent(metrics.precision)), text(percent(metrics.recall)),
                          text(percent(metrics.f1)), text(grouped(metrics.support))});
  }
  return to_html(table);
}

Html mistakes_section(const TrainingReport& report) {
  if (report.mistakes.empty()) return paragraph(text("No mistakes to show."));
  Html out =
      paragraph(text(fmt::format("The wrong answers on {} images that the model was surest of, the surest first. The "
                                 "percentage is the probability that the "
                                 "model gave to its (wrong) answer. Some of them may be mistakes in the labels.",
                                 report.evaluated_split)));
  out += {"<div class=\"shots\">"};
  for (const Mistake& mistake : report.mistakes) {
    const std::string alt = escape(fmt::format("{} taken for {}", mistake.true_class, mistake.predicted_class));
    const Html picture{
        mistake.image.rgb.empty()
            ? std::string("<em>no picture</em>")
            : fmt::format("<img src=\"{}\" alt=\"{}\"/>", png_data_uri(fit_thumbnail(mistake.image, kThumbnail)), alt)};
    const Html caption{
        fmt::format("<span>true: <b>{}</b></span><span>predicted: <b>{}</b></span><span>probability {}</span><span "
                    "class=\"file\">{}</span>",
                    escape(mistake.true_class), escape(mistake.predicted_class), percent(mistake.probability),
                    escape(mistake.path))};
    out += figure(picture, caption);
  }
  out += {"</div>\n"};
  return out;
}

}  // namespace fovea::report
