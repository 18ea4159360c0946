// fovea eval MODEL DATA
#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "options.h"
#include "progress.h"

namespace fovea::cli {

namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kShownClasses = 24;  // a larger confusion matrix is no use on a terminal

struct EvalArguments {
  Common common;
  SizeAndSettings shape;
  EvaluateOptions evaluate;
  std::string model, dtype = "auto";
  bool json = false;
};

void print_json(const Evaluation& e, bool against) {
  Json classes = Json::array(), skipped = Json::array();
  for (const ClassScore& c : e.classes)
    classes.push_back({{"name", c.name}, {"precision", c.precision}, {"recall", c.recall}, {"f1", c.f1}, {"support", c.support}});
  for (const SkippedFile& s : e.skipped) skipped.push_back({{"file", s.file}, {"why", s.why}});
  Json j = {{"split", e.split}, {"images", e.images}, {"skipped", skipped}, {"top1", e.top1}, {"top5", e.top5}, {"loss", e.loss},
            {"classes", classes}, {"confusion", e.confusion}, {"seconds", e.seconds}, {"images_per_s", e.images_per_s}};
  if (against) j["against"] = {{"top1", e.against_top1}, {"agreement", e.agreement}, {"largest_difference", e.largest_difference}};
  fmt::print("{}\n", j.dump(2, ' ', false, Json::error_handler_t::replace));
}

std::string percent(double share) { return std::isnan(share) ? "-" : fmt::format("{:.1f}", 100 * share); }

void print_text(const Evaluation& e, const EvalArguments& o) {
  fmt::print("{} on the part '{}' of {}: {} images in {} ({:.0f} images/s)\n\n", o.model, e.split, o.evaluate.data, e.images,
             duration_text(e.seconds), e.images_per_s);
  fmt::print("top-1 accuracy  {:7.2f} %   {} right\ntop-5 accuracy  {:7.2f} %\nloss            {:7.4f} nats\n", 100 * e.top1,
             std::llround(e.top1 * static_cast<double>(e.images)), 100 * e.top5, e.loss);
  if (!o.evaluate.against.empty())
    fmt::print("against {}: top-1 {:.2f} %, same answer for {:.2f} % of the images, largest difference of a probability {:.2g}\n",
               o.evaluate.against, 100 * e.against_top1, 100 * e.agreement, e.largest_difference);
  fmt::print("\n");
  std::vector<std::vector<std::string>> rows;
  for (const ClassScore& c : e.classes)
    if (c.support > 0 || !std::isnan(c.precision))
      rows.push_back({c.name, percent(c.precision), percent(c.recall), percent(c.f1), fmt::format("{}", c.support)});
  print_table({"class", "precision %", "recall %", "F1 %", "images"}, rows, "lrrrr");
  if (e.classes.size() > kShownClasses) {
    fmt::print("\nThe confusion matrix of {} classes is in the output of --json.\n", e.classes.size());
    return;
  }
  fmt::print("\nconfusion: rows are the true classes, columns what the model said\n");
  std::vector<std::string> header = {"class"};
  std::string right = "l";
  rows.clear();
  for (size_t c = 0; c < e.classes.size(); ++c) {
    header.push_back(fmt::format("{}", c));
    right += 'r';
    auto& row = rows.emplace_back();
    row.push_back(fmt::format("{} {}", c, e.classes[c].name));
    for (const int64_t n : e.confusion[c]) row.push_back(n == 0 ? "." : fmt::format("{}", n));
  }
  print_table(header, rows, right);
}

int run(EvalArguments& o) {
  require_kernels(o.common);
  LoadOptions load;
  load.set = o.shape.settings();
  std::tie(load.height, load.width) = o.shape.height_width();
  load.kernels = o.common.execution.kernels;
  load.dtype = o.dtype;
  load.seed = o.common.seed;
  const Model model = Model::load(o.model, load);
  const ModelInfo info = model.info();
  o.evaluate.execution = o.common.execution;
  o.evaluate.seed = o.common.seed;
  o.evaluate.set = load.set;
  o.evaluate.height = load.height;
  o.evaluate.width = load.width;
  ProgressBar bar("evaluating", "images");
  const Evaluation e = evaluate(model, o.evaluate, [&](int64_t done, int64_t total) { bar.show(done, total); });
  bar.finish();
  note_assumed(info);
  if (info.source.starts_with("preset")) note(fmt::format("{} has random weights: its answers mean nothing; name a weights file or a run", info.name));
  for (const std::string& n : e.notes) note(n);
  for (const SkippedFile& s : e.skipped) note(fmt::format("skipped {}: {}", s.file, s.why));
  if (o.json)
    print_json(e, !o.evaluate.against.empty());
  else
    print_text(e, o);
  return 0;
}

}  // namespace

Verb add_eval(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("eval", "Measure a model on labelled images");
  verb->footer("Example:\n  fovea eval runs/fashion fashion-mnist --split test --json");
  const auto o = std::make_shared<EvalArguments>();
  verb->add_option("MODEL", o->model, "a run directory, a weights file or a preset")->required();
  verb->add_option("DATA", o->evaluate.data, "a folder of class folders or of IDX files, a .tar.gz of either, or an installed data set")->required();
  verb->add_option("--split", o->evaluate.split, "train, val, test or all (default: test, else val)");
  verb->add_option("--against", o->evaluate.against, "a second model to compare with");
  verb->add_option("--batch", o->evaluate.batch, "images at a time")->capture_default_str();
  verb->add_option("--max-broken", o->evaluate.max_broken, "share of unreadable images above which to stop")->check(CLI::Range(0.0, 1.0))->capture_default_str();
  verb->add_flag("--json", o->json, "one JSON document on stdout");
  add_dtype(*verb, o->dtype);
  add_size(*verb, o->shape);
  add_set(*verb, o->shape);
  add_common(*verb, o->common);
  return {verb, [o] { return run(*o); }};
}

}  // namespace fovea::cli
