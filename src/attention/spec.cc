#include "attention/spec.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

#include "attention/registry.h"
#include "core/text.h"

namespace fovea {

namespace {

constexpr double kLargestWeight = 1e9;  // sums of weights stay numbers
constexpr size_t kMostParts = 64;

std::vector<std::string> parts_of(const std::string& text, char separator) {
  std::vector<std::string> parts = split(text, separator);
  require(parts.size() <= kMostParts, "an attention of {} parts joined by '{}' has too many; {} is the most", parts.size(), separator, kMostParts);
  return parts;
}

// `whole` is what the user wrote, for the messages.
AttentionSpec parse_single(const std::string& text, const std::string& whole) {
  const std::vector<std::string> parts = split(text, ':');
  if (parts.empty() || parts[0].empty()) {
    require(text != whole, "the attention '{}' has no name", text);
    fail("attention '{}': a part has no name", whole);
  }
  AttentionSpec spec;
  spec.name = parts[0];
  const AttentionKind& kind = attention_kind(spec.name);
  std::vector<std::string> known;
  for (const auto& o : kind.options) known.push_back(o.name);
  for (size_t i = 1; i < parts.size(); ++i) {
    const size_t eq = parts[i].find('=');
    require(eq != std::string::npos && eq > 0 && eq + 1 < parts[i].size(), "attention '{}': '{}' is not of the form key=value", text, parts[i]);
    const std::string key = parts[i].substr(0, eq);
    require(std::find(known.begin(), known.end(), key) != known.end(), "attention '{}' has no option '{}'; {}", spec.name, key,
            known.empty() ? std::string("it has none") : fmt::format("it has {}", fmt::join(known, ", ")));
    require(spec.options.emplace(key, parts[i].substr(eq + 1)).second, "attention '{}': option '{}' is given twice", text, key);
  }
  return spec;
}

AttentionSpec parse_union(const std::string& text, const std::string& whole) {
  const std::vector<std::string> parts = parts_of(text, '+');
  if (parts.size() <= 1) return parse_single(text, whole);
  AttentionSpec spec;
  spec.form = AttentionSpec::Form::kUnion;
  for (const std::string& part : parts) {
    spec.parts.push_back(parse_single(part, whole));
    const AttentionKind& kind = attention_kind(spec.parts.back().name);
    require(kind.make_geometry != nullptr, "attention '{}': '{}' cannot be part of a union: {}", whole, kind.name,
            kind.no_union_reason.empty() ? "it is more than a choice of who meets whom" : kind.no_union_reason);
  }
  return spec;
}

AttentionSpec parse_weighted(const std::string& text, const std::string& whole) {
  const size_t at = text.find('@');
  if (at == std::string::npos) return parse_union(text, whole);
  const std::string weight = text.substr(at + 1);
  require(weight.find('@') == std::string::npos, "attention '{}': '{}' has two weights", whole, text);
  require(weight.find('+') == std::string::npos,
          "attention '{}': '+' binds tighter than '@', so the weight stands behind the whole union, as in A+B@2", whole);
  AttentionSpec spec = parse_union(text.substr(0, at), whole);
  const auto [end, error] = std::from_chars(weight.data(), weight.data() + weight.size(), spec.weight);
  require(error == std::errc() && end == weight.data() + weight.size() && spec.weight > 0 && spec.weight <= kLargestWeight,
          "attention '{}': the weight '{}' is not a positive number{}", whole, weight, spec.weight > kLargestWeight && std::isfinite(spec.weight) ? fmt::format(" up to {}", kLargestWeight) : "");
  return spec;
}

}  // namespace

std::string AttentionSpec::str() const {
  std::string s = name;
  for (const auto& [key, value] : options) s += ":" + key + "=" + value;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) s += form == Form::kUnion ? "+" : ",";
    s += parts[i].str();
    if (form == Form::kParallel && parts[i].weight != 1) s += fmt::format("@{}", parts[i].weight);
  }
  return s;
}

AttentionSpec parse_attention(const std::string& text) {
  const std::vector<std::string> parts = parts_of(text, ',');
  if (parts.size() <= 1) {
    AttentionSpec only = parse_weighted(text, text);
    only.weight = 1;  // there is nobody to share with
    return only;
  }
  AttentionSpec spec;
  spec.form = AttentionSpec::Form::kParallel;
  for (const std::string& part : parts) spec.parts.push_back(parse_weighted(part, text));
  return spec;
}

std::vector<AttentionSpec> parse_attention_stages(const std::string& text) {
  std::vector<AttentionSpec> stages;
  for (const std::string& part : parts_of(text, '/')) stages.push_back(parse_attention(part));
  return stages;
}

std::vector<int64_t> head_shares(int64_t heads, const std::vector<double>& weights) {
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<int64_t> shares;
  std::vector<double> remainders;
  for (const double w : weights) {
    // An exact quota may come out a rounding short of its whole number.
    const double quota = static_cast<double>(heads) * w / total, whole = std::floor(quota + 1e-9);
    shares.push_back(static_cast<int64_t>(whole));
    remainders.push_back(std::round((quota - whole) * 1e9));
  }
  std::vector<size_t> order(weights.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return remainders[a] > remainders[b]; });
  int64_t left = heads - std::accumulate(shares.begin(), shares.end(), int64_t{0});
  for (size_t i = 0; left > 0; ++i, --left) ++shares[order[i % order.size()]];
  return shares;
}

}  // namespace fovea
