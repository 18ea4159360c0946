// Fixtures of heads side by side with patterns of their own.
#include "parity/runners.h"

#include <cstdio>

#include "attention/multi_head.h"
#include "attention/parallel.h"
#include "attention/sampled.h"
#include "attention/union.h"
#include "attention/window.h"

namespace fovea::parity {

namespace {

Scope part_scope(CheckCase& c, size_t part) { return Scope(c.params) / static_cast<int64_t>(part); }

void run_parallel(CheckCase& c, const AttentionConfig& a, std::vector<ParallelAttention::Part> parts, const TokenGrid& grid) {
  const ParallelAttention attention(Scope(c.params), a, std::move(parts));
  c.load();
  AttentionInputs in;
  in.x = c.input("x");
  in.grid = grid;
  const Tensor dx = c.memory(in.x.shape);
  run_attention(c, attention, in, {dx, {}, {}}, in.x.shape);
  c.input_gradient("x", dx);
}

// The first heads meet pooled keys, the others windows.
void parallel_global_window(CheckCase& c) {
  const Json& j = c.config;
  const int64_t global = j.at("global_heads"), local = j.at("window_heads");
  AttentionConfig a;
  a.dim = j.at("dim");
  a.heads = global + local;
  const int64_t global_dim = a.dim / a.heads * global, local_dim = a.dim / a.heads * local;
  SampledConfig s;
  std::tie(s.ratio_h, s.ratio_w) = pair_of(j.at("sr_ratio"));
  s.norm_epsilon = j.value("ln_eps", 1e-5);
  WindowConfig w;
  std::tie(w.window_h, w.window_w) = pair_of(j.at("window"));
  w.rule = WindowRule::mmdet();
  w.position_bias = w.pad_keys = false;
  std::vector<ParallelAttention::Part> parts;
  parts.push_back({"sampled", global, std::make_unique<SampledAttention>(part_scope(c, 0), ParallelAttention::part_config(a, global), s)});
  parts.push_back({"window", local, std::make_unique<WindowAttention>(part_scope(c, 1), ParallelAttention::part_config(a, local), w)});
  bind_both(c, "q", 0, "0.q", 0, global_dim);
  bind_both(c, "kv_g", 0, "0.k", 0, global_dim);
  bind_both(c, "kv_g", global_dim, "0.v", 0, global_dim);
  for (const char* layer : {"sr", "norm"}) {
    if (!c.fixture.has(std::string("w.") + layer + ".weight")) continue;  // ratio 1
    c.bind(std::string(layer) + ".weight", std::string("0.") + layer + ".weight");
    c.bind(std::string(layer) + ".bias", std::string("0.") + layer + ".bias");
  }
  bind_both(c, "q", global_dim, "1.qkv", 0, local_dim);
  bind_both(c, "kv_l", 0, "1.qkv", local_dim, 2 * local_dim);
  run_parallel(c, a, std::move(parts), {c.input("x").dim(0), 0, j.at("H"), j.at("W")});
}

// A pattern of one head over a sequence, by its name in the fixture: name:a:b.
class NamedPattern : public AttentionGeometry {
 public:
  explicit NamedPattern(const std::string& text) : text_(text), name_(text.substr(0, text.find(':'))) {
    const size_t numbers = text.find(':');
    if (numbers != std::string::npos) std::sscanf(text.c_str() + numbers, ":%d:%d", &a_, &b_);  // NOLINT: missing ones stay 0
    require(name_ == "global" || name_ == "causal" || ((name_ == "strided_keys" || name_ == "dilated" || name_ == "window") && a_ > 0) ||
                name_ == "band" || name_ == "global_tokens",
            "this version has no heads with the pattern {}", text);
  }

  double pairs(const TokenGrid&) const override { return 0; }

  const TokenGroups& groups(const AttentionInputs& in, Context& ctx) const override {
    const auto n = static_cast<int32_t>(in.grid.tokens());
    return ctx.cached<TokenGroups>("head pattern " + text_, [&] {
      TokenGroups g;
      const auto add = [&](const Run& queries, const Run& keys) {
        g.begin_group();
        g.add_query_run(queries);
        g.add_key_run(keys);
      };
      const Run all{0, 1, n};
      if (name_ == "window") {
        for (int32_t at = 0; at < n; at += a_) {
          add({at, 1, std::min(a_, n - at)}, {at, 1, std::min(a_, n - at)});
          g.end_group();
        }
      } else if (name_ == "dilated") {
        for (int32_t at = 0; at < std::min(a_, n); ++at) {
          add({at, a_, (n - 1 - at) / a_ + 1}, {at, a_, (n - 1 - at) / a_ + 1});
          g.end_group();
        }
      } else if (name_ == "strided_keys") {
        add(all, {b_, a_, b_ < n ? (n - 1 - b_) / a_ + 1 : 0});
        g.end_group();
      } else if (name_ == "global_tokens") {  // global rows meet all both ways, the others a band
        const int32_t global = std::min(a_, n);
        add_prefix_queries(g, global, n, false);
        g.only_rule().band = b_;
        g.only_rule().exclusions = {{0, false}};  // global keys stand in the free run alone
        g.terms = {PairTerm::keys(first_rows(n, global))};
        add({global, 1, n - global}, all);
        add_prefix_keys(g, global);
        g.end_group();
      } else {
        if (name_ == "causal") g.only_rule().causal = true;
        if (name_ == "band") g.only_rule().band = a_;
        add(all, all);
        g.end_group();
      }
      g.finish();
      return g;
    });
  }

  std::vector<PairPattern> pattern(const TokenGrid& grid, bool) const override {
    const int64_t n = grid.tokens();
    const auto labelled = [&](auto&& label) {
      std::vector<int32_t> labels;
      for (int32_t i = 0; i < n; ++i) labels.push_back(label(i));
      return labels;
    };
    PairPattern p;
    if (name_ == "window") p.terms = {PairTerm::partition(labelled([&](int32_t i) { return i / a_; }))};
    if (name_ == "dilated") p.terms = {PairTerm::partition(labelled([&](int32_t i) { return i % a_; }))};
    if (name_ == "strided_keys") p.terms = {PairTerm::keys(labelled([&](int32_t i) { return i % a_ == b_ % a_ && i >= b_ ? 0 : -1; }))};
    if (name_ == "global_tokens") {
      p.terms = {PairTerm::band_of(b_, 1)};
      add_prefix_terms(p, std::min<int64_t>(a_, n), n);
    }
    if (name_ == "global" || name_ == "causal") p.terms = {PairTerm::all(name_ == "causal")};
    if (name_ == "band") p.terms = {PairTerm::band_of(a_, 1)};
    return {p};
  }

 private:
  std::string text_, name_;
  int32_t a_ = 0, b_ = 0;
};

std::unique_ptr<const AttentionGeometry> named_pattern(const std::string& text) {
  int32_t window = 0, stride = 0;
  if (std::sscanf(text.c_str(), "window_plus_strided_keys:%d:%d", &window, &stride) != 2)  // NOLINT: checked
    return std::make_unique<NamedPattern>(text);
  std::vector<UnionGeometry::Part> parts;
  for (const std::string& part : {fmt::format("window:{}", window), fmt::format("strided_keys:{}:0", stride)})
    parts.push_back({part, std::make_unique<NamedPattern>(part)});
  return std::make_unique<UnionGeometry>(text, 1, std::move(parts));
}

// One pattern a head; neighbouring heads with the same one are one part.
void parallel_head_patterns(CheckCase& c) {
  const Json& j = c.config;
  const auto patterns = j.at("head_patterns").get<std::vector<std::string>>();
  AttentionConfig a;
  a.dim = j.at("dim");
  a.heads = std::ssize(patterns);
  const int64_t d = a.dim / a.heads;
  const TokenGrid grid = sequence(c.input("x").dim(0), c.input("x").dim(1));
  std::vector<ParallelAttention::Part> parts;
  for (int64_t h = 0, end = 0; h < a.heads; h = end) {
    const std::string& text = patterns[static_cast<size_t>(h)];
    for (end = h + 1; end < a.heads && patterns[static_cast<size_t>(end)] == text;) ++end;
    const int64_t heads = end - h;
    auto geometry = named_pattern(text);
    // The predicate says what the fixture's mask says.
    if (c.fixture.has("aux.mask")) {
      const std::vector<int32_t> mask = c.fixture.ints("aux.mask");
      const int64_t n = grid.tokens();
      const PairPattern pattern = geometry->pattern(grid, false)[0];
      bool same = true, reverse = true;
      for (int64_t i = 0; i < n * n; ++i) {
        const bool set = mask[static_cast<size_t>(h * n * n + i)] != 0, in = pattern.contains(i / n, i % n);
        same = same && set == in;
        reverse = reverse && set != in;
      }
      require(same || reverse, "head {}: {} is another pattern than the fixture's mask", h, text);
    }
    const std::string qkv = fmt::format("{}.qkv", parts.size());
    for (int64_t i = 0; i < 3; ++i) bind_both(c, "qkv", i * a.dim + h * d, qkv, i * heads * d, heads * d);
    parts.push_back({text, heads,
                     std::make_unique<MultiHeadAttention>(part_scope(c, parts.size()), ParallelAttention::part_config(a, heads), std::move(geometry))});
  }
  run_parallel(c, a, std::move(parts), grid);
}

}  // namespace

void add_parallel_runners(Runners& runners) {
  runners["parallel_global_window"] = parallel_global_window;
  runners["parallel_head_patterns"] = parallel_head_patterns;
}

}  // namespace fovea::parity
