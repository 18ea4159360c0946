#include "attention/registry.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "attention/multi_head.h"
#include "attention/parallel.h"
#include "attention/union.h"
#include "core/text.h"

namespace fovea {

// One line for each mechanism.
AttentionKind global_attention_kind();
AttentionKind window_attention_kind();
AttentionKind routing_attention_kind();
AttentionKind regional_attention_kind();
AttentionKind cross_shaped_attention_kind();
AttentionKind linformer_attention_kind();
AttentionKind sampled_attention_kind();
AttentionKind sparse_attention_kind();
AttentionKind longformer_attention_kind();
AttentionKind local_attention_kind();
AttentionKind window_v2_attention_kind();
AttentionKind performer_attention_kind();
AttentionKind transformer_xl_attention_kind();

const std::vector<AttentionKind>& attention_kinds() {
  static const std::vector<AttentionKind> kinds = {
      global_attention_kind(),
      window_attention_kind(),
      routing_attention_kind(),
      regional_attention_kind(),
      cross_shaped_attention_kind(),
      linformer_attention_kind(),
      sampled_attention_kind(),
      sparse_attention_kind(),
      longformer_attention_kind(),
      local_attention_kind(),
      window_v2_attention_kind(),
      performer_attention_kind(),
      transformer_xl_attention_kind(),
  };
  return kinds;
}

const AttentionKind& attention_kind(const std::string& name) {
  std::vector<std::string> names;
  for (const AttentionKind& k : attention_kinds()) {
    if (k.name == name) return k;
    names.push_back(k.name);
  }
  fail("there is no attention '{}'{}; `fovea list attentions` shows them all", name, did_you_mean(name, names));
}

namespace {

int64_t parse_integer(const std::string& key, const std::string& text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  require(error == std::errc() && end == text.data() + text.size(), "attention option {}={}: expected a whole number", key, text);
  constexpr int64_t kMost = int64_t{1} << 30;  // larger than any map, and small enough to compute with
  require(value >= -kMost && value <= kMost, "attention option {}={}: out of range", key, text);
  return value;
}

}  // namespace

const std::string& AttentionOptions::text(const std::string& key) const {
  const auto it = values_.find(key);
  check(it != values_.end(), "attention option {} was not declared", key);
  return it->second;
}

int64_t AttentionOptions::integer(const std::string& key) const { return parse_integer(key, text(key)); }

std::vector<int64_t> AttentionOptions::integers(const std::string& key) const {
  std::vector<int64_t> numbers;
  for (const std::string& number : split(text(key), '_')) numbers.push_back(parse_integer(key, number));
  return numbers;
}

double AttentionOptions::real(const std::string& key) const {
  const std::string& t = text(key);
  double value = 0;
  const auto [end, error] = std::from_chars(t.data(), t.data() + t.size(), value);
  require(error == std::errc() && end == t.data() + t.size() && std::isfinite(value), "attention option {}={}: expected a number", key, t);
  return value;
}

std::pair<int64_t, int64_t> AttentionOptions::size(const std::string& key) const {
  const std::string& t = text(key);
  const size_t x = t.find('x');
  const int64_t height = parse_integer(key, t.substr(0, x));
  const int64_t width = x == std::string::npos ? height : parse_integer(key, t.substr(x + 1));
  constexpr int64_t kLargest = 16384;  // an image's side
  require(height > 0 && width > 0 && height <= kLargest && width <= kLargest, "attention option {}={}: sizes are 1 to {}", key, t, kLargest);
  return {height, width};
}

std::string AttentionOptions::choice(const std::string& key, const std::vector<std::string>& allowed) const {
  const std::string& t = text(key);
  require(std::find(allowed.begin(), allowed.end(), t) != allowed.end(), "attention option {}={}: choose one of {}", key, t,
          fmt::join(allowed, ", "));
  return t;
}

namespace {

AttentionOptions options_of(const AttentionSpec& spec, const AttentionKind& kind) {
  std::map<std::string, std::string> values;
  for (const auto& o : kind.options) values[o.name] = o.default_value;
  for (const auto& [key, value] : spec.options) values[key] = value;
  return AttentionOptions(std::move(values));
}

std::unique_ptr<Attention> make_union(const AttentionSpec& spec, const Scope& scope, const AttentionConfig& config) {
  require(!config.cross, "attention '{}': a union has no second input", spec.str());
  std::vector<UnionGeometry::Part> parts;
  for (const AttentionSpec& part : spec.parts) {
    const AttentionKind& kind = attention_kind(part.name);
    check(kind.make_geometry != nullptr, "{} in a union", part.name);
    const Scope own = scope / fmt::format("part{}", parts.size());
    parts.push_back({part.str(), kind.make_geometry(own, config, options_of(part, kind), GeometryUse::kUnionPart)});
  }
  const std::string key = fmt::format("{} block {} heads {}", spec.str(), config.block, config.heads);
  return std::make_unique<MultiHeadAttention>(scope, config, std::make_unique<UnionGeometry>(key, config.heads, std::move(parts)));
}

std::unique_ptr<Attention> make_parallel(const AttentionSpec& spec, const Scope& scope, const AttentionConfig& config) {
  std::vector<double> weights;
  for (const AttentionSpec& part : spec.parts) weights.push_back(part.weight);
  const std::vector<int64_t> shares = head_shares(config.heads, weights);
  std::vector<ParallelAttention::Part> parts;
  for (size_t i = 0; i < spec.parts.size(); ++i) {
    const AttentionSpec& part = spec.parts[i];
    require(shares[i] > 0, "attention '{}': {} head(s) leave none for '{}'; give it more weight, or take a model with more heads",
            spec.str(), config.heads, part.str());
    parts.push_back({part.str(), shares[i],
                     make_attention(part, scope / static_cast<int64_t>(i), ParallelAttention::part_config(config, shares[i]))});
  }
  return std::make_unique<ParallelAttention>(scope, config, std::move(parts));
}

}  // namespace

std::unique_ptr<Attention> make_attention(const AttentionSpec& spec, const Scope& scope, const AttentionConfig& config) {
  if (spec.form == AttentionSpec::Form::kUnion) return make_union(spec, scope, config);
  if (spec.form == AttentionSpec::Form::kParallel) return make_parallel(spec, scope, config);
  const AttentionKind& kind = attention_kind(spec.name);
  const AttentionOptions options = options_of(spec, kind);
  if (kind.make) return kind.make(scope, config, options);
  return std::make_unique<MultiHeadAttention>(scope, config, kind.make_geometry(scope, config, options, GeometryUse::kAlone));
}

}  // namespace fovea
