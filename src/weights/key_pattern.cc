#include "weights/key_pattern.h"

#include <algorithm>
#include <charconv>

#include "core/check.h"

namespace fovea {

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// A placeholder of a pattern: its name and what is added to its number.
struct Placeholder {
  std::string_view name;
  int64_t shift = 0;
  size_t length = 0;  // with braces
};

Placeholder placeholder_at(std::string_view pattern) {
  const size_t close = pattern.find('}');
  check(close != std::string_view::npos && close > 1, "the key pattern '{}' has a broken placeholder", pattern);
  std::string_view name = pattern.substr(1, close - 1);
  int64_t shift = 0;
  if (name.ends_with("+1") || name.ends_with("-1")) {
    shift = name.ends_with("+1") ? 1 : -1;
    name.remove_suffix(2);
  }
  return {name, shift, close + 1};
}

std::vector<Placeholder> placeholders_of(std::string_view pattern) {
  std::vector<Placeholder> out;
  for (size_t i = 0; i < pattern.size(); ++i)
    if (pattern[i] == '{') out.push_back(placeholder_at(pattern.substr(i)));
  return out;
}

bool match_from(std::string_view pattern, std::string_view name, std::vector<std::string_view>& values) {
  while (!pattern.empty() && pattern[0] != '{') {
    if (name.empty() || name[0] != pattern[0]) return false;
    pattern.remove_prefix(1);
    name.remove_prefix(1);
  }
  if (pattern.empty()) return name.empty();
  const Placeholder p = placeholder_at(pattern);
  const std::string_view rest = pattern.substr(p.length);
  if (p.name == "*") {
    // Used as the last placeholder only, so the fixed text after it decides.
    check(rest.find('{') == std::string_view::npos, "the key pattern '{}' goes on after {{*}}", pattern);
    if (name.size() < rest.size() || !name.ends_with(rest)) return false;
    values.push_back(name.substr(0, name.size() - rest.size()));
    return true;
  }
  size_t digits = 0;
  while (digits < name.size() && is_digit(name[digits])) ++digits;
  if (digits == 0) return false;
  values.push_back(name.substr(0, digits));
  return match_from(rest, name.substr(digits), values);
}

}  // namespace

std::optional<std::vector<std::string_view>> match_key(std::string_view pattern, std::string_view name) {
  std::vector<std::string_view> values;
  if (!match_from(pattern, name, values)) return std::nullopt;
  return values;
}

std::optional<std::string> rename_key(std::string_view from, std::string_view to, std::string_view name) {
  const auto values = match_key(from, name);
  if (!values) return std::nullopt;
  const std::vector<Placeholder> known = placeholders_of(from);
  std::string out;
  for (size_t i = 0; i < to.size(); ++i) {
    if (to[i] != '{') {
      out += to[i];
      continue;
    }
    const Placeholder p = placeholder_at(to.substr(i));
    const auto at = std::ranges::find(known, p.name, &Placeholder::name);
    if (at == known.end()) return std::nullopt;
    const std::string_view value = (*values)[static_cast<size_t>(at - known.begin())];
    const int64_t shift = p.shift - at->shift;
    if (shift == 0) {
      out += value;
    } else {
      int64_t n = 0;
      const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), n);
      if (error != std::errc() || n > (int64_t{1} << 60) || n + shift < 0) return std::nullopt;
      out += std::to_string(n + shift);
    }
    i += p.length - 1;
  }
  return out;
}

}  // namespace fovea
