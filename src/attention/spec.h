// The grammar of an attention SPEC, from the tightest binding to the loosest:
//   name:key=value   a mechanism with its options
//   A+B              a union: one softmax over the set union of their keys
//   A@2              a weight (default 1) among
//   A,B              parallel heads: each part gets its share of the heads
//   A/B              per stage; the last one repeats
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace fovea {

// One stage's attention: a mechanism with its options, or a combination of some.
struct AttentionSpec {
  enum class Form : uint8_t { kSingle, kUnion, kParallel };

  std::string name;                            // of a mechanism; empty for a combination
  std::map<std::string, std::string> options;  // as given
  Form form = Form::kSingle;
  std::vector<AttentionSpec> parts{};          // kUnion: mechanisms; kParallel: mechanisms and unions
  double weight = 1;                           // of a part of parallel heads
  std::string str() const;                     // canonical text, without the weight
};

// Parses one stage's spec; throws Error that says what is wrong with it and what would be right.
AttentionSpec parse_attention(const std::string& text);
// "A/B" -> {A, B}; the entry for a stage is min(stage, size - 1).
std::vector<AttentionSpec> parse_attention_stages(const std::string& text);

// Shares of `heads` by weight, the largest remainder first, earlier parts first among equals.
std::vector<int64_t> head_shares(int64_t heads, const std::vector<double>& weights);

}  // namespace fovea
