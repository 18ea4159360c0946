#include "tasks/compare_trial.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "core/json.h"

namespace fovea {

namespace {

using TrialJson = nlohmann::ordered_json;

template <class Judged, class Visit>
void visit_trial(Judged& j, Visit&& visit) {
  visit("top1", j.trial.top1);
  visit("top5", j.trial.top5);
  visit("loss", j.trial.loss);
  visit("val_top1", j.trial.val_top1);
  visit("best_epoch", j.trial.best_epoch);
  visit("epochs", j.trial.epochs);
  visit("seconds", j.trial.seconds);
  visit("train_images_per_s", j.trial.train_images_per_s);
  visit("split", j.split);
  visit("images", j.images);
}

}  // namespace

std::string to_json(const JudgedTrial& judged) {
  TrialJson j;
  visit_trial(judged, [&](const char* name, const auto& member) { j[name] = member; });
  return j.dump(2) + "\n";
}

std::optional<JudgedTrial> judged_trial_from_json(const std::string& text) {
  const auto j = parse_json<TrialJson>(text);
  JudgedTrial judged;
  bool complete = true;
  visit_trial(judged, [&](const std::string_view name, auto& member) {
    const auto at = j.find(name);
    if (at != j.end() && read_json(*at, member)) return;
    // A run too short to be timed has no speed: null.
    if constexpr (std::is_same_v<decltype(member), double&>)
      if (name == "train_images_per_s") return void(member = std::numeric_limits<double>::quiet_NaN());
    complete = false;
  });
  return complete ? std::optional(std::move(judged)) : std::nullopt;
}

}  // namespace fovea
