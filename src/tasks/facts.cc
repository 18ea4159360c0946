#include "tasks/facts.h"

#include <algorithm>
#include <cstdlib>

#include "core/text.h"

namespace fovea {

std::string fact_text(const RecognisedModel& model, std::string_view key) {
  const auto it = model.facts.find(std::string(key));
  if (it == model.facts.end()) return "";
  const auto* text = std::get_if<std::string>(&it->second);
  return text ? *text : "";
}

double fact_number(const RecognisedModel& model, std::string_view key, double otherwise) {
  const auto it = model.facts.find(std::string(key));
  if (it == model.facts.end()) return otherwise;
  if (const auto* number = std::get_if<double>(&it->second)) return *number;
  const auto* whole = std::get_if<int64_t>(&it->second);
  return whole ? static_cast<double>(*whole) : otherwise;
}

std::vector<int64_t> fact_integers(const RecognisedModel& model, std::string_view key) {
  const std::string text = fact_text(model, key);
  std::vector<int64_t> out;
  if (text.empty()) return out;
  for (const std::string& part : split(text, ',')) out.push_back(std::strtoll(part.c_str(), nullptr, 10));
  return out;
}

bool is_assumed(const RecognisedModel& model, std::string_view key) { return std::ranges::find(model.assumed, key) != model.assumed.end(); }
bool is_unknown(const RecognisedModel& model, std::string_view key) { return std::ranges::find(model.unknown, key) != model.unknown.end(); }

bool is_set(const Settings& settings, std::string_view key) {
  return std::any_of(settings.begin(), settings.end(), [&](const auto& s) { return s.first == key; });
}

}  // namespace fovea
