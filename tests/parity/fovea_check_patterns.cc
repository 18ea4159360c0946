// Fixtures of sparse patterns on sequences: Sparse Transformer, blocked local attention, dilated windows, Longformer; and of
// the token shift.
#include "parity/runners.h"

#include <cmath>
#include <limits>

#include "attention/band_groups.h"
#include "attention/local_groups.h"
#include "attention/longformer.h"
#include "attention/sparse_groups.h"
#include "core/convert.h"
#include "ops/rotary.h"
#include "ops/token_shift.h"

namespace fovea::parity {

namespace {

// Heads of a tensor: (B, N, H, D) or (B, H, N, D).
struct HeadsLayout {
  int64_t batch, heads, tokens, head_dim;
  bool heads_first;
  ConstHeadsView of(const ConstTensor& t) const {
    return heads_first ? ConstHeadsView{t.data, heads * tokens * head_dim, head_dim, tokens * head_dim}
                       : ConstHeadsView{t.data, tokens * heads * head_dim, heads * head_dim, head_dim};
  }
  HeadsView of(const Tensor& t) const {
    const ConstHeadsView v = of(ConstTensor(t));
    return {t.data, v.batch_stride, v.token_stride, v.head_stride};
  }
};

// The kernel on given q, k, v; results are tensors like them.
KernelRun run_kernel(CheckCase& c, const TokenGroups& groups, const HeadsLayout& layout, const Tensor& q, const Tensor& k, const Tensor& v,
                     const Tensor& dy, const uint8_t* key_padding) {
  KernelRun r{c.memory(q.shape), c.memory(q.shape), c.memory(q.shape), c.memory(q.shape)};
  GroupedAttentionBackwardArgs a;
  GroupedAttentionArgs& f = a.forward;
  f.groups = &groups;
  f.batch = layout.batch;
  f.heads = layout.heads;
  f.head_dim = layout.head_dim;
  f.queries = f.keys = layout.tokens;
  f.scale = 1 / std::sqrt(static_cast<double>(layout.head_dim));
  f.q = layout.of(ConstTensor(q));
  f.k = layout.of(ConstTensor(k));
  f.v = layout.of(ConstTensor(v));
  f.key_padding = key_padding;
  f.out = layout.of(r.y);
  f.lse = c.memory(Shape{layout.batch, layout.heads, groups.query_slots}).data;
  c.ctx.kernels().grouped_attention(f, c.ctx);
  a.dout = layout.of(ConstTensor(dy));
  a.dq = layout.of(r.dq);
  a.dk = layout.of(r.dk);
  a.dv = layout.of(r.dv);
  c.ctx.kernels().grouped_attention_backward(a, c.ctx);
  return r;
}

void give(CheckCase& c, const KernelRun& r) {
  c.output("y", r.y);
  c.input_gradient("q", r.dq);
  c.input_gradient("k", r.dk);
  c.input_gradient("v", r.dv);
}

void add_to(CheckCase& c, const Tensor& sum, const Tensor& x) {
  c.ctx.kernels().scale_add(sum.elements(), 1, x.data, sum.data, c.ctx);
}

HeadsLayout tokens_first(const Json& j, const char* heads) {
  const int64_t dim = j.at("dim"), count = j.at(heads);
  return {j.at("B"), count, j.at("N"), dim / count, false};
}

// ---- Sparse Transformer ---------------------------------------------------------------------------------------------

SparseConfig sparse_config(const Json& j) {
  using Pattern = SparseConfig::Pattern;
  using Factors = SparseConfig::Factors;
  std::string mode = j.at("mode");
  if (const std::string block = "_block"; mode.size() > block.size() && mode.compare(mode.size() - block.size(), block.size(), block) == 0)
    mode.resize(mode.size() - block.size());
  SparseConfig s;
  s.stride = std::max<int64_t>(j.at("stride").get<int64_t>(), 1);
  s.summary = j.value("vertsize", int64_t{1}) * j.value("blocksize", int64_t{1});
  s.verticals = j.value("num_verts", int64_t{1});
  const auto set = [&](Pattern p, Factors f) {
    s.pattern = p;
    s.factors = f;
  };
  // The block-sparse forms are the same sets of pairs; its `fixed` holds both factors.
  if (mode == "all") {
    set(Pattern::kStrided, Factors::kFirst);
    s.stride = j.at("N");
  } else if (mode == "local") {
    set(Pattern::kStrided, Factors::kFirst);
  } else if (mode == "strided") {
    set(Pattern::kStrided, Factors::kSecond);
  } else if (mode == "strided_merged") {
    set(Pattern::kStrided, Factors::kMerged);
  } else if (mode == "heads_strided") {
    set(Pattern::kStrided, Factors::kHeads);
  } else if (mode == "fixed_local") {
    set(Pattern::kFixed, Factors::kFirst);
  } else if (mode == "fixed_summary") {
    set(Pattern::kFixed, Factors::kSecond);
  } else if (mode == "heads_fixed") {
    set(Pattern::kFixed, Factors::kHeads);
  } else {
    require(mode == "fixed_merged" || mode == "fixed", "unknown sparse mode {}", mode);
    set(Pattern::kFixed, Factors::kMerged);
  }
  return s;
}

// The official masking adds -1e9: a row without keys becomes the mean of all values, the future's too. As groups: queries
// of zeros against everybody.
TokenGroups keyless_rows(const TokenGroups& groups, int64_t tokens) {
  TokenGroups mean;
  mean.heads = groups.heads;
  for (int64_t head = 0; head < groups.heads; ++head) {
    std::vector<bool> keyless(static_cast<size_t>(tokens), true);
    const TokenGroups::Range& range = groups.range(0, head);
    for (int32_t g = range.begin; g < range.end; ++g) {
      const TokenGroups::Group& group = groups.groups[static_cast<size_t>(g)];
      int64_t first_key = tokens;
      for (int32_t r = group.key_runs; r < group.key_runs_end; ++r)
        first_key = std::min<int64_t>(first_key, groups.runs[static_cast<size_t>(r)].begin);
      for (int32_t r = group.query_runs; r < group.query_runs_end; ++r) {
        const Run& run = groups.runs[static_cast<size_t>(r)];
        for (int64_t i = 0; i < run.count; ++i)
          if (run.begin + i * run.stride >= first_key) keyless[static_cast<size_t>(run.begin + i * run.stride)] = false;
      }
    }
    const auto begin = static_cast<int32_t>(mean.groups.size());
    mean.begin_group(-1);
    for (int64_t i = 0; i < tokens; ++i)
      if (keyless[static_cast<size_t>(i)]) mean.add_query_run(rows_run(i, 1));
    mean.add_key_run(rows_run(0, tokens));
    mean.end_group();
    mean.ranges.push_back({begin, begin + 1});
  }
  mean.finish();
  return mean;
}

void sparse_transformer(CheckCase& c) {
  const HeadsLayout layout = tokens_first(c.config, "heads");
  const TokenGroups groups = sparse_groups(sparse_config(c.config), {0, 1, layout.tokens, true});
  const Tensor q = c.input("q"), k = c.input("k"), v = c.input("v"), dy = c.upstream("y");
  const KernelRun r = run_kernel(c, groups, layout, q, k, v, dy, nullptr);
  if (c.config.at("mode") == "fixed_summary" || c.config.at("mode") == "heads_fixed") {
    const KernelRun mean = run_kernel(c, keyless_rows(groups, layout.tokens), layout, c.memory(q.shape), k, v, dy, nullptr);
    add_to(c, r.y, mean.y);
    add_to(c, r.dv, mean.dv);  // scores do not depend on q and k there
  }
  give(c, r);
}

// ---- blocked local attention ----------------------------------------------------------------------------------------

// Tokens of (B, H, N, D) under another N: zeros behind, or the first ones.
Tensor with_tokens(CheckCase& c, const Tensor& x, int64_t tokens) {
  const int64_t outer = x.dim(0) * x.dim(1), width = x.dim(3), from = x.dim(2);
  const Tensor y = c.memory(Shape{x.dim(0), x.dim(1), tokens, width});
  for (int64_t i = 0; i < outer; ++i)
    for (int64_t j = 0; j < std::min(from, tokens) * width; ++j) store_scalar(y, i * tokens * width + j, load_scalar(x, i * from * width + j));
  return y;
}

// x / max(|x|, 1e-12) by rows; the backward is (dy - y (y · dy)) / |x|.
Tensor unit_rows(CheckCase& c, const Tensor& x, const Tensor* dy) {
  const Tensor to = c.memory(x.shape);
  const int64_t width = x.last();
  for (int64_t r = 0; r < x.rows(); ++r) {
    double square = 0, along = 0;
    for (int64_t i = r * width; i < (r + 1) * width; ++i) {
      square += load_scalar(x, i) * load_scalar(x, i);
      if (dy) along += load_scalar(x, i) * load_scalar(*dy, i);
    }
    const double norm = std::max(std::sqrt(square), 1e-12);
    for (int64_t i = r * width; i < (r + 1) * width; ++i)
      store_scalar(to, i, dy ? (load_scalar(*dy, i) - load_scalar(x, i) * along / (norm * norm)) / norm : load_scalar(x, i) / norm);
  }
  return to;
}

void local_block_attention(CheckCase& c) {
  give(c, run_local_blocks(c, c.input("q"), c.input("k"), c.input("v"), c.upstream("y")));
}

// ---- Longformer -----------------------------------------------------------------------------------------------------

void dilated_window_attention(CheckCase& c) {
  const HeadsLayout layout = tokens_first(c.config, "num_heads");
  LongformerConfig l;
  l.window = c.config.at("one_sided");
  l.dilation = c.config.at("dilation_per_head").get<std::vector<int64_t>>();
  const LongformerGroups g = longformer_groups(l, {layout.batch, 0, 1, layout.tokens}, flag(c.config, "causal", false));
  give(c, run_kernel(c, g.window, layout, c.input("q"), c.input("k"), c.input("v"), c.upstream("y"), nullptr));
}

void longformer_self_attention(CheckCase& c) {
  AttentionConfig a = heads_of(c.config);
  a.project_out = false;
  LongformerConfig l;
  l.window = c.config.at("one_sided");
  if (c.config.contains("dilation") && !c.config.at("dilation").is_null()) l.dilation = {c.config.at("dilation").get<int64_t>()};
  if (c.config.contains("dilation_per_head")) l.dilation = c.config.at("dilation_per_head").get<std::vector<int64_t>>();
  const LongformerAttention attention(Scope(c.params), a, l);
  const std::vector<std::string> kinds{".weight", ".bias"};
  for (const std::string& kind : kinds) {
    int64_t first = 0;
    for (const char* name : {"query", "key", "value"}) {
      c.bind(name + kind, "qkv" + kind, first, a.dim);
      first += a.dim;
    }
    c.bind("query_global" + kind, "q_global" + kind);
    c.bind("key_global" + kind, "kv_global" + kind, 0, a.dim);
    c.bind("value_global" + kind, "kv_global" + kind, a.dim, a.dim);
  }
  c.load();
  AttentionInputs in;
  in.x = c.input("x");
  in.grid = sequence(in.x.dim(0), in.x.dim(1));
  in.causal = flag(c.config, "causal", false);
  std::vector<int8_t> states;
  if (c.fixture.has("in.state")) {
    for (const int32_t s : c.fixture.ints("in.state")) states.push_back(static_cast<int8_t>(s < 0 ? -1 : s > 0));
    in.token_state = states.data();
  }
  const Tensor dx = c.memory(in.x.shape);
  run_attention(c, attention, in, {dx, {}, {}}, in.x.shape);
  c.input_gradient("x", dx);
}

// ---- token shift ----------------------------------------------------------------------------------------------------

void token_shift(CheckCase& c) {
  const TokenShift shift(c.config.at("shifts").get<std::vector<int64_t>>());
  const Tensor x = c.input("x"), y = c.memory(x.shape), dx = c.memory(x.shape);
  std::vector<uint8_t> padding;
  if (c.fixture.has("in.mask"))
    for (const int32_t keep : c.fixture.ints("in.mask")) padding.push_back(keep == 0);
  shift.forward(x, y, padding.empty() ? nullptr : padding.data(), &c.tape, c.ctx);
  c.output("y", y);
  shift.backward(c.upstream("y"), dx, c.tape, c.ctx);
  c.input_gradient("x", dx);
}

}  // namespace

KernelRun run_local_blocks(CheckCase& c, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& upstream) {
  const Json& j = c.config;
  const bool causal = j.at("causal"), shared = flag(j, "shared_qk", false), rotary = flag(j, "rotary", false);
  LocalConfig local;
  local.window = j.at("window");
  local.back = j.at("look_backward");
  local.forward = j.at("look_forward");
  local.exact = flag(j, "exact_windowsize", false);
  if (shared) local.self_penalty = -5e4f;
  HeadsLayout layout{q.dim(0), q.dim(1), q.dim(2), q.dim(3), true};
  const int64_t tokens = layout.tokens;
  const Shape rows{layout.batch * layout.heads, tokens, 1, layout.head_dim};
  // Queries take the positions of the last block that they see, `forward` blocks too far.
  const int64_t query_first = local.forward * local.window;
  const auto turned = [&](const Tensor& x, int64_t first, bool back) {
    if (!rotary) return x;
    const Tensor y = c.memory(x.shape);
    if (back)
      Rotary().backward(x.reshaped(rows), first, y.reshaped(rows), c.ctx);
    else
      Rotary().forward(x.reshaped(rows), first, y.reshaped(rows), c.ctx);
    return y;
  };
  Tensor kq = turned(q, query_first, false), kk = turned(shared ? unit_rows(c, k, nullptr) : k, 0, false), kv = v, dy = upstream;
  const uint8_t* padding = nullptr;
  if (c.fixture.has("in.mask")) {
    uint8_t* p = const_cast<uint8_t*>(c.bytes("mask"));  // 1 = keep there, 1 = no key here
    for (int64_t i = 0; i < layout.batch * tokens; ++i) p[i] = p[i] == 0;
    padding = p;
  } else {
    // Without a mask the tokens that fill the last block are zeros which everybody may see.
    layout.tokens = (tokens + local.window - 1) / local.window * local.window;
    for (Tensor* t : {&kq, &kk, &kv, &dy}) *t = with_tokens(c, *t, layout.tokens);
  }
  const KernelRun r = run_kernel(c, local_groups(local, 0, layout.tokens, causal), layout, kq, kk, kv, dy, padding);
  const Tensor dk = turned(with_tokens(c, r.dk, tokens), 0, true);
  return {with_tokens(c, r.y, tokens), turned(with_tokens(c, r.dq, tokens), query_first, true), shared ? unit_rows(c, k, &dk) : dk,
          with_tokens(c, r.dv, tokens)};
}

void add_patterns_runners(Runners& runners) {
  runners["sparse_transformer"] = sparse_transformer;
  runners["local_block_attention"] = local_block_attention;
  runners["dilated_window_attention"] = dilated_window_attention;
  runners["longformer_self_attention"] = longformer_self_attention;
  runners["token_shift_1d"] = token_shift;
}

}  // namespace fovea::parity
