// Small text helpers for messages and options.
#pragma once

#include <string>
#include <vector>

namespace fovea {

std::vector<std::string> split(const std::string& text, char separator);  // keeps empty parts; "" gives one empty part

// "; did you mean 'x'?" for the candidate nearest to a misspelt word, or "" when none is near.
std::string did_you_mean(const std::string& word, const std::vector<std::string>& candidates);

}  // namespace fovea
