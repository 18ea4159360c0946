#include "weights/key_map.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <unordered_map>
#include <utility>

#include "core/check.h"
#include "weights/int8_rows.h"
#include "weights/key_maps/key_maps.h"

namespace fovea {

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// A placeholder of a pattern: its name and, in results, what is added to its number.
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

// The result of a rule whose pattern matched with these values.
std::string substitute(const KeyRule& rule, const std::vector<std::string_view>& values) {
  std::vector<std::string_view> names;
  for (size_t i = 0; i < rule.from.size(); ++i)
    if (rule.from[i] == '{') names.push_back(placeholder_at(rule.from.substr(i)).name);
  std::string out;
  for (size_t i = 0; i < rule.to.size(); ++i) {
    if (rule.to[i] != '{') {
      out += rule.to[i];
      continue;
    }
    const Placeholder p = placeholder_at(rule.to.substr(i));
    const auto at = std::ranges::find(names, p.name);
    check(at != names.end(), "the key rule '{}' -> '{}' invents a placeholder", rule.from, rule.to);
    const std::string_view value = values[static_cast<size_t>(at - names.begin())];
    if (p.shift == 0) {
      out += value;
    } else {
      int64_t n = 0;
      std::from_chars(value.data(), value.data() + value.size(), n);
      out += std::to_string(n + p.shift);
    }
    i += p.length - 1;
  }
  return out;
}

template <class To>
void read_parts(const MappedTensor& t, To* out) {
  for (const WeightTensor& part : t.parts) {
    part.read(out);
    out += part.elements();
  }
  if (t.scale) t.scale_rows(0, t.shape[0], out - t.shape.elements());
}

template <class To>
void scale_outputs(const MappedTensor& t, int64_t begin, int64_t end, To* first) {
  check(t.scale && t.shape.rank() > 0, "{} has no scales", t.name);
  const int64_t row = t.shape[0] == 0 ? 0 : t.shape.elements() / t.shape[0];
  for (int64_t i = begin; i < end; ++i) {
    float scale = 0;
    t.scale->read(i, i + 1, &scale);
    read_int8_row(scale, row, first + (i - begin) * row);
  }
}

// Joins the parts' shapes along the first dimension.
void finish(MappedTensor& t, const std::string& path) {
  for (const WeightTensor& p : t.parts)
    require(!p.name.empty(), "'{}': {} needs {} tensors, one of which is missing", path, printable(t.name), t.parts.size());
  t.shape = t.parts[0].shape;
  if (t.parts.size() == 1) return;
  std::vector<int64_t> dims(t.shape.dims().begin(), t.shape.dims().end());
  for (size_t i = 1; i < t.parts.size(); ++i) {
    const Shape& s = t.parts[i].shape;
    const bool fits = s.rank() == t.shape.rank() && s.rank() > 0 && std::equal(s.dims().begin() + 1, s.dims().end(), dims.begin() + 1);
    require(fits, "'{}': {} of shape {} cannot be joined with {} of shape {}", path, printable(t.parts[i].name), s,
            printable(t.parts[0].name), t.shape);
    dims[0] += s[0];
  }
  t.shape = Shape(dims);
}

}  // namespace

void MappedTensor::read(float* out) const { read_parts(*this, out); }
void MappedTensor::read(double* out) const { read_parts(*this, out); }
void MappedTensor::scale_rows(int64_t begin, int64_t end, float* first) const { scale_outputs(*this, begin, end, first); }
void MappedTensor::scale_rows(int64_t begin, int64_t end, double* first) const { scale_outputs(*this, begin, end, first); }

int64_t RecognisedModel::integer(std::string_view key, int64_t otherwise) const {
  const auto it = facts.find(std::string(key));
  if (it == facts.end()) return otherwise;
  check(std::holds_alternative<int64_t>(it->second), "the fact '{}' is no integer", key);
  return std::get<int64_t>(it->second);
}

const MappedTensor* MappedWeights::find(std::string_view name) const {
  const auto it = std::ranges::find(tensors, name, &MappedTensor::name);
  return it == tensors.end() ? nullptr : &*it;
}

std::optional<std::vector<std::string_view>> match_key(std::string_view pattern, std::string_view name) {
  std::vector<std::string_view> values;
  if (!match_from(pattern, name, values)) return std::nullopt;
  return values;
}

int64_t count_keys(const WeightFile& file, std::string_view pattern) {
  const size_t open = pattern.find('{');
  check(open != std::string_view::npos, "the key pattern '{}' has no placeholder", pattern);
  const Placeholder p = placeholder_at(pattern.substr(open));
  int64_t n = 0;
  while (file.find(fmt::format("{}{}{}", pattern.substr(0, open), n, pattern.substr(open + p.length))) != nullptr) ++n;
  return n;
}

int64_t dimension(const WeightFile& file, std::string_view name, int dim, int64_t otherwise) {
  const WeightTensor* t = file.find(name);
  return t != nullptr && dim < t->shape.rank() ? t->shape[dim] : otherwise;
}

std::optional<int64_t> exact_root(int64_t value) {
  const auto root = static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(value))));
  if (value < 0 || root * root != value) return std::nullopt;
  return root;
}

std::span<const Dialect> dialects() {
  static const std::vector<Dialect> kDialects = {timm_dialect(), microsoft_swin_dialect(), microsoft_cswin_dialect(),
                                                 lucidrains_vit_dialect(), lucidrains_vit_patch_norm_dialect()};
  return kDialects;
}

std::optional<RecognisedModel> recognise(const WeightFile& file) {
  for (const Dialect& d : dialects())
    if (auto model = d.recognise(file)) {
      model->dialect = &d;
      return model;
    }
  return std::nullopt;
}

RecognisedModel require_recognised(const WeightFile& file) {
  if (auto model = recognise(file)) return *std::move(model);
  std::vector<std::string_view> known;
  for (const Dialect& d : dialects()) known.push_back(d.name);
  std::vector<std::string> some;
  for (const WeightTensor& t : file.tensors().first(std::min<size_t>(file.tensors().size(), 4))) some.push_back(printable(t.name));
  fail("'{}' holds no model that fovea recognises: its {} tensors ({}{}) follow none of the naming schemes {}", file.path(),
       file.tensors().size(), fmt::join(some, ", "), file.tensors().size() > some.size() ? ", ..." : "", fmt::join(known, ", "));
}

MappedWeights map_keys(const WeightFile& file, const RecognisedModel& model) {
  check(model.dialect != nullptr, "map_keys: the model has no dialect");
  const Dialect& dialect = *model.dialect;
  MappedWeights out;
  out.path = file.path();
  std::unordered_map<std::string, size_t> index;
  for (const WeightTensor& t : file.tensors()) {
    if (std::ranges::any_of(dialect.ignored, [&](std::string_view p) { return match_key(p, t.name).has_value(); })) {
      out.ignored.push_back(t.name);
      continue;
    }
    const KeyRule* rule = nullptr;
    std::optional<std::vector<std::string_view>> values;
    for (size_t i = 0; i < dialect.rules.size() && !values; ++i) {
      rule = &dialect.rules[i];
      values = match_key(rule->from, t.name);
    }
    if (!values) {
      out.unmatched.push_back(t.name);
      continue;
    }
    std::string name = substitute(*rule, *values);
    const auto [at, is_new] = index.emplace(name, out.tensors.size());
    if (is_new) {
      out.tensors.push_back({std::move(name), {}, {}});
      out.tensors.back().parts.resize(static_cast<size_t>(rule->parts));
    }
    auto& parts = out.tensors[at->second].parts;
    check(parts.size() == static_cast<size_t>(rule->parts), "the rules for '{}' disagree on its parts", at->first);
    WeightTensor& part = parts[static_cast<size_t>(rule->part)];
    require(part.name.empty(), "'{}': {} and {} are two names of one parameter ({})", out.path, printable(part.name), printable(t.name),
            at->first);
    part = rule->transform != nullptr ? rule->transform(t, model) : t;
  }
  for (MappedTensor& t : out.tensors) finish(t, out.path);
  return out;
}

}  // namespace fovea
