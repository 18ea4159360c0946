// Transformer-XL: its attention, layers and stacks of segments. The fixtures are time-major, (N, B, C).
#include <cmath>
#include <optional>

#include "attention/segment_memory.h"
#include "attention/sinusoid.h"
#include "attention/transformer_xl.h"
#include "core/convert.h"
#include "parity/runners.h"

namespace fovea::parity {

namespace {

// (n, B, ...) as (B, n, ...), and back.
Tensor swapped(CheckCase& c, const ConstTensor& t) {
  const int64_t outer = t.dim(0), inner = t.dim(1), row = t.elements() == 0 ? 0 : t.elements() / (outer * inner);
  const Tensor to = c.memory(Shape{inner, outer, t.last()});
  for (int64_t i = 0; i < outer; ++i)
    for (int64_t j = 0; j < inner; ++j)
      for (int64_t k = 0; k < row; ++k) store_scalar(to, (j * outer + i) * row + k, load_scalar(t, (i * inner + j) * row + k));
  return to;
}

Tensor reversed(CheckCase& c, const ConstTensor& t) {
  const Tensor to = c.memory(t.shape);
  for (int64_t i = 0; i < t.rows(); ++i)
    for (int64_t k = 0; k < t.last(); ++k) store_scalar(to, (t.rows() - 1 - i) * t.last() + k, load_scalar(t, i * t.last() + k));
  return to;
}

AttentionConfig xl_heads(const Json& j) {
  AttentionConfig a;
  a.dim = j.at("d_model");
  a.heads = j.at("n_head");
  a.head_dim = j.at("d_head");
  a.qkv_bias = a.out_bias = false;
  return a;
}

// A mask (N, M + N) as the mechanism's options say it: causal, perhaps only so many keys back; or none at all.
void read_mask(CheckCase& c, int64_t queries, int64_t keys, TransformerXlConfig& xl) {
  if (!c.fixture.has("in.attn_mask")) {
    xl.wrapped_shift = queries > 1;  // a single query has no key behind it
    if (xl.wrapped_shift && c.ctx.dtype() == DType::kF32) throw ReferenceOnly("the wrapped relative shift is a quirk for the reference tables");
    return;
  }
  const uint8_t* m = c.bytes("attn_mask");
  const int64_t memory = keys - queries;
  int64_t reach = 0;
  for (int64_t j = 0; j <= memory + queries - 1; ++j) reach += m[(queries - 1) * keys + j] == 0 ? 1 : 0;
  for (int64_t i = 0; i < queries; ++i)
    for (int64_t j = 0; j < keys; ++j) {
      const int64_t distance = i + memory - j;
      require((m[i * keys + j] == 0) == (distance >= 0 && distance < reach), "the mask is neither causal nor of the same length for all queries");
    }
  xl.same_length = reach < keys;
  xl.mem_len = reach;
}

// Attention and, where there is one, perceptron: a residual branch each with the norm before or after. The norm before
// attention is applied to the memory as well.
class XlLayer {
 public:
  XlLayer(const Scope& scope, const AttentionConfig& heads, const TransformerXlConfig& xl, double epsilon, bool pre, int64_t hidden)
      : attention_(scope / "attn", heads, xl), norm1_(scope / "norm1", heads.dim, epsilon), pre_(pre) {
    if (hidden == 0) return;
    mlp_.emplace(scope / "mlp", heads.dim, hidden, Activation::kRelu);
    norm2_.emplace(scope / "norm2", heads.dim, epsilon);
  }

  Tensor forward(CheckCase& c, const AttentionInputs& inputs) const {
    AttentionInputs in = inputs;
    in.residual = in.x;
    if (pre_) {
      if (!in.memory.empty()) in.memory = normed(c, norm1_, in.memory);
      in.x = normed(c, norm1_, in.x);
    }
    Tensor y = c.memory(in.x.shape);
    attention_.forward(in, y, &c.tape, c.ctx);
    if (!pre_) y = normed(c, norm1_, y);
    if (!mlp_) return y;
    const Tensor z = c.memory(y.shape);
    mlp_->forward(pre_ ? normed(c, *norm2_, y) : y, nullptr, y, z, &c.tape, c.ctx);
    return pre_ ? z : normed(c, *norm2_, z);
  }

  // `gradient` holds dy and receives dx; dmemory may be empty.
  void backward(CheckCase& c, const Tensor& gradient, const Tensor& dmemory) const {
    if (mlp_) {
      if (!pre_) norm2_->backward(gradient, gradient, Accumulate::kNo, c.tape, c.ctx);
      branch(c, gradient, *norm2_, [&](const Tensor& d) { mlp_->backward(gradient, nullptr, d, c.tape, c.ctx); });
    }
    if (!pre_) norm1_.backward(gradient, gradient, Accumulate::kNo, c.tape, c.ctx);
    branch(c, gradient, norm1_, [&](const Tensor& d) { attention_.backward(gradient, {d, {}, {}, dmemory}, c.tape, c.ctx); });
    if (pre_ && !dmemory.empty()) norm1_.backward(dmemory, dmemory, Accumulate::kNo, c.tape, c.ctx);
  }

 private:
  static Tensor normed(CheckCase& c, const LayerNorm& norm, const ConstTensor& x) {
    const Tensor y = c.memory(x.shape);
    norm.forward(x, y, &c.tape, c.ctx);
    return y;
  }
  template <class F>
  void branch(CheckCase& c, const Tensor& gradient, const LayerNorm& norm, F&& inside) const {
    const Tensor d = c.memory(gradient.shape);
    inside(d);
    if (pre_)
      norm.backward(d, gradient, Accumulate::kYes, c.tape, c.ctx);
    else
      c.ctx.kernels().scale_add(d.elements(), 1, d.data, gradient.data, c.ctx);
  }

  TransformerXlAttention attention_;
  LayerNorm norm1_;
  std::optional<Mlp> mlp_;
  std::optional<LayerNorm> norm2_;
  bool pre_;
};

// The official names of a layer's weights as XlLayer's; what stands before them stays.
std::string xl_name(const std::string& key) {
  std::string name = key;
  const auto replace = [&](const std::string& from, const std::string& to) {
    const size_t at = name.find(from);
    if (at == std::string::npos) return false;
    name.replace(at, from.size(), to);
    return true;
  };
  if (replace("pos_ff.CoreNet.0.", "mlp.fc1.") || replace("pos_ff.CoreNet.3.", "mlp.fc2.") || replace("pos_ff.layer_norm.", "norm2."))
    return name;
  replace("dec_attn.", "");
  if (replace("layer_norm.", "norm1.") || replace("qkv_net.", "attn.qkv.") || replace("o_net.", "attn.proj.") || replace("r_net.", "attn.r_net."))
    return name;
  return name.rfind("r_", 0) == 0 ? "attn." + name : name;
}

void rel_layer(CheckCase& c, bool learnable) {
  const Json& j = c.config;
  const Tensor x = swapped(c, c.input("w"));
  Tensor memory;
  if (c.fixture.has("in.mems")) memory = swapped(c, c.input("mems"));
  const int64_t batch = x.dim(0), queries = x.dim(1), keys = queries + (memory.empty() ? 0 : memory.dim(1));
  TransformerXlConfig xl;
  read_mask(c, queries, keys, xl);
  if (learnable) {
    xl.learnable = j.at("r_len");
  } else {
    const Tensor r = c.input("r");  // (keys, 1, C), the greatest distance first
    xl.positions = reversed(c, r.reshaped(Shape{r.dim(0), r.last()}));
    xl.dpositions = c.memory(xl.positions.shape);
  }
  const int64_t hidden = j.contains("d_inner") && !j["d_inner"].is_null() ? j["d_inner"].get<int64_t>() : 0;
  const XlLayer layer(Scope(c.params), xl_heads(j), xl, j.at("ln_eps"), flag(j, "pre_lnorm", false), hidden);
  c.load(xl_name);

  AttentionInputs in;
  in.x = x;
  in.grid = sequence(batch, queries);
  in.causal = !xl.wrapped_shift;
  in.memory = memory;
  c.output("y", swapped(c, layer.forward(c, in)));
  const Tensor gradient = swapped(c, c.upstream("y")), dmemory = memory.empty() ? Tensor() : c.memory(memory.shape);
  layer.backward(c, gradient, dmemory);
  c.input_gradient("w", swapped(c, gradient));
  if (!memory.empty()) c.input_gradient("mems", swapped(c, dmemory));
  if (!learnable) c.input_gradient("r", reversed(c, xl.dpositions));
}

void position_rows(CheckCase& c) {
  const Tensor positions = c.input("pos_seq");
  std::vector<double> p;
  for (int64_t i = 0; i < positions.elements(); ++i) p.push_back(load_scalar(positions, i));
  const Tensor r = c.memory(Shape{positions.elements(), c.config.at("d_model")});
  write_sinusoids(p, r);
  c.output("r", r);
}

// The shift as the kernel's own map from a pair to its source.
void rel_shift(CheckCase& c) {
  const Tensor x = c.input("x");  // (queries, keys, ...)
  const int64_t queries = x.dim(0), keys = x.dim(1), channels = x.elements() / (queries * keys);
  std::vector<int32_t> index;
  for (int64_t i = 0; i < queries; ++i)
    for (int64_t j = 0; j < keys; ++j) {
      const RelativeSource from = relative_shift_source(i, i + keys - queries - j, keys);
      index.push_back(from.distance < 0 ? -1 : static_cast<int32_t>(from.query * keys + keys - 1 - from.distance));
    }
  const Tensor y = c.memory(x.shape), dx = c.memory(x.shape);
  c.ctx.kernels().gather_rows(queries * keys, channels, x.data, index.data(), y.data, c.ctx);
  c.ctx.kernels().scatter_add_rows(queries * keys, channels, c.upstream("y").data, index.data(), dx.data, c.ctx);
  c.output("y", y);
  c.input_gradient("x", dx);
}

// Layers over segments; each remembers its inputs, and u and v belong to all.
void stack(CheckCase& c) {
  const Json& j = c.config;
  const AttentionConfig heads = xl_heads(j);
  const Scope scope(c.params);
  TransformerXlConfig xl;
  xl.r_w_bias = scope.param("r_w_bias", Shape{heads.heads, heads.head_dim}, Init::zeros(), Decay::kNo);
  xl.r_r_bias = scope.param("r_r_bias", Shape{heads.heads, heads.head_dim}, Init::zeros(), Decay::kNo);
  xl.same_length = flag(j, "same_length", false);
  xl.clamp_len = j.value("clamp_len", int64_t{-1});
  xl.mem_len = j.at("mem_len");
  Param* embedding = scope.param("embedding", Shape{j.at("n_token"), heads.dim}, Init::zeros(), Decay::kNo);
  const int64_t depth = j.at("n_layer"), segments = j.at("segments"), n = j.at("qlen"), batch = j.at("bsz");
  const int64_t extended = j.value("ext_len", int64_t{0});
  std::vector<XlLayer> layers;
  layers.reserve(static_cast<size_t>(depth));
  for (int64_t l = 0; l < depth; ++l)
    layers.emplace_back(scope / "layers" / l, heads, xl, j.at("ln_eps"), flag(j, "pre_lnorm", false), j.at("d_inner"));
  c.load([](const std::string& key) {
    if (key == "word_emb.emb_layers.0.weight") return std::string("embedding");
    return key.rfind("layers.", 0) == 0 ? xl_name(key) : key;
  });

  const double embedding_scale = std::sqrt(static_cast<double>(heads.dim));
  const std::vector<int32_t> tokens = c.fixture.ints("in.tokens");  // (segments, N, B)
  std::vector<Tensor> memories(static_cast<size_t>(depth + 1));
  for (int64_t s = 0; s < segments; ++s) {
    std::vector<int32_t> index;  // of (B, N)
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t t = 0; t < n; ++t) index.push_back(tokens[static_cast<size_t>((s * n + t) * batch + b)]);
    const Tensor rows = c.memory(Shape{batch, n, heads.dim});
    std::vector<Tensor> hidden = {c.memory(rows.shape)};
    c.ctx.kernels().gather_rows(batch * n, heads.dim, embedding->value.data, index.data(), rows.data, c.ctx);
    c.ctx.kernels().scale_add(rows.elements(), embedding_scale, rows.data, hidden[0].data, c.ctx);
    for (int64_t l = 0; l < depth; ++l) {
      AttentionInputs in;
      in.x = hidden.back();
      in.grid = sequence(batch, n);
      in.causal = true;
      in.memory = memories[static_cast<size_t>(l)];
      hidden.push_back(layers[static_cast<size_t>(l)].forward(c, in));
    }
    c.output(fmt::format("hid{}", s), swapped(c, hidden.back()));

    const Tensor gradient = swapped(c, c.upstream(fmt::format("hid{}", s)));
    for (int64_t l = depth - 1; l >= 0; --l) layers[static_cast<size_t>(l)].backward(c, gradient, {});
    const Tensor dembedding = c.memory(gradient.shape);
    c.ctx.kernels().scale_add(gradient.elements(), embedding_scale, gradient.data, dembedding.data, c.ctx);
    c.ctx.kernels().scatter_add_rows(batch * n, heads.dim, dembedding.data, index.data(), embedding->grad.data, c.ctx);

    for (int64_t l = 0; l <= depth; ++l) {
      Tensor& memory = memories[static_cast<size_t>(l)];
      const MemoryCut cut = memory_cut(memory.empty() ? 0 : memory.dim(1), n, xl.mem_len, extended, MemoryLengths::kSwapped);
      const Tensor next = c.memory(Shape{batch, cut.rows(), heads.dim});
      copy_memory(memory, hidden[static_cast<size_t>(l)], cut, next);
      memory = next;
      c.output(fmt::format("mem{}_{}", s, l), swapped(c, memory));
    }
  }
}

}  // namespace

void add_transformer_xl_runners(Runners& runners) {
  runners["transformer_xl_rel_attention"] = [](CheckCase& c) { rel_layer(c, false); };
  runners["transformer_xl_layer"] = [](CheckCase& c) { rel_layer(c, false); };
  runners["transformer_xl_learnable_rel"] = [](CheckCase& c) { rel_layer(c, true); };
  runners["transformer_xl_pos_emb"] = position_rows;
  runners["transformer_xl_rel_shift"] = rel_shift;
  runners["transformer_xl_stack"] = stack;
}

}  // namespace fovea::parity
