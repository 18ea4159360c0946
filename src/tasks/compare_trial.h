// trial.json: what one training of a comparison reached, kept beside its run so that a comparison continues after a kill.
#pragma once

#include <optional>
#include <string>

#include "fovea/compare.h"

namespace fovea {

struct JudgedTrial {
  CompareTrial trial;     // without `contender` and `seed`, which the file's place tells
  std::string split;      // that it was judged on
  int64_t images = 0;     // of it
};

std::string to_json(const JudgedTrial& judged);
/// What to_json gave; nothing where the text is none of it.
std::optional<JudgedTrial> judged_trial_from_json(const std::string& text);

}  // namespace fovea
