#include "report/training_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/class_sections.h"
#include "report/numbers.h"
#include "report/svg_chart.h"

namespace fovea::report {
namespace {

constexpr size_t kSkippedAtMost = 200;

const EpochMetrics* find_epoch(const TrainingReport& report, int64_t epoch) {
  for (const EpochMetrics& row : report.epochs)
    if (row.epoch == epoch) return &row;
  return nullptr;
}

// The epoch that the result speaks of: the kept one, else the last.
const EpochMetrics* result_epoch(const TrainingReport& report) {
  const EpochMetrics* best = find_epoch(report, report.best_epoch);
  return best ? best : report.epochs.empty() ? nullptr : &report.epochs.back();
}

std::string epochs_trained(const TrainingReport& report) {
  return counted(static_cast<int64_t>(report.epochs.size()), "epoch", "epochs");
}

std::string result_sentence(const TrainingReport& report) {
  const EpochMetrics* result = result_epoch(report);
  if (!result) return fmt::format("{} has no result yet: no epoch of training was finished.", report.model);
  if (!std::isfinite(result->val_top1))
    return fmt::format("{} was trained for {}; its accuracy was not validated.", report.model, epochs_trained(report));
  const bool last = result == &report.epochs.back();
  return fmt::format("{} reached {} top-1 accuracy on the {} after {}.", report.model, percent(result->val_top1),
                     counted(report.validation_images, "validation image", "validation images"),
                     last ? epochs_trained(report)
                          : fmt::format("epoch {} of the {} it was trained for", result->epoch, report.epochs.size()));
}

std::string test_sentence(const SplitResult& test) {
  return fmt::format(
      "On the {}, which played no part in training or in choosing the best epoch, it reached {} top-1 accuracy.",
      counted(test.images, test.split + " image", test.split + " images"), percent(test.top1));
}

std::string interval_text(double share, int64_t images) {
  const Interval interval = wilson_interval(share, images);
  return fmt::format(
      "For new images of the same kind expect {} to {} (95 % confidence interval from the number of images).",
      percent(interval.low), percent(interval.high));
}

Html tile(std::string_view name, std::string_view value, std::string_view meaning) {
  return {fmt::format("<div class=\"tile\"><i>{}</i><b>{}</b><small>{}</small></div>\n", escape(name), escape(value),
                      escape(meaning))};
}

Html tiles(const TrainingReport& report) {
  Html out{"<div class=\"tiles\">"};
  const EpochMetrics* result = result_epoch(report);
  if (result && std::isfinite(result->val_top1))
    out += tile("Validation accuracy", percent(result->val_top1),
                fmt::format("Top-1: share of the {} whose most probable class is the right one, after epoch {}. {}",
                            counted(report.validation_images, "validation image", "validation images"), result->epoch,
                            interval_text(result->val_top1, report.validation_images)));
  if (report.test && std::isfinite(report.test->top1)) {
    std::string meaning =
        fmt::format("Top-1: share of the {} whose most probable class is the right one.",
                    counted(report.test->images, report.test->split + " image", report.test->split + " images"));
    if (std::isfinite(report.test->top5))
      meaning += fmt::format(" Top-5 (right class among the five most probable): {}.", percent(report.test->top5));
    if (std::isfinite(report.test->loss))
      meaning += fmt::format(" Mean cross-entropy loss: {} nats.", significant(report.test->loss));
    out += tile("Test accuracy", percent(report.test->top1),
                meaning + " " + interval_text(report.test->top1, report.test->images));
  }
  if (report.best_epoch > 0)
    out +=
        tile("Best epoch", fmt::format("{} of {}", report.best_epoch, report.epochs.size()),
             report.best_by.empty() ? "The epoch whose weights are kept as the best."
                                    : fmt::format("The epoch whose weights are kept as the best: {}.", report.best_by));
  double seconds = report.total_seconds;
  if (!std::isfinite(seconds)) {
    seconds = 0;
    for (const EpochMetrics& row : report.epochs) seconds += row.seconds;
  }
  if (std::isfinite(seconds) && !report.epochs.empty())
    out += tile("Time", duration(seconds),
                fmt::format("Wall-clock time for {} on {}, validation included.", epochs_trained(report),
                            counted(report.train_images, "training image", "training images")));
  out += {"</div>\n"};
  return out;
}

enum class Unit { kAsIs, kPercent };

Series series(const TrainingReport& report, const char* name, double EpochMetrics::*member, Unit unit = Unit::kAsIs) {
  Series out{name, {}, {}};
  for (const EpochMetrics& row : report.epochs) {
    out.x.push_back(static_cast<double>(row.epoch));
    out.y.push_back(unit == Unit::kPercent ? 100 * (row.*member) : row.*member);
  }
  return out;
}

LineChart epoch_chart(const char* title, Axis y) {
  LineChart chart;
  chart.title = title;
  chart.x = {"epoch (passes over the training images)", AxisScale::kLinear, AxisTicks::kWhole, false};
  chart.y = std::move(y);
  return chart;
}

Html chart_figure(const LineChart& chart, std::string_view caption) {
  return {"<div><h3>" + escape(chart.title) + "</h3>" + figure({to_svg(chart)}, text(caption)).markup + "</div>\n"};
}

Html charts(const TrainingReport& report, const Overfitting& overfitting) {
  Html out{"<div class=\"charts\">"};
  LineChart loss = epoch_chart("Loss", {"cross-entropy loss (nats)"});
  loss.series = {series(report, "training", &EpochMetrics::train_loss),
                 series(report, "validation", &EpochMetrics::val_loss)};
  const bool over_fits = overfitting.verdict == Overfitting::Verdict::kSeen;
  if (over_fits)
    loss.annotations.push_back(
        {static_cast<double>(overfitting.epoch), fmt::format("over-fitting starts after epoch {}", overfitting.epoch)});
  out += chart_figure(
      loss,
      "Mean cross-entropy, the quantity that training lowers: minus the natural logarithm of the probability given "
      "to the right class (0 nats: sure and right). " +
          overfitting.sentence +
          (over_fits ? " From there on the model learns the training images by heart "
                       "rather than what they have in common."
                     : ""));

  LineChart accuracy = epoch_chart("Accuracy", {"top-1 accuracy (%)"});
  accuracy.series = {series(report, "training", &EpochMetrics::train_top1, Unit::kPercent),
                     series(report, "validation", &EpochMetrics::val_top1, Unit::kPercent)};
  if (find_epoch(report, report.best_epoch))
    accuracy.annotations.push_back(
        {static_cast<double>(report.best_epoch), fmt::format("best epoch: {}", report.best_epoch)});
  out += chart_figure(accuracy, "Share of images whose most probable class is the right one.");

  LineChart rate = epoch_chart("Learning rate", {"learning rate (no unit)", AxisScale::kLinear, AxisTicks::kAny, true});
  rate.series = {series(report, "learning rate", &EpochMetrics::lr)};
  out += chart_figure(
      rate, "How large the optimizer's steps are: the value at each epoch's last step, a factor without a unit.");

  LineChart speed = epoch_chart("Speed", {"throughput (images/s)", AxisScale::kLinear, AxisTicks::kAny, true});
  speed.series = {series(report, "training", &EpochMetrics::images_per_s)};
  out += chart_figure(speed,
                      "Training images per second of training (forward, backward and update; validation not counted).");
  out += {"</div>\n"};
  return out;
}

Html epoch_table(const TrainingReport& report) {
  Table table;
  table.caption = "Every epoch in numbers (also in metrics.csv)";
  table.columns = {{"epoch", "one pass over the training images", Align::kNumber},
                   {"steps", "weight updates since the start", Align::kNumber},
                   {"learning rate", "at the epoch's last step; no unit", Align::kNumber},
                   {"training loss", "mean cross-entropy over the epoch, in nats", Align::kNumber},
                   {"validation loss", "mean cross-entropy after the epoch, in nats", Align::kNumber},
                   {"training top-1", "share of right answers over the epoch, in %", Align::kNumber},
                   {"validation top-1", "share of right answers after the epoch, in %", Align::kNumber},
                   {"images/s", "training images per second of training", Align::kNumber},
                   {"time", "wall-clock time of the epoch, validation included", Align::kNumber}};
  for (const EpochMetrics& row : report.epochs) {
    const bool best = row.epoch == report.best_epoch;
    table.rows.push_back({{best ? fmt::format("<b>{} (best)</b>", row.epoch) : fmt::format("{}", row.epoch)},
                          text(grouped(row.step)),
                          text(significant(row.lr, 3)),
                          text(fixed(row.train_loss)),
                          text(fixed(row.val_loss)),
                          text(percent(row.train_top1)),
                          text(percent(row.val_top1)),
                          text(significant(row.images_per_s, 4)),
                          text(duration(row.seconds))});
  }
  return to_html(table);
}

Html training_section(const TrainingReport& report, const Overfitting& overfitting) {
  if (report.epochs.empty()) return paragraph(text("No epoch was finished, so there are no curves."));
  Html out = charts(report, overfitting);
  out +=
      paragraph(text("Training values are averages over an epoch, taken while the weights change and with the "
                     "training-time disturbances "
                     "(augmentation, dropout, stochastic depth, label smoothing) that the run uses; validation values "
                     "are taken after the "
                     "epoch without them. Validation may therefore look better than training in early epochs."));
  out += epoch_table(report);
  return out;
}

Html skipped_section(const TrainingReport& report) {
  if (report.skipped.empty()) return paragraph(text("No file was skipped: every image could be read."));
  const auto count = static_cast<int64_t>(report.skipped.size());
  Html out = paragraph(text(fmt::format("{} could not be used and {} left out of the run.",
                                        counted(count, "file", "files"), count == 1 ? "was" : "were")));
  Table table;
  table.caption = report.skipped.size() > kSkippedAtMost
                      ? fmt::format("The first {} of {} skipped files", kSkippedAtMost, grouped(count))
                      : "Skipped files";
  table.columns = {{"file", "", Align::kText}, {"reason", "", Align::kText}};
  for (size_t i = 0; i < std::min(kSkippedAtMost, report.skipped.size()); ++i)
    table.rows.push_back(
        {{"<div class=\"path\">" + escape(report.skipped[i].path) + "</div>"}, text(report.skipped[i].reason)});
  out += to_html(table);
  return out;
}

}  // namespace

std::string render(const TrainingReport& report) {
  const Overfitting overfitting = find_overfitting(report.epochs);
  Page page(report.title);
  page.lead({"<p class=\"result\">" + escape(result_sentence(report)) + "</p>\n"});
  std::string story;
  if (report.test) story += test_sentence(*report.test) + " ";
  if (!report.why_ended.empty()) story += report.why_ended + " ";
  if (report.planned_epochs > static_cast<int64_t>(report.epochs.size()))
    story += fmt::format("{} had been planned. ", counted(report.planned_epochs, "epoch", "epochs"));
  if (!report.epochs.empty()) story += overfitting.sentence;
  if (!story.empty()) page.lead(paragraph(text(story)));
  page.lead(tiles(report));
  page.section("How training went", training_section(report, overfitting));
  page.section("Which classes are confused", confusion_section(report));
  page.section("Class by class", class_table_section(report));
  page.section("The worst mistakes", mistakes_section(report));
  page.section("Skipped files", skipped_section(report));
  Html facts;
  for (const FactGroup& group : report.facts) {
    facts += {"<h3>" + escape(group.heading) + "</h3>"};
    facts += definitions(group.facts);
  }
  if (report.facts.empty()) facts += paragraph(text("Nothing was recorded about the run."));
  page.section("What was run, and on what", facts);
  return page.str();
}

}  // namespace fovea::report
