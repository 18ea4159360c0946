#include "attention/registry.h"

#include <algorithm>
#include <charconv>

#include "attention/multi_head.h"
#include "core/text.h"

namespace fovea {

// One line for each mechanism.
AttentionKind global_attention_kind();
AttentionKind window_attention_kind();
AttentionKind cross_shaped_attention_kind();
AttentionKind linformer_attention_kind();
AttentionKind sampled_attention_kind();
AttentionKind sparse_attention_kind();
AttentionKind longformer_attention_kind();
AttentionKind local_attention_kind();
AttentionKind window_v2_attention_kind();

const std::vector<AttentionKind>& attention_kinds() {
  static const std::vector<AttentionKind> kinds = {
      global_attention_kind(),
      window_attention_kind(),
      cross_shaped_attention_kind(),
      linformer_attention_kind(),
      sampled_attention_kind(),
      sparse_attention_kind(),
      longformer_attention_kind(),
      local_attention_kind(),
      window_v2_attention_kind(),
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

std::pair<int64_t, int64_t> AttentionOptions::size(const std::string& key) const {
  const std::string& t = text(key);
  const size_t x = t.find('x');
  const int64_t height = parse_integer(key, t.substr(0, x));
  const int64_t width = x == std::string::npos ? height : parse_integer(key, t.substr(x + 1));
  require(height > 0 && width > 0, "attention option {}={}: sizes are positive", key, t);
  return {height, width};
}

std::string AttentionOptions::choice(const std::string& key, const std::vector<std::string>& allowed) const {
  const std::string& t = text(key);
  require(std::find(allowed.begin(), allowed.end(), t) != allowed.end(), "attention option {}={}: choose one of {}", key, t,
          fmt::join(allowed, ", "));
  return t;
}

std::string AttentionSpec::str() const {
  std::string s = name;
  for (const auto& [key, value] : options) s += ":" + key + "=" + value;
  return s;
}

AttentionSpec parse_attention(const std::string& text) {
  const size_t operator_at = text.find_first_of("+,@");
  require(operator_at == std::string::npos, "attention '{}': '{}' combines attentions, which this version does not do; name a single one",
          text, operator_at == std::string::npos ? ' ' : text[operator_at]);
  std::vector<std::string> parts = split(text, ':');
  require(!parts.empty() && !parts[0].empty(), "the attention '{}' has no name", text);
  AttentionSpec spec{parts[0], {}};
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

std::vector<AttentionSpec> parse_attention_stages(const std::string& text) {
  std::vector<AttentionSpec> stages;
  for (const std::string& part : split(text, '/')) stages.push_back(parse_attention(part));
  return stages;
}

std::unique_ptr<Attention> make_attention(const AttentionSpec& spec, const Scope& scope, const AttentionConfig& config) {
  const AttentionKind& kind = attention_kind(spec.name);
  std::map<std::string, std::string> values;
  for (const auto& o : kind.options) values[o.name] = o.default_value;
  for (const auto& [key, value] : spec.options) values[key] = value;
  const AttentionOptions options(std::move(values));
  if (kind.make) return kind.make(scope, config, options);
  return std::make_unique<MultiHeadAttention>(scope, config, kind.make_geometry(scope, config, options, GeometryUse::kAlone));
}

}  // namespace fovea
