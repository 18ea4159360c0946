// The rules of a dialect from right to left: our tensors under its names.
#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "core/check.h"
#include "weights/key_map.h"

namespace fovea {

namespace {

// Where one of our tensors goes: the rule and the dialect's name, or nothing.
struct Destination {
  const KeyRule* rule = nullptr;
  std::string name;
};

// Not every name that `to` could give comes back by the same rule: an earlier one may claim it ("head.weight" in a table that
// turns it into "head.fc.weight"). Such a name would mean another tensor.
bool comes_back(const Dialect& dialect, const KeyRule& rule, const std::string& name) {
  for (const std::string_view p : dialect.ignored)
    if (match_key(p, name)) return false;
  for (const KeyRule& r : dialect.rules)
    if (match_key(r.from, name)) return &r == &rule || (r.slices > 1 && r.from == rule.from);
  return false;
}

std::vector<Destination> destinations(const Dialect& dialect, const std::string& ours) {
  for (const KeyRule& rule : dialect.rules) {
    if (rule.transform != nullptr && rule.inverse == nullptr) continue;
    auto name = rename_key(rule.to, rule.from, ours);
    if (!name || !comes_back(dialect, rule, *name)) continue;
    if (rule.parts == 1) return {{&rule, *std::move(name)}};
    // The other parts, each with a name of its own; an older name of the same part follows later in the table.
    std::vector<Destination> parts(static_cast<size_t>(rule.parts));
    for (const KeyRule& other : dialect.rules) {
      Destination& part = parts[static_cast<size_t>(std::min(other.part, rule.parts - 1))];
      if (other.to != rule.to || other.parts != rule.parts || part.rule != nullptr) continue;
      if (auto part_name = rename_key(other.to, other.from, ours)) part = {&other, *std::move(part_name)};
    }
    if (std::ranges::all_of(parts, [](const Destination& d) { return d.rule != nullptr; })) return parts;
  }
  return {};
}

// As many zeros as `like` has elements, whatever its type.
WeightTensor zeros_like(const WeightTensor& like) {
  static constexpr std::byte kZero[8] = {};
  WeightTensor t = like;
  t.name.clear();
  t.data = kZero;
  t.grid = {};
  t.strides.assign(static_cast<size_t>(like.shape.rank()), 0);
  t.mapped = false;
  return t;
}

Shape joined_shape(const std::vector<WeightTensor>& parts) {
  std::vector<int64_t> dims(parts[0].shape.dims().begin(), parts[0].shape.dims().end());
  for (size_t i = 1; i < parts.size(); ++i) dims[0] += parts[i].shape[0];
  return Shape(dims);
}

template <class T>
ConstantTensor constant(std::string name, StoredType type, const Shape& shape, const std::vector<T>& values) {
  check(shape.elements() == std::ssize(values), "{} has {} values for {}", name, values.size(), shape);
  ConstantTensor c{std::move(name), type, shape, std::vector<std::byte>(values.size() * sizeof(T))};
  if (!values.empty()) std::memcpy(c.data.data(), values.data(), c.data.size());
  return c;
}

}  // namespace

ConstantTensor f32_constant(std::string name, const Shape& shape, const std::vector<float>& values) {
  return constant(std::move(name), StoredType::kF32, shape, values);
}
ConstantTensor i64_constant(std::string name, const Shape& shape, const std::vector<int64_t>& values) {
  return constant(std::move(name), StoredType::kI64, shape, values);
}

std::vector<MappedTensor> write_as(const Dialect& dialect, std::span<const WeightTensor> ours, const RecognisedModel& model) {
  if (dialect.refuses != nullptr)
    if (const std::string reason = dialect.refuses(model); !reason.empty()) fail("the model cannot be written as {}: {}", dialect.name, reason);
  // Where norms stand in a block shows in no name.
  const auto norm = model.facts.find("block_norm");
  require(dialect.name == "timm" || norm == model.facts.end() || norm->second == RecognisedModel::Value(std::string("pre")),
          "the model cannot be written as {}: its blocks end with their norms (block_norm=res_post)", dialect.name);
  require(dialect.name == "timm" || model.integer("positions", 1) != 0, "the model cannot be written as {}: its tokens have no positions (positions=false)", dialect.name);
  require(dialect.name.starts_with("huggingface") || !model.facts.contains("merge_norm_eps") || model.facts.at("merge_norm_eps") == model.facts.at("norm_eps"),
          "the model cannot be written as {}: its norms between blocks have another epsilon than those in them (merge_norm_epsilon)", dialect.name);
  std::vector<MappedTensor> out;
  std::unordered_map<std::string, size_t> index;
  std::vector<std::string> nameless;
  for (const WeightTensor& t : ours) {
    const std::vector<Destination> places = destinations(dialect, t.name);
    if (places.empty()) nameless.push_back(printable(t.name));
    for (const Destination& place : places) {
      const KeyRule& rule = *place.rule;
      WeightTensor view = rule.parts > 1 ? rows_of(t, rule.part, rule.parts) : t;
      if (rule.inverse != nullptr) view = rule.inverse(view, model);
      const auto [at, is_new] = index.emplace(place.name, out.size());
      if (is_new) {
        out.push_back({place.name, {}, {}});
        out.back().parts.resize(static_cast<size_t>(rule.slices));
      }
      WeightTensor& slice = out[at->second].parts[static_cast<size_t>(rule.slice)];
      check(slice.data == nullptr, "{}: {} and another tensor become {}", dialect.name, t.name, place.name);
      slice = std::move(view);
    }
  }
  constexpr size_t kShown = 20;
  require(nameless.empty(), "the model cannot be written as {}, which has no name for {} of its tensors: {}{}", dialect.name, nameless.size(),
          fmt::join(std::span(nameless).first(std::min(kShown, nameless.size())), ", "), nameless.size() > kShown ? " ..." : "");
  for (MappedTensor& t : out) {
    const auto filled = std::ranges::find_if(t.parts, [](const WeightTensor& p) { return p.data != nullptr; });
    for (WeightTensor& p : t.parts)
      if (p.data == nullptr) p = zeros_like(*filled);
    t.shape = joined_shape(t.parts);
  }
  return out;
}

}  // namespace fovea
