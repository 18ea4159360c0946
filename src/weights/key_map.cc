#include "weights/key_map.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>
#include <utility>

#include "core/check.h"
#include "weights/int8_rows.h"

namespace fovea {

namespace {

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

int64_t count_keys(const WeightFile& file, std::string_view pattern) {
  const size_t open = pattern.find('{'), close = pattern.find('}', open);
  check(open != std::string_view::npos && close != std::string_view::npos, "the key pattern '{}' has no placeholder", pattern);
  int64_t n = 0;
  while (file.find(fmt::format("{}{}{}", pattern.substr(0, open), n, pattern.substr(close + 1))) != nullptr) ++n;
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

WeightTensor unchanged(const WeightTensor& t, const RecognisedModel&) { return t; }

WeightTensor rows_of(const WeightTensor& t, int share, int shares) {
  require(t.shape.rank() > 0 && t.shape[0] % shares == 0, "{} of shape {} cannot be cut into {} equal parts", printable(t.name), t.shape, shares);
  WeightTensor out = t;
  std::vector<int64_t> dims(t.shape.dims().begin(), t.shape.dims().end());
  dims[0] /= shares;
  out.shape = Shape(dims);
  const int64_t row = t.shape[0] == 0 ? 0 : t.strides.empty() ? t.elements() / t.shape[0] : t.strides.front();
  if (t.grid.rank() > 0) {
    check(t.grid[0] == t.shape[0], "{} is cut inside its first dimension", t.name);
    std::vector<int64_t> grid(t.grid.dims().begin(), t.grid.dims().end());
    grid[0] = dims[0];
    out.grid = Shape(grid);
  }
  out.data += share * dims[0] * row * static_cast<int64_t>(size_of(t.type));
  return out;
}

namespace {

bool any_matches(std::span<const std::string_view> patterns, std::string_view name) {
  return std::ranges::any_of(patterns, [&](std::string_view p) { return match_key(p, name).has_value(); });
}

// Puts one tensor of a file where a rule wants it.
class Mapper {
 public:
  Mapper(MappedWeights& out, const RecognisedModel& model) : out_(out), model_(model) {}

  void add(const KeyRule& rule, const WeightTensor& t, std::string name) {
    const auto [at, is_new] = index_.emplace(std::move(name), out_.tensors.size());
    if (is_new) {
      out_.tensors.push_back({at->first, {}, {}});
      out_.tensors.back().parts.resize(static_cast<size_t>(rule.parts));
    }
    auto& parts = out_.tensors[at->second].parts;
    check(parts.size() == static_cast<size_t>(rule.parts), "the rules for '{}' disagree on its parts", at->first);
    WeightTensor& part = parts[static_cast<size_t>(rule.part)];
    require(part.name.empty(), "'{}': {} and {} are two names of one parameter ({})", out_.path, printable(part.name), printable(t.name),
            at->first);
    const WeightTensor own = rule.slices > 1 ? rows_of(t, rule.slice, rule.slices) : t;
    part = rule.transform != nullptr ? rule.transform(own, model_) : own;
  }

 private:
  MappedWeights& out_;
  const RecognisedModel& model_;
  std::unordered_map<std::string, size_t> index_;
};

}  // namespace

MappedWeights map_keys(const WeightFile& whole, const RecognisedModel& model) {
  check(model.dialect != nullptr, "map_keys: the model has no dialect");
  const Dialect& dialect = *model.dialect;
  MappedWeights out;
  out.path = whole.path();
  for (const WeightTensor& t : whole.tensors())
    if (!t.name.starts_with(model.prefix)) out.beside.push_back(t.name);
  const WeightFile file = model.prefix.empty() ? whole : whole.under(model.prefix);
  Mapper mapper(out, model);
  for (const WeightTensor& t : file.tensors()) {
    if (any_matches(dialect.ignored, t.name)) {
      out.ignored.push_back(t.name);
      continue;
    }
    if (any_matches(dialect.beside, t.name)) {
      out.beside.push_back(t.name);
      continue;
    }
    const KeyRule* first = nullptr;
    for (const KeyRule& rule : dialect.rules) {
      if (first != nullptr && (rule.slices == 1 || rule.from != first->from)) continue;
      auto name = rename_key(rule.from, rule.to, t.name);
      if (!name) continue;
      if (*name == "reg_token" && t.elements() == 0) out.ignored.push_back(t.name);  // transformers' models with 0 of them
      else mapper.add(rule, t, *std::move(name));
      first = &rule;
      if (rule.slices == 1) break;
    }
    if (first == nullptr) out.unmatched.push_back(t.name);
  }
  for (MappedTensor& t : out.tensors) finish(t, out.path);
  return out;
}

}  // namespace fovea
