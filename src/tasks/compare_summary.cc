#include "tasks/compare_summary.h"

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "attention/registry.h"
#include "fovea/info.h"
#include "kernels/kernel_table.h"
#include "report/compare_report.h"
#include "report/csv.h"
#include "report/numbers.h"
#include "tasks/compare_measure.h"
#include "tasks/this_process.h"

namespace fovea {

namespace {

using Json = nlohmann::ordered_json;
using report::csv_number;

constexpr int kPatternSide = 14;

Json number(double x) { return std::isfinite(x) ? Json(x) : Json(nullptr); }

std::string settings_text(const Settings& set) {
  std::vector<std::string> parts;
  for (const auto& [key, value] : set) parts.push_back(key + "=" + value);
  return fmt::format("{}", fmt::join(parts, ", "));
}

std::string last_folder(std::string data) {
  while (data.size() > 1 && data.ends_with('/')) data.pop_back();
  const size_t slash = data.rfind('/');
  return slash == std::string::npos || slash + 1 == data.size() ? data : data.substr(slash + 1);
}

// The patterns of the first two blocks; one where they agree.
std::vector<report::CellMap> patterns_of(const ModelConfig& config) {
  std::vector<report::CellMap> maps;
  const int64_t query = 5 * kPatternSide + 6;
  if (!attention_unsupported(config, kPatternSide, kPatternSide).empty()) return maps;
  for (const int64_t block : {0, 1}) {
    report::CellMap m;
    m.title = fmt::format("{}, block {}: cells that influence the marked one", config.attention, block + 1);
    m.height = m.width = kPatternSide;
    m.query = static_cast<int>(query);
    for (const double s : influence(config, block, kPatternSide, kPatternSide, query))
      m.strength.push_back(s > 0 ? 0.25 + 0.75 * std::pow(s, 0.5) : 0);  // weak influence remains visible
    maps.push_back(std::move(m));
  }
  const auto same = [&] {
    for (size_t i = 0; i < maps[0].strength.size(); ++i)
      if ((maps[0].strength[i] > 0) != (maps[1].strength[i] > 0)) return false;
    return true;
  };
  if (same()) maps.pop_back();
  return maps;
}

// What the registry says of a mechanism, and of how mechanisms are combined.
std::string explained(const AttentionSpec& spec) {
  if (spec.form == AttentionSpec::Form::kSingle) return attention_kind(spec.name).summary;
  std::vector<std::string> parts;
  for (const AttentionSpec& part : spec.parts)
    parts.push_back(part.form == AttentionSpec::Form::kSingle ? fmt::format("{}: {}", part.name, explained(part)) : explained(part));
  return fmt::format("{}. {}", spec.form == AttentionSpec::Form::kUnion ? "One softmax over the keys of all parts" : "The heads are shared among the parts",
                     fmt::join(parts, ". "));
}

std::string explained(const std::string& spec) {
  const std::vector<AttentionSpec> stages = parse_attention_stages(spec);
  if (stages.size() == 1) return explained(stages[0]);
  std::vector<std::string> parts;
  for (size_t i = 0; i < stages.size(); ++i) parts.push_back(fmt::format("Stage {}: {}", i + 1, explained(stages[i])));
  return fmt::format("{}", fmt::join(parts, ". "));
}

report::Comparison comparison_of(const CompareResult& r, const std::vector<ModelConfig>& configs, const CompareOptions& o) {
  report::Comparison c;
  c.model = r.model;
  c.split = r.split;
  c.images = r.images;
  c.seeds = o.seeds;
  c.title = fmt::format("{} attentions in {} on {}", r.attentions.size(), r.model, last_folder(r.data));
  for (size_t i = 0; i < r.attentions.size(); ++i) {
    report::Contender x;
    x.name = r.attentions[i];
    x.explained = explained(r.attentions[i]);
    std::vector<double> epochs, rates, seconds;
    for (const CompareTrial& t : r.trials) {
      if (t.contender != static_cast<int64_t>(i)) continue;
      x.top1.push_back(t.top1);
      epochs.push_back(t.epochs);
      rates.push_back(t.train_images_per_s);
      seconds.push_back(t.seconds);
    }
    x.epochs = report::mean(epochs);
    x.train_images_per_s = report::mean(rates);
    x.train_seconds = report::mean(seconds);
    if (i < r.costs.size()) {
      const CompareCost& k = r.costs[i];
      x.parameters = k.parameters;
      x.gflop = k.gflop;
      x.ms_per_image = k.ms_per_image;
      x.images_per_s = k.images_per_s;
      x.inference_memory_mib = k.inference_memory_mib;
      x.training_memory_mib = k.training_memory_mib;
    }
    x.patterns = patterns_of(configs[i]);
    c.contenders.push_back(std::move(x));
  }
  for (const bool model : {false, true}) {
    auto& curves = model ? c.model_growth : c.attention_growth;
    for (size_t i = 0; i < r.attentions.size(); ++i) {
      report::GrowthCurve curve{i, {}, {}, {}};
      std::string told;
      for (const GrowthPoint& p : r.growth) {
        if (p.model != model || p.contender != static_cast<int64_t>(i)) continue;
        curve.size.push_back(model ? static_cast<double>(p.height) : static_cast<double>(p.height * p.width));
        curve.ms.push_back(p.ms);
        curve.memory_mib.push_back(p.memory_mib);
        if (p.why.empty() || p.why == told) continue;
        told = p.why;
        c.not_measured.push_back(fmt::format("{}, {} from {}x{} {} on: not measured, {}.", r.attentions[i], model ? "whole model" : "attention alone", p.height,
                                             p.width, model ? "pixels" : "tokens", p.why));
      }
      if (!curve.size.empty()) curves.push_back(std::move(curve));
    }
  }
  c.equal = {fmt::format("the backbone: {} at {}x{} pixels; only the attention inside its blocks differs", r.model, r.height, r.width),
             "the data, the order of the images, their augmentation and the batches, seed by seed",
             "optimizer, learning rate schedule, regularisation, the choice of the best epoch on validation images",
             "the machine, the threads and the kernels underneath"};
  if (o.minutes > 0)
    c.equal.push_back(fmt::format("the time: {:.3g} minutes for each training", o.minutes / static_cast<double>(o.seeds) / static_cast<double>(r.attentions.size())));
  else
    c.equal.push_back(fmt::format("the number of epochs: {:g} for each training", o.epochs));
  if (o.minutes > 0) c.unequal.push_back("the number of epochs: within equal time a faster mechanism sees the images more often");
  else c.unequal.push_back("the time of training: at equal epochs a slower mechanism was given more of it");
  c.unequal.push_back("the number of parameters: mechanisms with tables or projections of their own have more (see the table)");
  c.unequal.push_back("options of the mechanisms are their defaults where the SPEC says nothing; none was tuned to this data, nor was the learning rate tuned to any of them");
  c.unequal.push_back("what longer training, pre-training or other image sizes would change is not measured here");
  const std::string processor = processor_name();
  report::FactGroup what{"What was run, and on what", {}};
  what.facts = {{"Data", fmt::format("{}: {} images to train on, {} classes", r.data, r.train_images, r.classes), ""},
                {"Judged on", fmt::format("{} images of the part '{}'", r.images, r.split),
                 r.split == "test" ? "they played no part in training or in choosing epochs" : "there is no test part: these images also chose the best epoch"},
                {"Seeds", fmt::format("{}, from {} on", o.seeds, o.seed), "each seed gives all contenders their weights' random start and the order of images"},
                {"Settings", o.set.empty() ? "the preset's" : settings_text(o.set), o.set.empty() ? "" : "of the model, changed from the preset for all contenders"},
                {"Batch", fmt::format("{} images", r.batch), "of training; inference is measured with as many"},
                {"Processor", fmt::format("{}, {} threads", processor.empty() ? "unknown" : processor, ThreadPool(o.execution.threads).threads()), ""},
                {"Kernels", std::string(kernel_table(o.execution.kernels).name), "instruction set"},
                {"fovea", version(), ""}};
  for (const std::string& n : r.notes) what.facts.push_back({"Note", n, ""});
  c.facts.push_back(std::move(what));
  return c;
}

void write_csv(const CompareResult& r) {
  report::CsvWriter trials = report::CsvWriter::create(r.out + "/trials.csv", {"attention", "seed", "split", "top1", "top5", "loss", "val_top1", "best_epoch", "epochs",
                                                                               "seconds", "train_images_per_s"});
  for (const CompareTrial& t : r.trials)
    trials.write_row({r.attentions[static_cast<size_t>(t.contender)], std::to_string(t.seed), r.split, csv_number(t.top1), csv_number(t.top5), csv_number(t.loss),
                      csv_number(t.val_top1), std::to_string(t.best_epoch), csv_number(t.epochs), csv_number(t.seconds), csv_number(t.train_images_per_s)});
  report::CsvWriter costs = report::CsvWriter::create(r.out + "/contenders.csv", {"attention", "parameters", "gflop", "ms_per_image", "images_per_s", "inference_memory_mib",
                                                                                  "training_memory_mib"});
  for (size_t i = 0; i < r.costs.size(); ++i) {
    const CompareCost& c = r.costs[i];
    costs.write_row({r.attentions[i], std::to_string(c.parameters), csv_number(c.gflop), csv_number(c.ms_per_image), csv_number(c.images_per_s),
                     csv_number(c.inference_memory_mib), csv_number(c.training_memory_mib)});
  }
}

std::string to_json(const CompareResult& r, const report::Comparison& c, const std::string& verdict) {
  report::Contest contest;
  contest.images = r.images;
  for (const report::Contender& x : c.contenders) contest.shares.push_back(x.top1);
  Json contenders = Json::array();
  for (size_t i = 0; i < c.contenders.size(); ++i) {
    const report::Contender& x = c.contenders[i];
    contenders.push_back({{"attention", x.name}, {"top1", x.top1}, {"top1_mean", number(report::mean(x.top1))}, {"top1_half_width_95", number(contest.half_width(i))},
                          {"epochs", number(x.epochs)}, {"train_images_per_s", number(x.train_images_per_s)}, {"images_per_s", number(x.images_per_s)},
                          {"ms_per_image", number(x.ms_per_image)}, {"gflop", number(x.gflop)}, {"parameters", x.parameters},
                          {"inference_memory_mib", number(x.inference_memory_mib)}, {"training_memory_mib", number(x.training_memory_mib)}});
  }
  Json growth = Json::array();
  for (const GrowthPoint& p : r.growth)
    growth.push_back({{"what", p.model ? "model" : "attention"}, {"attention", r.attentions[static_cast<size_t>(p.contender)]}, {"size", {p.height, p.width}},
                      {"ms", number(p.ms)}, {"memory_mib", number(p.memory_mib)}, {"why", p.why}});
  const Json j = {{"fovea", version()}, {"model", r.model}, {"data", r.data}, {"split", r.split}, {"images", r.images}, {"size", {r.height, r.width}}, {"batch", r.batch},
                  {"verdict", verdict}, {"contenders", contenders}, {"growth", growth}};
  return j.dump(2) + "\n";
}

}  // namespace

std::string write_comparison(const CompareResult& result, const std::vector<ModelConfig>& configs, const CompareOptions& options) {
  const report::Comparison c = comparison_of(result, configs, options);
  const std::string verdict = report::verdict(c);
  write_csv(result);
  report::write_text_atomically(result.out + "/compare.json", to_json(result, c, verdict));
  report::write_text_atomically(result.out + "/report.html", report::render(c));
  return verdict;
}

}  // namespace fovea
