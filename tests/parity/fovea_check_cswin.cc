// Fixtures of CSWin: stripes with their position term, blocks, merging, and the whole backbone with its two kinds of output.
#include "parity/runners.h"

#include <cmath>

#include "attention/cross_shaped.h"
#include "blocks/conv_merging.h"
#include "core/convert.h"
#include "models/cswin.h"

namespace fovea::parity {

namespace {

// (B, C, N) as (B, N, C), or the reverse: a (rows, columns) matrix for each batch element turned over.
Tensor turned(CheckCase& c, const Tensor& from, int64_t batch, int64_t rows, int64_t columns) {
  const Tensor to = c.memory(Shape{batch, columns, rows});
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < columns; ++i) store_scalar(to, (b * columns + i) * rows + r, load_scalar(from, (b * rows + r) * columns + i));
  return to;
}

// One branch alone: q, k, v are given. qkv is (3, B, N, C), or (B, 3, C, H, W) where the code pads.
void lepe_attention(CheckCase& c, bool channels_first) {
  const Json& j = c.config;
  const int64_t batch = j.at("B"), h = j.at("H"), w = j.at("W"), dim = j.at("dim"), heads = j.at("num_heads"), n = h * w;
  const int64_t index = j.at("idx"), d = dim / heads;
  const Stripe direction = index < 0 ? Stripe::kWhole : index == 0 ? Stripe::kVertical : Stripe::kHorizontal;
  const int64_t stripe = j.at("split_size");
  const DepthwiseConv3x3 get_v(Scope(c.params) / "get_v", dim);
  c.load();
  // As (3, B, N, C) and back.
  const auto ours = [&](const Tensor& given) {
    if (!channels_first) return Tensor(given.reshaped(Shape{3, batch, n, dim}));
    const Tensor rows = turned(c, given, batch * 3, dim, n).reshaped(Shape{batch * 3, n, dim});
    const Tensor to = c.memory(Shape{3, batch, n, dim});
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t i = 0; i < 3; ++i) convert(rows.slice(b * 3 + i, 1), to.reshaped(Shape{3 * batch, n, dim}).slice(i * batch + b, 1));
    return to;
  };
  const auto theirs = [&](const Tensor& mine) {
    if (!channels_first) return mine;
    const Tensor rows = c.memory(Shape{batch * 3, n, dim});
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t i = 0; i < 3; ++i) convert(mine.reshaped(Shape{3 * batch, n, dim}).slice(i * batch + b, 1), rows.slice(b * 3 + i, 1));
    return turned(c, rows, batch * 3, n, dim);
  };
  const auto view = [&](const Tensor& t, int64_t which) {
    return HeadsView{t.reshaped(Shape{t.elements() / (batch * n * dim), batch, n, dim}).slice(which, 1).data, n * dim, dim, d};
  };

  const TokenGroups groups = stripe_groups(0, h, w, {{direction, heads}}, stripe);
  DepthwiseMap map;
  map.batch = batch;
  map.height = h;
  map.width = w;
  map.blocks = stripe_blocks(h, w, direction, stripe);
  const Tensor qkv = ours(c.input("qkv")), out = c.memory(Shape{batch, n, dim}), y = c.memory(out.shape);
  const Tensor lse = c.memory(Shape{batch, heads, groups.query_slots});
  GroupedAttentionBackwardArgs a;
  a.forward.groups = &groups;
  a.forward.batch = batch;
  a.forward.heads = heads;
  a.forward.head_dim = d;
  a.forward.queries = a.forward.keys = n;
  a.forward.scale = j.value("scale", 1 / std::sqrt(static_cast<double>(d)));
  a.forward.q = view(qkv, 0);
  a.forward.k = view(qkv, 1);
  a.forward.v = view(qkv, 2);
  a.forward.out = view(out, 0);
  a.forward.lse = lse.data;
  c.ctx.kernels().grouped_attention(a.forward, c.ctx);
  get_v.forward(map, a.forward.v, c.ctx.dtype(), view(out, 0), view(y, 0), c.ctx);
  c.output("y", y);

  const Tensor dy = c.upstream("y"), dqkv = c.memory(qkv.shape);
  a.dout = view(dy, 0);
  a.dq = view(dqkv, 0);
  a.dk = view(dqkv, 1);
  a.dv = view(dqkv, 2);
  c.ctx.kernels().grouped_attention_backward(a, c.ctx);
  get_v.backward(map, a.forward.v, view(dy, 0), a.dv, c.ctx);
  c.input_gradient("qkv", theirs(dqkv));
}

// The stripes of a stage or block whose first weights begin with `prefix`; one branch shows in the weights.
AttentionSpec stripes_of(const CheckCase& c, const std::string& prefix, int64_t stripe) {
  const bool two = c.fixture.has("w." + prefix + "attns.1.get_v.weight");
  return {"cross_shaped", {{"stripe", fmt::format("{}", stripe)}, {"branches", two ? "2" : "1"}}};
}

void cswin_block(CheckCase& c) {
  BlockConfig b = block_of(c.config);
  b.attention = stripes_of(c, "", c.config.at("split_size"));
  b.attention_scope = "";
  const TransformerBlock block(Scope(c.params), b);
  c.load();
  const Tensor x = c.input("x");
  AttentionInputs in;
  in.grid = {x.dim(0), 0, c.config.at("H"), c.config.at("W")};
  in.x = x.reshaped(Shape{x.dim(0), in.grid.tokens(), b.heads.dim});
  run_block(c, block, in);
}

void cswin_merge(CheckCase& c) {
  const Json& j = c.config;
  const ConvMerging merging(Scope(c.params), j.at("dim"), j.at("dim_out"), j.at("ln_eps"));
  c.load();
  const Tensor x = c.input("x");
  const TokenGrid grid{x.dim(0), 0, j.at("H"), j.at("W")};
  const Tensor y = c.memory(Shape{grid.batch, ConvMerging::merged(grid).tokens(), j.at("dim_out").get<int64_t>()}), dx = c.memory(x.shape);
  merging.forward(x, grid, y, &c.tape, c.ctx);
  c.output("y", y);
  merging.backward(c.upstream("y"), dx, c.tape, c.ctx);
  c.input_gradient("x", dx);
}

ModelConfig cswin_config(CheckCase& c) {
  const Json& j = c.config;
  const Shape images = c.fixture.tensor("in.x").shape;
  ModelConfig m;
  m.name = j.value("case", "fixture");
  m.family = "cswin";
  m.input.channels = images[1];
  m.input.height = images[2];
  m.input.width = images[3];
  m.classes = j.value("num_classes", int64_t{1});
  m.patch = 4;
  m.dim = j.at("embed_dim");
  m.mlp_ratio = j.at("mlp_ratio");
  m.norm_epsilon = j.at("ln_eps");
  m.qkv_bias = flag(j, "qkv_bias", true);
  m.depths = j.at("depth").get<std::vector<int64_t>>();
  m.stage_heads = j.at("num_heads").get<std::vector<int64_t>>();
  const std::vector<int64_t> stripes = j.at("split_size");
  std::vector<std::string> specs;
  for (size_t s = 0; s < m.depths.size(); ++s) specs.push_back(stripes_of(c, fmt::format("stage{}.0.", s + 1), stripes.at(s)).str());
  m.attention = fmt::format("{}", fmt::join(specs, "/"));
  return m;
}

// The classifier; its features are the mean over the tokens after the last norm.
void backbone_cswin(CheckCase& c) {
  ModelCase model(c, cswin_config(c));
  model.load();
  const Tensor x = c.input("x"), dx = c.memory(x.shape);
  const auto out = model.model.forward(x, &c.tape, c.ctx);
  c.output("logits", out.logits[0]);
  const TokenGrid& g = out.backbone.grid;
  const int64_t channels = model.model.backbone().channels();
  Tensor dfeatures;
  if (c.fixture.has("out.features")) {
    const Tensor features = c.memory(Shape{g.batch, channels});
    c.ctx.kernels().mean_tokens(g.batch, g.tokens(), 0, channels, out.backbone.features.data, features.data, c.ctx);
    c.output("features", features);
    dfeatures = c.memory(out.backbone.features.shape);
    c.ctx.kernels().mean_tokens_backward(g.batch, g.tokens(), 0, channels, c.upstream("features").data, dfeatures.data, c.ctx);
  }
  model.model.backward({c.upstream("logits"), Tensor()}, dfeatures, {}, dx, c.tape, c.ctx);
  c.input_gradient("x", dx);
  model.collect_gradients();
}

// The pyramid for dense heads: one norm a map, (B, C, H, W).
void backbone_cswin_dense(CheckCase& c) {
  ModelConfig m = cswin_config(c);
  m.pyramid_norms = true;
  const CSwinTransformer backbone(Scope(c.params), m);
  c.load();
  const Tensor x = c.input("x"), dx = c.memory(x.shape);
  const BackboneOutput out = backbone.forward(x, &c.tape, c.ctx);
  std::vector<Tensor> dpyramid;
  for (size_t s = 0; s < out.pyramid.size(); ++s) {
    const FeatureMap& map = out.pyramid[s];
    const std::string name = fmt::format("c{}", s + 1);
    const int64_t tokens = map.grid.tokens(), channels = map.tokens.last();
    c.output(name, turned(c, map.tokens, map.grid.batch, tokens, channels));
    dpyramid.push_back(c.fixture.has("gout." + name) ? turned(c, c.upstream(name), map.grid.batch, channels, tokens) : Tensor());
  }
  backbone.backward({}, dpyramid, dx, c.tape, c.ctx);
  c.input_gradient("x", dx);
}

}  // namespace

void add_cswin_runners(Runners& runners) {
  runners["cswin_lepe_attention"] = [](CheckCase& c) { lepe_attention(c, false); };
  runners["cswin_lepe_attention_padded"] = [](CheckCase& c) { lepe_attention(c, true); };
  runners["cswin_block"] = runners["cswin_block_padded"] = cswin_block;
  runners["cswin_merge"] = cswin_merge;
  runners["backbone_cswin"] = backbone_cswin;
  runners["backbone_cswin_dense"] = backbone_cswin_dense;
}

}  // namespace fovea::parity
