// fovea compare DATA --model M --attention SPEC --attention SPEC ...
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "interrupt.h"
#include "options.h"
#include "progress.h"

namespace fovea::cli {

namespace {

struct CompareArguments {
  Common common;
  SizeAndSettings shape;
  CompareOptions compare;
  bool json = false, no_growth = false;
};

class CompareScreen : public CompareObserver {
 public:
  explicit CompareScreen(bool json) : json_(json), bar_(std::in_place, "compare", "") {}
  void on_progress(const CompareProgress& p) override {
    constexpr int64_t kSteps = 10000;
    const std::string left = std::isfinite(p.seconds_left) ? fmt::format("  {} left", duration_text(p.seconds_left)) : "";
    bar_->show(static_cast<int64_t>(p.done * kSteps), kSteps, fmt::format("{:.0f} %  {}{}", 100 * p.done, p.what, left));
  }
  void on_trial(const CompareTrial& t, const std::string& attention) override {
    bar_->finish();
    const std::string line = fmt::format("{:<40} seed {}: {:6.2f} %  ({:.1f} epochs, {:.0f} images/s)", attention, t.seed, 100 * t.top1, t.epochs, t.train_images_per_s);
    fmt::print(json_ ? stderr : stdout, "{}\n", line);
    std::fflush(stdout);
  }
  void on_message(const std::string& text) override {
    bar_->finish();
    note(text);
  }
  bool stop_requested() override { return interrupted(); }
  void finish() { bar_.reset(); }

 private:
  bool json_;
  std::optional<ProgressBar> bar_;
};

std::string mean_text(const CompareResult& r, size_t contender) {
  double sum = 0, n = 0;
  for (const CompareTrial& t : r.trials)
    if (t.contender == static_cast<int64_t>(contender)) {
      sum += t.top1;
      ++n;
    }
  return n > 0 ? fmt::format("{:.2f}", 100 * sum / n) : "-";
}

int run(CompareArguments& o) {
  require_kernels(o.common);
  o.compare.execution = o.common.execution;
  o.compare.seed = o.common.seed;
  o.compare.set = o.shape.settings();
  std::tie(o.compare.height, o.compare.width) = o.shape.height_width();
  o.compare.growth = !o.no_growth;
  watch_for_interrupts();
  CompareScreen screen(o.json);
  CompareResult r;
  try {
    r = compare(o.compare, screen);
  } catch (const Interrupted& e) {
    screen.finish();
    fmt::print(stderr, "{}\n", e.what());
    return 0;
  }
  screen.finish();
  if (o.json) {
    std::FILE* file = std::fopen((r.out + "/compare.json").c_str(), "rb");
    if (file == nullptr) throw Error(fmt::format("cannot read '{}/compare.json' back", r.out));
    char buffer[4096];
    for (size_t n = 0; (n = std::fread(buffer, 1, sizeof buffer, file)) > 0;) std::fwrite(buffer, 1, n, stdout);
    std::fclose(file);
    return 0;
  }
  fmt::print("\n");
  std::vector<std::vector<std::string>> rows;
  for (size_t i = 0; i < r.attentions.size(); ++i) {
    const CompareCost& c = r.costs[i];
    rows.push_back({r.attentions[i], mean_text(r, i), fmt::format("{:.3f}", c.ms_per_image), fmt::format("{:.3f}", c.gflop), count_text(c.parameters),
                    fmt::format("{:.0f}", c.training_memory_mib)});
  }
  print_table({"attention", "accuracy %", "ms an image", "GFLOP", "parameters", "MiB to train"}, rows, " rrrrr");
  fmt::print("\n{}\nOpen {}/report.html.\n", r.verdict, r.out);
  return 0;
}

}  // namespace

Verb add_compare(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("compare", "Train several attentions in one backbone and say which suits the data");
  verb->footer("Examples:\n"
               "  fovea compare fashion-mnist --model swin_mini --attention window --attention global --seeds 3 --epochs 2 --out runs/compare\n"
               "  fovea compare photos --model swin_mini --attention window --attention global@1,window@2 --minutes 60 --out runs/which\n"
               "The same command continues a comparison that was stopped.");
  const auto o = std::make_shared<CompareArguments>();
  CompareOptions& c = o->compare;
  verb->add_option("DATA", c.data, "a folder of class folders or of IDX files, a .tar.gz of either, or an installed data set")->required();
  verb->add_option("--model", c.model, "the preset that all share (fovea list models)")->capture_default_str();
  verb->add_option("--attention", c.attentions, "SPEC of one contender; give it once for each (fovea list attentions)")->take_all()->expected(1)->delimiter('\0');
  verb->add_option("--seeds", c.seeds, "trainings of each contender")->capture_default_str();
  verb->add_option("--epochs", c.epochs, "passes over the training images for each training (default: 10)")->check(CLI::NonNegativeNumber);
  verb->add_option("--minutes", c.minutes, "time for all trainings together, in equal shares, instead of --epochs")->check(CLI::NonNegativeNumber);
  verb->add_option("--batch", c.batch, "images at a time (default: chosen for the model)");
  verb->add_option("--dtype", c.dtype, "f32, or bf16: products of weights read their operands rounded; weights, gradients and all else stay f32")
      ->capture_default_str();
  verb->add_option("--out", c.out, "folder for trainings and report")->required();
  verb->add_flag("--no-growth", o->no_growth, "leave out how time and memory grow with the input");
  verb->add_option("--growth-tokens", c.growth_tokens, "largest map of the growth curves, in tokens")->capture_default_str();
  verb->add_option("--growth-seconds", c.growth_seconds, "leave out what takes longer a pass")->capture_default_str();
  verb->add_flag("--json", o->json, "one JSON document on stdout");
  add_size(*verb, o->shape);
  add_set(*verb, o->shape);
  add_common(*verb, o->common);
  return {verb, [o] { return run(*o); }};
}

}  // namespace fovea::cli
