// Fixtures of keys sampled inside global attention (PVT, Twins), and of heads side by side with patterns of their own.
#include "parity/runners.h"

#include "attention/sampled.h"
#include "attention/window.h"

namespace fovea::parity {

namespace {

// Several attentions over shares of the heads, one output projection: y = proj(heads side by side).
class SideBySide {
 public:
  SideBySide(CheckCase& c, const Json& config) : c_(c), dim_(config.at("dim")) {}

  // The next `heads` heads of `all`.
  AttentionConfig share(int64_t heads, int64_t all) const {
    AttentionConfig a;
    a.dim = dim_;
    a.heads = heads;
    a.head_dim = dim_ / all;
    a.project_out = false;
    return a;
  }
  Scope next() const { return Scope(c_.params) / std::to_string(parts_.size()); }
  void add(std::unique_ptr<Attention> part, int64_t heads_dim) {
    parts_.push_back({std::move(part), heads_dim});
  }

  // Makes proj, binds what is left, runs all.
  void run(const TokenGrid& grid) {
    const Linear proj(Scope(c_.params) / "proj", dim_, dim_, Bias::kYes);
    c_.load();
    AttentionInputs in;
    in.x = c_.input("x");
    in.grid = grid;
    const int64_t rows = in.x.rows();
    const Tensor together = c_.memory(Shape{rows, dim_}), dtogether = c_.memory(together.shape), y = c_.memory(in.x.shape), dx = c_.memory(in.x.shape);
    int64_t first = 0;
    for (const Part& part : parts_) {
      const Tensor heads = c_.memory(Shape{grid.batch, grid.tokens(), part.width});
      part.attention->forward(in, heads, &c_.tape, c_.ctx);
      move(heads, together, first, part.width, false);
      first += part.width;
    }
    proj.forward(together, y, &c_.tape, c_.ctx);
    c_.output("y", y);
    proj.backward(c_.upstream("y"), dtogether, Accumulate::kNo, c_.tape, c_.ctx);
    for (size_t i = parts_.size(); i-- > 0;) {
      first -= parts_[i].width;
      const Tensor heads = c_.memory(Shape{grid.batch, grid.tokens(), parts_[i].width}), d = c_.memory(dx.shape);
      move(heads, dtogether, first, parts_[i].width, true);
      parts_[i].attention->backward(heads, {d, {}, {}}, c_.tape, c_.ctx);
      c_.ctx.kernels().scale_add(d.elements(), 1, d.data, dx.data, c_.ctx);
    }
    c_.input_gradient("x", dx);
  }

 private:
  struct Part {
    std::unique_ptr<Attention> attention;
    int64_t width;
  };
  // Channels [first, first + width) of `together`, from or to (rows, width).
  static void move(const Tensor& heads, const Tensor& together, int64_t first, int64_t width, bool to_heads) {
    const auto size = static_cast<int64_t>(size_of(heads.dtype));
    for (int64_t r = 0; r < heads.rows(); ++r) {
      char* a = static_cast<char*>(heads.data) + r * width * size;
      char* b = static_cast<char*>(together.data) + (r * together.last() + first) * size;
      if (to_heads) std::memcpy(a, b, static_cast<size_t>(width * size));
      else std::memcpy(b, a, static_cast<size_t>(width * size));
    }
  }

  CheckCase& c_;
  int64_t dim_;
  std::vector<Part> parts_;
};

void bind_both(CheckCase& c, const std::string& key, int64_t key_first, const std::string& parameter, int64_t first, int64_t rows) {
  c.bind_rows(key + ".weight", key_first, parameter + ".weight", first, rows);
  if (c.fixture.has("w." + key + ".bias")) c.bind_rows(key + ".bias", key_first, parameter + ".bias", first, rows);
}

void pvt_spatial_reduction(CheckCase& c) {
  const Json& j = c.config;
  const AttentionConfig a = heads_of(j);
  AttentionConfig with_bias = a;
  with_bias.qkv_bias = c.fixture.has("w.q.bias");
  SampledConfig s;
  s.kind = flag(j, "linear_attn", false) ? SampledConfig::Kind::kLinear : SampledConfig::Kind::kPooled;
  std::tie(s.ratio_h, s.ratio_w) = pair_of(j.at("sr_ratio"));
  s.norm_epsilon = j.value("ln_eps", 1e-5);
  const SampledAttention attention(Scope(c.params), with_bias, s);
  bind_both(c, "kv", 0, "k", 0, a.dim);
  bind_both(c, "kv", a.dim, "v", 0, a.dim);
  c.load();
  AttentionInputs in;
  in.x = c.input("x");
  in.grid = {in.x.dim(0), 0, j.at("H"), j.at("W")};
  const Tensor dx = c.memory(in.x.shape);
  run_attention(c, attention, in, {dx, {}, {}}, in.x.shape);
  c.input_gradient("x", dx);
}

// Windows with zeros as keys where they leave the map, without a position bias.
void twins_lsa(CheckCase& c) {
  const Json& j = c.config;
  WindowConfig w;
  std::tie(w.window_h, w.window_w) = pair_of(j.at("window"));
  w.rule = WindowRule::mmdet();
  w.position_bias = false;
  AttentionConfig a = heads_of(j);
  a.qkv_bias = c.fixture.has("w.qkv.bias");
  const WindowAttention attention(Scope(c.params), a, w);
  c.load();
  AttentionInputs in;
  in.x = c.input("x");
  in.grid = {in.x.dim(0), 0, j.at("H"), j.at("W")};
  const Tensor dx = c.memory(in.x.shape);
  run_attention(c, attention, in, {dx, {}, {}}, in.x.shape);
  c.input_gradient("x", dx);
}

// The first heads meet pooled keys, the others windows.
void parallel_global_window(CheckCase& c) {
  const Json& j = c.config;
  const int64_t global = j.at("global_heads"), local = j.at("window_heads"), dim = j.at("dim");
  const int64_t global_dim = dim / (global + local) * global, local_dim = dim - global_dim;
  SideBySide all(c, j);
  SampledConfig s;
  std::tie(s.ratio_h, s.ratio_w) = pair_of(j.at("sr_ratio"));
  s.norm_epsilon = j.value("ln_eps", 1e-5);
  all.add(std::make_unique<SampledAttention>(all.next(), all.share(global, global + local), s), global_dim);
  WindowConfig w;
  std::tie(w.window_h, w.window_w) = pair_of(j.at("window"));
  w.rule = WindowRule::mmdet();
  w.position_bias = w.pad_keys = false;
  all.add(std::make_unique<WindowAttention>(all.next(), all.share(local, global + local), w), local_dim);
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
  all.run({c.input("x").dim(0), 0, j.at("H"), j.at("W")});
}

// One pattern a head; here those that sample the keys.
void parallel_head_patterns(CheckCase& c) {
  const Json& j = c.config;
  const auto patterns = j.at("head_patterns").get<std::vector<std::string>>();
  const int64_t dim = j.at("dim"), heads = std::ssize(patterns), d = dim / heads;
  SideBySide all(c, j);
  for (int64_t h = 0; h < heads; ++h) {
    const std::string& pattern = patterns[static_cast<size_t>(h)];
    long long stride = 1, offset = 0;
    require(pattern == "global" || std::sscanf(pattern.c_str(), "strided_keys:%lld:%lld", &stride, &offset) == 2,
            "this version has no heads with the pattern {}", pattern);
    SampledConfig s;
    s.kind = SampledConfig::Kind::kStrided;
    s.ratio_w = stride;
    s.offset_w = offset;
    s.ratio_h = 1;
    const std::string scope = std::to_string(h);
    all.add(std::make_unique<SampledAttention>(all.next(), all.share(1, heads), s), d);
    const char* names[] = {"q", "k", "v"};
    for (int64_t i = 0; i < 3; ++i) bind_both(c, "qkv", i * dim + h * d, scope + "." + names[i], 0, d);
  }
  all.run(sequence(c.input("x").dim(0), c.input("x").dim(1)));
}

}  // namespace

void add_sampled_runners(Runners& runners) {
  runners["pvt_spatial_reduction"] = pvt_spatial_reduction;
  runners["twins_lsa"] = twins_lsa;
  runners["parallel_global_window"] = parallel_global_window;
  runners["parallel_head_patterns"] = parallel_head_patterns;
}

}  // namespace fovea::parity
