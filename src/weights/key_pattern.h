// Patterns of tensor names. {i} (any word in braces) stands for a number, {*} for any text, as the last placeholder only. In the
// result of a rule {i+1} and {i-1} shift a number.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fovea {

// The placeholders' values when `name` matches `pattern`, in the order of the pattern.
std::optional<std::vector<std::string_view>> match_key(std::string_view pattern, std::string_view name);

// `name`, which matches `from`, written as `to`: {"a.{i}.{*}", "b.{i+1}.{*}"} turns a.0.w into b.1.w, and the other way round b.1.w
// into a.0.w. nullopt when it does not match, when a number would fall below zero, or when `to` has a placeholder that `from` lacks.
std::optional<std::string> rename_key(std::string_view from, std::string_view to, std::string_view name);

}  // namespace fovea
