// Fixtures of the Routing Transformer: clustered attention from q, k and v on, and the layer around it.
#include "parity/runners.h"

#include "attention/routing.h"
#include "core/convert.h"

namespace fovea::parity {

namespace {

using Keys = RoutedConfig::Keys;

// [B, H, N, D]
ConstHeadsView rows_of_heads(const Tensor& t) { return {t.data, t.dim(1) * t.dim(2) * t.dim(3), t.dim(3), t.dim(2) * t.dim(3)}; }
HeadsView writable(const Tensor& t) { return {t.data, t.dim(1) * t.dim(2) * t.dim(3), t.dim(3), t.dim(2) * t.dim(3)}; }

RoutedConfig routed_of(const Json& j) {
  RoutedConfig r;
  r.clusters = j.at("num_clusters");
  r.window = j.at("window_size");
  r.memory = j.value("num_mem_kv", int64_t{0});
  r.commitment = j.value("commitment", 1e-4);
  r.decay = j.value("ema_decay", 0.999);
  r.membership = RoutedConfig::Membership::kBalanced;
  if (flag(j, "shared_qk", false) && !flag(j, "receives_context", false)) r.keys = Keys::kUnitQueries;
  r.mean_epsilon = j.value("scatter_eps", 1e-5);
  r.self_penalty = j.value("self_mask_value", -5e4);
  r.padding_is_routed = true;
  return r;
}

// Weights without elements belong to layers without memory.
void add_empty_memory(CheckCase& c, const std::string& key, const RoutedConfig& r, int64_t heads, int64_t head_dim) {
  for (const char* name : {"mem_key", "mem_value"}) {
    if (r.memory == 0 && c.fixture.has("w." + key + name)) c.params.add(name, Shape{heads, r.clusters, 0, head_dim}, Init::zeros(), Decay::kNo);
    if (!key.empty()) c.bind(key + name, name);
  }
}

void load_means(CheckCase& c) {
  convert(c.fixture.tensor("buf.means", c.ctx.dtype()), c.params.find("means")->value);
  store_scalar(c.params.find("means_ready")->value, 0, 1);
}

// The loss's upstream gradient is its weight.
void train_with(CheckCase& c, const std::string& loss) {
  c.ctx.set_training(true, Rng(), load_scalar(c.upstream(loss), 0));
}

void report_loss(CheckCase& c, const std::string& loss) {
  const Tensor value = c.memory(Shape{1});
  store_scalar(value, 0, c.ctx.auxiliary_loss());
  c.output(loss, value);
}

std::vector<uint8_t> padding_of(CheckCase& c, const std::string& mask) {  // 1 in the file = there
  std::vector<uint8_t> padding;
  for (const int32_t there : c.fixture.ints("in." + mask)) padding.push_back(there == 0);
  return padding;
}

void kmeans_attention(CheckCase& c) {
  RoutedConfig r = routed_of(c.config);
  r.heads = c.config.at("num_heads");
  r.head_dim = c.config.at("dim_head");
  const bool context = flag(c.config, "receives_context", false);
  if (context && !c.config.at("context_window_size").is_null()) r.key_window = c.config["context_window_size"];
  RoutedSoftmax routed(Scope(c.params), r);
  add_empty_memory(c, "", r, r.heads, r.head_dim);
  c.load();
  load_means(c);
  const bool shared = r.keys == Keys::kUnitQueries;
  const Tensor q = c.input("q"), v = c.input("v"), k = shared ? Tensor() : c.input("k");
  RoutedInputs in;
  in.batch = q.dim(0);
  in.queries = q.dim(2);
  in.keys = v.dim(2);
  in.q = rows_of_heads(q);
  if (!shared) in.k = rows_of_heads(k);
  in.v = rows_of_heads(v);
  in.causal = flag(c.config, "causal", false);
  std::vector<uint8_t> query_padding, key_padding;
  if (c.fixture.has("in.query_mask")) query_padding = padding_of(c, "query_mask");
  if (c.fixture.has("in.key_mask")) key_padding = padding_of(c, "key_mask");
  else if (!context) key_padding = query_padding;
  if (!query_padding.empty()) in.query_padding = query_padding.data();
  if (!key_padding.empty()) in.key_padding = key_padding.data();

  train_with(c, "aux_loss");
  const Tensor y = c.memory(q.shape), dq = c.memory(q.shape), dk = c.memory(v.shape), dv = c.memory(v.shape);
  routed.forward(in, writable(y), &c.tape, c.ctx);
  c.output("y", y);
  report_loss(c, "aux_loss");
  routed.backward(rows_of_heads(y), rows_of_heads(c.upstream("y")), writable(dq), writable(dk), writable(dv), c.tape, c.ctx);
  c.input_gradient("q", dq);
  if (!shared) c.input_gradient("k", dk);
  c.input_gradient("v", dv);

  const Tensor new_means = c.memory(routed.means().shape);
  int64_t i = 0;
  for (const double mean : routed.new_means(c.ctx)) store_scalar(new_means, i++, mean);
  c.output("new_means", new_means);
  routed.end_step(c.ctx);
  c.output("means_after_ema", routed.means().value);
}

void self_attention_layer(CheckCase& c) {
  const Json& j = c.config;
  AttentionConfig a;
  a.dim = j.at("dim");
  a.heads = j.at("heads");
  a.head_dim = j.at("dim_head");
  a.qkv_bias = false;
  a.out_bias = c.fixture.has("w.to_out.bias");
  require(j.value("local_attn_heads", int64_t{0}) == 0, "local heads stand beside routed ones as a mechanism of their own");
  const RoutedConfig r = routed_of(j);
  const RoutingAttention attention(Scope(c.params), a, r);
  const int64_t inner = a.heads * a.head_dim;
  add_empty_memory(c, "global_attn.", r, a.heads, a.head_dim);
  if (r.keys == Keys::kUnitQueries) {
    c.bind("to_q.weight", "q.weight");
    c.bind("to_v.weight", "v.weight");
  } else {
    int64_t first = 0;
    for (const char* key : {"to_q.weight", "to_k.weight", "to_v.weight"}) {
      c.bind(key, "qkv.weight", first, inner);
      first += inner;
    }
  }
  c.bind("to_out.weight", "proj.weight");
  if (a.out_bias) c.bind("to_out.bias", "proj.bias");
  c.load();
  load_means(c);
  AttentionInputs in;
  in.x = c.input("x");
  in.grid = sequence(in.x.dim(0), in.x.dim(1));
  in.causal = flag(j, "causal", false);
  std::vector<uint8_t> padding;
  for (const char* mask : {"mask", "input_mask"})
    if (c.fixture.has(std::string("in.") + mask)) padding = padding_of(c, mask);
  if (!padding.empty()) in.key_padding = padding.data();
  train_with(c, "aux_loss");
  const Tensor dx = c.memory(in.x.shape);
  run_attention(c, attention, in, {dx, {}, {}}, in.x.shape);
  c.input_gradient("x", dx);
  report_loss(c, "aux_loss");
}

// q and k at mean zero and variance one, without parameters, before everything else.
struct NormedRows {
  CheckCase& c;
  Tensor x, y, mean, rstd;
  LayerNormArgs args;
  NormedRows(CheckCase& check, const Tensor& input) : c(check), x(input), y(c.memory(x.shape)), mean(c.memory(Shape{x.rows()})), rstd(c.memory(Shape{x.rows()})) {
    args.channels = x.last();
    args.epsilon = c.config.at("ln_eps");
    args.x_rows = args.y_rows = RowLayout::contiguous(x.rows(), x.last());
    args.x = x.data;
    args.y = y.data;
    args.mean = mean.data;
    args.rstd = rstd.data;
    c.ctx.kernels().layer_norm(args, c.ctx);
  }
  void backward(const Tensor& dy, const Tensor& dx, bool accumulate) const {
    LayerNormBackwardArgs b;
    b.channels = args.channels;
    b.x_rows = b.dy_rows = b.dx_rows = args.x_rows;
    b.x = x.data;
    b.mean = mean.data;
    b.rstd = rstd.data;
    b.dy = dy.data;
    b.dx = dx.data;
    b.accumulate_dx = accumulate;
    c.ctx.kernels().layer_norm_backward(b, c.ctx);
  }
};

void google(CheckCase& c) {
  const Json& j = c.config;
  RoutedConfig r;
  r.heads = j.at("num_heads");
  r.head_dim = j.at("dim_head");
  r.clusters = j.at("num_clusters");
  r.window = j.at("window");
  r.commitment = j.at("beta");
  r.mean_epsilon = j.at("scatter_eps");
  r.membership = RoutedConfig::Membership::kBalanced;
  r.scale = 1;
  r.unit = false;
  r.rank_causal = true;
  r.distance_per_side = true;
  const bool shared = j.at("share_qk");
  if (shared) r.keys = Keys::kAsQueries;
  RoutedSoftmax routed(Scope(c.params), r);
  c.load();
  load_means(c);
  const NormedRows q(c, c.input("q")), k(c, c.input(shared ? "q" : "k"));
  const Tensor v = c.input("v");
  RoutedInputs in;
  in.batch = q.x.dim(0);
  in.queries = q.x.dim(2);
  in.keys = v.dim(2);
  in.q = rows_of_heads(q.y);
  in.k = rows_of_heads(k.y);
  in.v = rows_of_heads(v);
  in.causal = flag(j, "causal", false);
  train_with(c, "clustering_loss");
  const Tensor y = c.memory(q.x.shape), dq = c.memory(q.x.shape), dk = c.memory(v.shape), dv = c.memory(v.shape);
  routed.forward(in, writable(y), &c.tape, c.ctx);
  c.output("y", y);
  report_loss(c, "clustering_loss");
  routed.backward(rows_of_heads(y), rows_of_heads(c.upstream("y")), writable(dq), writable(dk), writable(dv), c.tape, c.ctx);
  const Tensor dq_in = c.memory(q.x.shape), dk_in = shared ? dq_in : c.memory(v.shape);
  q.backward(dq, dq_in, false);
  k.backward(dk, dk_in, shared);
  c.input_gradient("q", dq_in);
  if (!shared) c.input_gradient("k", dk_in);
  c.input_gradient("v", dv);
}

}  // namespace

void add_routing_runners(Runners& r) {
  r["routing_kmeans_attention"] = kmeans_attention;
  r["routing_self_attention_layer"] = self_attention_layer;
  r["routing_google"] = google;
}

}  // namespace fovea::parity
