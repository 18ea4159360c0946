// All mechanisms by name, with what the command line, the docs and the conformance tests need to know of them; and the
// attention that a SPEC (attention/spec.h) describes.
#pragma once

#include <functional>
#include <map>

#include "attention/geometry.h"
#include "attention/spec.h"

namespace fovea {

// The key=value pairs of a spec after defaults were filled in; every key is a declared one.
class AttentionOptions {
 public:
  AttentionOptions() = default;
  explicit AttentionOptions(std::map<std::string, std::string> values) : values_(std::move(values)) {}
  const std::string& text(const std::string& key) const;
  int64_t integer(const std::string& key) const;                       // throws Error naming the option when it is no number
  std::vector<int64_t> integers(const std::string& key) const;         // "1_1_2": a list
  double real(const std::string& key) const;                           // likewise
  std::pair<int64_t, int64_t> size(const std::string& key) const;      // "7" or "7x5": height, width
  std::string choice(const std::string& key, const std::vector<std::string>& allowed) const;

 private:
  std::map<std::string, std::string> values_;
};

// What a mechanism can take; the conformance tests sweep accordingly and the docs' table shows it.
struct AttentionTraits {
  bool causal = false;    // honours AttentionInputs::causal
  bool cross = false;     // keys from a second input
  bool mask = false;      // an additive mask
  bool prefix = false;    // prefix tokens before the map
  bool qk_norm = true;    // AttentionConfig::qk_norm: not where q and k are normalised anyway
  bool key_padding = true;
  bool softmax = true;    // a softmax over keys: what all keys' scores share changes nothing
  bool batch_independent = true;  // a permutation of the batch permutes the result
  bool separate_qkv = false;  // q, k and v are parameters of their own, so some have no gradient: k.bias, which shifts whole
                              // rows of scores, and where there is one key all of q and k
  bool token_state = false;       // honours AttentionInputs::token_state
  std::vector<std::string> prefix_parameters = {};  // those that play a part only where there are prefix tokens
};

enum class GeometryUse : uint8_t { kAlone, kUnionPart };

struct AttentionKind {
  struct Option {
    std::string name, default_value, help;
  };
  std::string name, summary, paper, cost;
  std::vector<Option> options;
  AttentionTraits traits;
  // Who meets whom, where that is all the mechanism is, or all that it brings into a union: its pattern() then says exactly what
  // its groups do (so kUnionPart may be stricter). Null: no plain pattern, for `no_union_reason`.
  std::function<std::unique_ptr<const AttentionGeometry>(const Scope&, const AttentionConfig&, const AttentionOptions&, GeometryUse)>
      make_geometry;
  std::string no_union_reason;
  // What runs outside unions; null: multi-head attention over the geometry.
  std::function<std::unique_ptr<Attention>(const Scope&, const AttentionConfig&, const AttentionOptions&)> make;
};

const std::vector<AttentionKind>& attention_kinds();
const AttentionKind& attention_kind(const std::string& name);  // throws Error with the nearest names

// Unions keep the parts' own parameters in scope/part0, scope/part1, ...; parallel heads are scope/0, scope/1, ... with one
// scope/proj.
std::unique_ptr<Attention> make_attention(const AttentionSpec& spec, const Scope& scope, const AttentionConfig& config);

}  // namespace fovea
