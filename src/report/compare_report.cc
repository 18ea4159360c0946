#include "report/compare_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "report/numbers.h"

namespace fovea::report {

namespace {

Contest contest_of(const Comparison& c) {
  Contest contest;
  contest.images = c.images;
  for (const Contender& x : c.contenders) contest.shares.push_back(x.top1);
  return contest;
}

// Contenders from the most accurate to the least; those without a result are left out.
std::vector<size_t> ranking(const Comparison& c) {
  std::vector<size_t> order;
  for (size_t i = 0; i < c.contenders.size(); ++i)
    if (!c.contenders[i].top1.empty()) order.push_back(i);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return mean(c.contenders[a].top1) > mean(c.contenders[b].top1); });
  return order;
}

std::string list_of(const std::vector<std::string>& names) {
  if (names.size() == 1) return names[0];
  std::string out;
  for (size_t i = 0; i < names.size(); ++i) out += (i == 0 ? "" : i + 1 == names.size() ? " and " : ", ") + names[i];
  return out;
}

std::string points(double share) { return fmt::format("{:.1f}", 100 * share); }

std::string accuracy_text(const Contest& contest, size_t i) {
  return fmt::format("{} ± {}", points(mean(contest.shares[i])), points(contest.half_width(i)));
}

// Speeds closer than this are called alike: what a busy machine does to one measurement.
constexpr double kAlike = 1.05;

Html verdict_html(const Comparison& c) { return {"<p class=\"result\">" + escape(verdict(c)) + "</p>\n"}; }

Html accuracy_section(const Comparison& c) {
  const Contest contest = contest_of(c);
  Html out{"<div class=\"charts\">"};
  const auto chart = [&](const char* title, const char* axis, auto value, const char* caption) {
    ScatterChart s;
    s.title = title;
    s.x = {axis, AxisScale::kLog};
    s.y = {fmt::format("top-1 accuracy on {} images (%)", c.split == "val" ? "validation" : c.split)};
    for (size_t i = 0; i < c.contenders.size(); ++i)
      if (!c.contenders[i].top1.empty())
        s.points.push_back({c.contenders[i].name, value(c.contenders[i]), 100 * mean(contest.shares[i]), 100 * contest.half_width(i)});
    out += {"<div><h3>" + escape(title) + "</h3>" + figure({to_svg(s)}, text(caption)).markup + "</div>\n"};
  };
  chart("Accuracy against the time of an answer", "inference time of an image (ms)", [](const Contender& x) { return x.ms_per_image; },
        "Up and to the left is better. Bars: 95 % intervals of the mean over the seeds; where two bars overlap widely, the order of the two may be chance.");
  chart("Accuracy against the time of training", "training time of an image (ms)", [](const Contender& x) { return 1000 / x.train_images_per_s; },
        "The same accuracies against what each image cost in training: forward, backward and update.");
  out += {"</div>\n"};
  return out;
}

Html table_section(const Comparison& c) {
  const Contest contest = contest_of(c);
  Table table;
  table.caption = "Every contender, the most accurate first";
  table.columns = {{"attention", "the SPEC: what --attention was given", Align::kText},
                   {"accuracy %", "mean top-1 over the seeds, ± half of its 95 % interval", Align::kNumber},
                   {"by seed %", "top-1 of each training", Align::kText},
                   {"epochs", "passes over the training images, mean of the seeds", Align::kNumber},
                   {"train images/s", "images trained on in a second, mean of the seeds", Align::kNumber},
                   {"images/s", "images answered in a second", Align::kNumber},
                   {"GFLOP", "multiplications and additions for one image by the mechanism's definition, in billions", Align::kNumber},
                   {"parameters", "numbers that training fits", Align::kNumber},
                   {"MiB infer", "memory of inference at that batch: weights, activations and scratch", Align::kNumber},
                   {"MiB train", "memory of a training step, gradients and optimizer included", Align::kNumber}};
  for (const size_t i : ranking(c)) {
    const Contender& x = c.contenders[i];
    std::string seeds;
    for (const double s : x.top1) seeds += (seeds.empty() ? "" : ", ") + points(s);
    table.rows.push_back({{"<code>" + escape(x.name) + "</code>"}, text(accuracy_text(contest, i)), text(seeds), text(fixed(x.epochs, 1)),
                          text(significant(x.train_images_per_s, 3)), text(significant(x.images_per_s, 3)), text(significant(x.gflop, 3)),
                          text(grouped(x.parameters)), text(fixed(x.inference_memory_mib, 0)), text(fixed(x.training_memory_mib, 0))});
  }
  return to_html(table);
}

Html growth_section(const Comparison& c) {
  Html out{"<div class=\"charts\">"};
  const auto chart = [&](const char* title, const std::vector<GrowthCurve>& curves, const char* x_axis, const char* y_axis,
                         std::vector<double> GrowthCurve::*member, const char* caption) {
    if (curves.empty()) return;
    LineChart l;
    l.title = title;
    l.x = {x_axis, AxisScale::kLog};
    l.y = {y_axis, AxisScale::kLog};
    for (const GrowthCurve& g : curves) l.series.push_back({c.contenders[g.contender].name, g.size, g.*member});
    out += {"<div><h3>" + escape(title) + "</h3>" + figure({to_svg(l)}, text(caption)).markup + "</div>\n"};
  };
  chart("Time of the attention alone", c.attention_growth, "tokens", "forward and backward (ms)", &GrowthCurve::ms,
        "One attention layer of the model's first stage. On these axes a line twice as steep means twice the exponent: linear growth rises one decade a decade.");
  chart("Memory of the attention alone", c.attention_growth, "tokens", "forward and backward (MiB)", &GrowthCurve::memory_mib,
        "Activations, what is kept for the backward, and scratch.");
  chart("Time of the whole model", c.model_growth, "side of the image (pixels)", "inference, one image (ms)", &GrowthCurve::ms,
        "The trained architecture on larger square images, random weights.");
  chart("Memory of the whole model", c.model_growth, "side of the image (pixels)", "inference, one image (MiB)", &GrowthCurve::memory_mib,
        "Weights, activations and scratch.");
  out += {"</div>\n"};
  for (const std::string& s : c.not_measured) out += paragraph(text(s));
  return out;
}

Html pattern_section(const Comparison& c) {
  Html out = paragraph(text("The orange square asks; the darker a cell, the more its content changes the answer (gradient of a block with random weights). White cells have no "
                            "influence at all. Left: the first block; right: the second, where some mechanisms shift or alternate."));
  out += {"<div class=\"shots\" style=\"grid-template-columns:repeat(auto-fill,minmax(280px,1fr))\">"};
  for (const Contender& x : c.contenders) {
    if (x.patterns.empty()) continue;
    out += {"<figure><figcaption><code>" + escape(x.name) + "</code>" + (x.explained.empty() ? "" : "<br>" + escape(x.explained)) + "</figcaption><div style=\"display:flex;gap:12px\">"};
    for (const CellMap& m : x.patterns) out += {to_svg(m)};
    out += {"</div></figure>"};
  }
  out += {"</div>\n"};
  return out;
}

Html list_html(const std::vector<std::string>& sentences) {
  std::string out = "<ul>";
  for (const std::string& s : sentences) out += "<li>" + escape(s) + "</li>";
  return {out + "</ul>\n"};
}

std::string speed_choice(const Comparison& c, const std::vector<size_t>& order, size_t fastest) {
  const double least = c.contenders[fastest].ms_per_image;
  std::vector<std::string> alike;
  for (const size_t i : order)
    if (c.contenders[i].ms_per_image <= kAlike * least) alike.push_back(c.contenders[i].name);
  if (alike.size() == order.size()) return "Nor are they in speed (within 5 %): any of them will do; longer training or larger images may tell them apart.";
  if (alike.size() == 1) return fmt::format("Choose by speed: {} answers an image in {} ms, the shortest of all.", alike[0], significant(least, 3));
  return fmt::format("Choose by speed: {} answer an image in about {} ms, the shortest of all.", list_of(alike), significant(least, 3));
}

}  // namespace

std::string verdict(const Comparison& c) {
  const Contest contest = contest_of(c);
  const std::vector<size_t> order = ranking(c);
  if (order.empty()) return "No contender was trained yet, so there is nothing to say.";
  const size_t best = order[0];
  const auto& name = [&](size_t i) { return c.contenders[i].name; };
  if (order.size() == 1) return fmt::format("Only {} was trained: {} % accuracy; there is nothing to compare it with.", name(best), accuracy_text(contest, best));
  std::vector<std::string> equals, worse;
  size_t fastest = best;
  for (size_t k = 1; k < order.size(); ++k) {
    const size_t i = order[k];
    if (contest.distinguishable(best, i)) {
      worse.push_back(name(i));
    } else {
      equals.push_back(name(i));
      if (c.contenders[i].ms_per_image < c.contenders[fastest].ms_per_image) fastest = i;
    }
  }
  std::string out;
  if (equals.empty()) {
    out = fmt::format("Take {}: its {} % accuracy is above all others' by more than chance explains (the next is {} with {} %).", name(best),
                      accuracy_text(contest, best), name(order[1]), accuracy_text(contest, order[1]));
  } else if (worse.empty()) {
    out = fmt::format("On this data and budget the contenders are not distinguishable in accuracy: {} leads with {} %, but no difference to it exceeds chance. "
                      "{}",
                      name(best), accuracy_text(contest, best), speed_choice(c, order, fastest));
  } else {
    out = fmt::format("{} leads with {} % accuracy, but {} {} not distinguishable from it", name(best), accuracy_text(contest, best), list_of(equals),
                      equals.size() == 1 ? "is" : "are");
    const bool alike = c.contenders[best].ms_per_image <= kAlike * c.contenders[fastest].ms_per_image;
    out += fastest == best ? fmt::format("; {} is also the fastest of these, so take it.", name(best))
           : alike         ? fmt::format("; none of these is faster by more than 5 %, so take {}.", name(best))
                           : fmt::format("; take {}, the fastest of these ({} ms an image against {}).", name(fastest),
                                         significant(c.contenders[fastest].ms_per_image, 3), significant(c.contenders[best].ms_per_image, 3));
    out += fmt::format(" {} {} behind by more than chance explains.", list_of(worse), worse.size() == 1 ? "is" : "are");
  }
  if (c.seeds < 2) out += " With one seed the spread of training is not known: only the number of test images is accounted for. Use --seeds 3 or more to be sure.";
  return out;
}

std::string render(const Comparison& c) {
  Page page(c.title);
  page.lead(verdict_html(c));
  page.section("Accuracy and time", accuracy_section(c));
  page.section("All figures", table_section(c));
  if (!c.model_growth.empty() || !c.attention_growth.empty()) page.section("How cost grows with the input", growth_section(c));
  page.section("Who meets whom", pattern_section(c));
  Html fair = {"<h3>Equal for all</h3>\n"};
  fair += list_html(c.equal);
  fair += {"<h3>Not equal</h3>\n"};
  fair += list_html(c.unequal);
  page.section("What was equal and what was not", fair);
  for (const FactGroup& g : c.facts) page.section(g.heading, definitions(g.facts));
  return page.str();
}

}  // namespace fovea::report
