// Reading what a recognised model states about itself.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "fovea/model.h"
#include "weights/key_map.h"

namespace fovea {

std::string fact_text(const RecognisedModel& model, std::string_view key);                        // "" when it is absent or no text
double fact_number(const RecognisedModel& model, std::string_view key, double otherwise);
std::vector<int64_t> fact_integers(const RecognisedModel& model, std::string_view key);           // "2,2,6,2" as numbers
bool is_assumed(const RecognisedModel& model, std::string_view key);
bool is_unknown(const RecognisedModel& model, std::string_view key);
bool is_set(const Settings& settings, std::string_view key);                                      // by --set

}  // namespace fovea
