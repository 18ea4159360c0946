#include "weights/strict_load.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "core/check.h"

namespace fovea {

namespace {

// "; 12 missing: 'a', 'b' and 10 more", or nothing when the list is empty.
void append_group(std::string& text, std::string_view what, const std::vector<std::string>& entries) {
  constexpr size_t kShown = 10;
  if (entries.empty()) return;
  const std::span<const std::string> shown = std::span(entries).first(std::min(entries.size(), kShown));
  text += fmt::format("{}{} {}: {}", text.empty() ? "" : "; ", entries.size(), what, fmt::join(shown, ", "));
  if (entries.size() > kShown) text += fmt::format(" ... and {} more", entries.size() - kShown);
}

}  // namespace

void require_match(std::span<const WantedTensor> wanted, const MappedWeights& weights, std::string_view model) {
  std::unordered_map<std::string_view, const MappedTensor*> given;
  for (const MappedTensor& t : weights.tensors) given.emplace(t.name, &t);
  std::unordered_set<std::string_view> wanted_names;
  std::vector<std::string> missing, unexpected, misshapen;
  for (const WantedTensor& w : wanted) {
    wanted_names.insert(w.name);
    const auto it = given.find(w.name);
    if (it == given.end())
      missing.push_back(printable(w.name));
    else if (it->second->shape != w.shape)
      misshapen.push_back(fmt::format("{} is {} instead of {}", printable(w.name), it->second->shape, w.shape));
  }
  for (const MappedTensor& t : weights.tensors)
    if (!wanted_names.contains(t.name)) unexpected.push_back(printable(t.name));
  for (const std::string& name : weights.unmatched) unexpected.push_back(printable(name));

  std::string text;
  append_group(text, "missing", missing);
  append_group(text, "unexpected", unexpected);
  append_group(text, "of another shape", misshapen);
  require(text.empty(), "the weights in '{}' do not fit {}: {}", weights.path, model, text);
}

}  // namespace fovea
