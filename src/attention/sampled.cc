#include "attention/sampled.h"

#include <algorithm>

#include "attention/registry.h"

namespace fovea {

// What the backward needs besides the inner attention's and the reduction's own records.
struct SampledAttention::Record {
  AttentionInputs in;
  const int32_t* map_rows = nullptr;  // (B, H W) token of each cell, -1 for zeros; null: the map is x itself
  Tensor before_activation;           // kLinear: (B, cells, C)
};

namespace {

using Kind = SampledConfig::Kind;

int64_t strided_count(int64_t length, int64_t stride, int64_t offset) {
  return length == 0 ? 0 : (length - 1 - std::min(offset, length - 1)) / stride + 1;
}

// Cells of the map that pooled key `bin` of an axis sees.
std::pair<int64_t, int64_t> cells_of(int64_t bin, int64_t bins, int64_t length, int64_t ratio, Kind kind) {
  if (kind == Kind::kLinear) return {bin * length / bins, ((bin + 1) * length + bins - 1) / bins};
  return {bin * ratio, std::min(length, (bin + 1) * ratio)};
}

AttentionConfig towards_samples(AttentionConfig c) {
  require(!c.cross, "sampled attention takes its keys from the queries' own map, not from a second input");
  c = with_defaults(c);
  c.cross = true;
  c.key_dim = c.value_dim = c.dim;
  return c;
}

SampledConfig checked(const SampledConfig& s) {
  require(s.ratio_h > 0 && s.ratio_w > 0 && s.grid_h > 0 && s.grid_w > 0, "sampled attention: ratio and grid must be positive");
  require(s.offset_h >= 0 && s.offset_w >= 0, "sampled attention: the offset must not be negative");
  return s;
}

// Rows [first, first + count) of each batch element of `from` (B, rows, C) to rows [to_first, ...) of `to`.
void copy_tokens(const ConstTensor& from, int64_t first, const Tensor& to, int64_t to_first, int64_t count) {
  if (count == 0) return;
  const int64_t channels = from.last();
  for (int64_t b = 0; b < from.dim(0); ++b) {
    const ConstTensor source = from.slice(b, 1).reshaped(Shape{from.dim(1), channels}).slice(first, count);
    std::memcpy(to.slice(b, 1).reshaped(Shape{to.dim(1), channels}).slice(to_first, count).data, source.data, source.bytes());
  }
}

}  // namespace

int64_t SampledConfig::out_height(int64_t height) const {
  if (kind == Kind::kLinear) return grid_h;
  return kind == Kind::kStrided ? strided_count(height, ratio_h, offset_h) : std::max<int64_t>(1, height / ratio_h);
}

int64_t SampledConfig::out_width(int64_t width) const {
  if (kind == Kind::kLinear) return grid_w;
  return kind == Kind::kStrided ? strided_count(width, ratio_w, offset_w) : std::max<int64_t>(1, width / ratio_w);
}

SampledAttention::SampledAttention(const Scope& scope, const AttentionConfig& config, const SampledConfig& sampled)
    : config_(with_defaults(config)), sampled_(checked(sampled)), attention_(scope, towards_samples(config)) {
  const bool whole = sampled_.ratio_h == 1 && sampled_.ratio_w == 1;
  if (sampled_.kind == Kind::kStrided || (sampled_.kind == Kind::kPooled && whole)) return;
  Conv2dShape conv;
  conv.in = conv.out = config_.dim;
  conv.kernel_h = conv.stride_h = sampled_.kind == Kind::kLinear ? 1 : sampled_.ratio_h;
  conv.kernel_w = conv.stride_w = sampled_.kind == Kind::kLinear ? 1 : sampled_.ratio_w;
  conv.at_least_one = true;
  reduction_.emplace(scope / "sr", conv, Bias::kYes, MapLayout::kChannelsLast);
  norm_.emplace(scope / "norm", config_.dim, sampled_.norm_epsilon);
}

int64_t SampledAttention::keys(const TokenGrid& grid) const {
  return grid.prefix + sampled_.out_height(grid.height) * sampled_.out_width(grid.width);
}

// kStrided: row of x (B N) for each key (B M).
const std::vector<int32_t>& SampledAttention::key_rows(const TokenGrid& grid, Context& ctx) const {
  const SampledConfig& s = sampled_;
  return ctx.cached<std::vector<int32_t>>(
      fmt::format("sampled {} {}x{} {}x{}", grid.str(), s.ratio_h, s.ratio_w, s.offset_h, s.offset_w), [&] {
        std::vector<int32_t> rows;
        for (int64_t b = 0; b < grid.batch; ++b) {
          const int64_t first = b * grid.tokens();
          for (int64_t i = 0; i < grid.prefix; ++i) rows.push_back(static_cast<int32_t>(first + i));
          for (int64_t y = std::min(s.offset_h, grid.height - 1); y < grid.height; y += s.ratio_h)
            for (int64_t x = std::min(s.offset_w, grid.width - 1); x < grid.width; x += s.ratio_w)
              rows.push_back(static_cast<int32_t>(first + grid.prefix + y * grid.width + x));
        }
        return rows;
      });
}

// (B, M) 1 = this key is none; null without key padding.
const uint8_t* SampledAttention::padding_of_keys(const AttentionInputs& in, Tape* tape, Context& ctx) const {
  if (!in.key_padding || (sampled_.kind != Kind::kStrided && !reduces())) return in.key_padding;
  const TokenGrid& g = in.grid;
  const int64_t m = keys(g), rows = sampled_.out_height(g.height), columns = sampled_.out_width(g.width);
  auto* padding = (tape ? tape->arena() : ctx.scratch()).take<uint8_t>(g.batch * m);
  if (sampled_.kind == Kind::kStrided) {
    const auto& of = key_rows(g, ctx);
    for (size_t i = 0; i < of.size(); ++i) padding[i] = in.key_padding[of[i]];
    return padding;
  }
  for (int64_t b = 0; b < g.batch; ++b) {
    const uint8_t* tokens = in.key_padding + b * g.tokens();
    uint8_t* to = padding + b * m;
    std::copy_n(tokens, g.prefix, to);
    for (int64_t i = 0; i < rows * columns; ++i) {
      const auto [top, bottom] = cells_of(i / columns, rows, g.height, sampled_.ratio_h, sampled_.kind);
      const auto [left, right] = cells_of(i % columns, columns, g.width, sampled_.ratio_w, sampled_.kind);
      bool all = true;
      for (int64_t y = top; y < bottom; ++y)
        for (int64_t x = left; x < right; ++x) all = all && tokens[g.prefix + y * g.width + x] != 0;
      to[g.prefix + i] = all;
    }
  }
  return padding;
}

// z (B, M, C): the prefix tokens of x, then its reduced map.
void SampledAttention::reduce(const AttentionInputs& in, Record& r, Tensor z, Tape* tape, Context& ctx) const {
  const TokenGrid& g = in.grid;
  const int64_t cells = g.height * g.width, c = config_.dim;
  const int64_t rows = sampled_.out_height(g.height), columns = sampled_.out_width(g.width);
  ConstTensor map = in.x;
  if (g.prefix > 0 || in.key_padding) {
    auto* map_rows = (tape ? tape->arena() : ctx.scratch()).take<int32_t>(g.batch * cells);
    for (int64_t i = 0; i < g.batch * cells; ++i) {
      const int64_t token = i / std::max<int64_t>(1, cells) * g.tokens() + g.prefix + i % cells;
      map_rows[i] = in.key_padding && in.key_padding[token] != 0 ? -1 : static_cast<int32_t>(token);
    }
    const Tensor own = ctx.activation(Shape{g.batch, cells, c}, tape);
    ctx.kernels().gather_rows(g.batch * cells, c, in.x.data, map_rows, own.data, ctx);
    r.map_rows = map_rows;
    map = own;
  }
  map = map.reshaped(Shape{g.batch, g.height, g.width, c});
  if (sampled_.kind == Kind::kLinear) {
    const Tensor pooled = ctx.activation(Shape{g.batch, rows, columns, c}, tape);
    ctx.kernels().adaptive_pool({g.batch, c, g.height, g.width, cells * c, rows, columns}, map.data, pooled.data, ctx);
    map = pooled;
  }
  const Tensor convolved = ctx.activation(Shape{g.batch, rows, columns, c}, tape);
  reduction_->forward(map, convolved, tape, ctx);
  const Tensor reduced = g.prefix > 0 ? ctx.activation(Shape{g.batch, rows * columns, c}, tape) : z;
  if (sampled_.kind == Kind::kLinear) {
    r.before_activation = ctx.activation(Shape{g.batch, rows * columns, c}, tape);
    norm_->forward(convolved, r.before_activation, tape, ctx);
    ctx.kernels().activation(Activation::kGelu, reduced.elements(), r.before_activation.data, reduced.data, ctx);
  } else {
    norm_->forward(convolved, reduced, tape, ctx);
  }
  if (g.prefix == 0) return;
  copy_tokens(in.x, 0, z, 0, g.prefix);
  copy_tokens(reduced, 0, z, g.prefix, rows * columns);
}

// dx += the transpose of z's making: the prefix tokens' rows, and the map's through norm, convolution and pooling; what padded
// cells would get is dropped, since they were read as zeros.
void SampledAttention::reduce_backward(const Record& r, ConstTensor dz, Tensor dx, Tape& tape, Context& ctx) const {
  const TokenGrid& g = r.in.grid;
  const int64_t cells = g.height * g.width, c = config_.dim;
  const int64_t rows = sampled_.out_height(g.height), columns = sampled_.out_width(g.width);
  ArenaScope scope(ctx.scratch());
  Arena& scratch = ctx.scratch();
  const Tensor gradient = scratch.take(Shape{g.batch, rows * columns, c}, ctx.dtype());
  if (g.prefix > 0) {
    const Tensor prefix = scratch.take(Shape{g.batch, g.prefix, c}, ctx.dtype());
    copy_tokens(dz, 0, prefix, 0, g.prefix);
    copy_tokens(dz, g.prefix, gradient, 0, rows * columns);
    for (int64_t b = 0; b < g.batch; ++b)
      ctx.kernels().scale_add(g.prefix * c, 1, prefix.slice(b, 1).data, dx.slice(b, 1).data, ctx);
  } else if (gradient.bytes() != 0) {
    std::memcpy(gradient.data, dz.data, dz.bytes());
  }
  if (sampled_.kind == Kind::kLinear)
    ctx.kernels().activation_backward(Activation::kGelu, gradient.elements(), r.before_activation.data, gradient.data,
                                      gradient.data, ctx);
  norm_->backward(gradient, gradient, Accumulate::kNo, tape, ctx);
  const Tensor dmap = scratch.take(Shape{g.batch, g.height, g.width, c}, ctx.dtype());
  if (sampled_.kind == Kind::kLinear) {
    const Tensor dpooled = scratch.take(gradient.shape, ctx.dtype());
    reduction_->backward(gradient, dpooled, tape, ctx);
    ctx.kernels().adaptive_pool_backward({g.batch, c, g.height, g.width, cells * c, rows, columns}, dpooled.data, dmap.data, ctx);
  } else {
    reduction_->backward(gradient, dmap, tape, ctx);
  }
  if (r.map_rows)
    ctx.kernels().scatter_add_rows(g.batch * cells, c, dmap.data, r.map_rows, dx.data, ctx);
  else
    ctx.kernels().scale_add(dmap.elements(), 1, dmap.data, dx.data, ctx);
}

void SampledAttention::forward(const AttentionInputs& in, Tensor y, Tape* tape, Context& ctx) const {
  const TokenGrid& g = in.grid;
  require_shape(in.x, Shape{g.batch, g.tokens(), config_.dim}, "attention input");
  require(in.memory.empty(), "only transformer_xl takes a memory of earlier segments");
  const auto reasons = unsupported(g);
  require(reasons.empty(), "this attention cannot run on {} tokens: {}", g.str(), fmt::join(reasons, "; "));
  require(in.key_input.empty() && in.value_input.empty(), "sampled attention takes its keys from the queries' own map, not from a second input");
  require(!in.causal, "sampled attention has no causal form: a pooled key mixes tokens before and after a query");
  require(in.mask.empty(), "sampled attention takes no additive mask: its keys are not the tokens; use key padding");
  ArenaScope scope(ctx.scratch());
  Record r;
  r.in = in;
  AttentionInputs inner = in;
  inner.key_padding = padding_of_keys(in, tape, ctx);
  if (sampled_.kind == Kind::kStrided || reduces()) {
    const Tensor z = ctx.activation(Shape{g.batch, keys(g), config_.dim}, tape);
    if (reduces())
      reduce(in, r, z, tape, ctx);
    else
      ctx.kernels().gather_rows(g.batch * keys(g), config_.dim, in.x.data, key_rows(g, ctx).data(), z.data, ctx);
    inner.key_input = z;
  }
  attention_.forward(inner, y, tape, ctx);
  if (tape) tape->push(r);
}

// The inner attention's backward gives the gradients of the queries' and of the keys' tokens; both are of x.
void SampledAttention::backward(ConstTensor dy, const AttentionGradients& gradients, Tape& tape, Context& ctx) const {
  const auto r = tape.pop<Record>();
  const TokenGrid& g = r.in.grid;
  ArenaScope scope(ctx.scratch());
  const bool own_keys = sampled_.kind == Kind::kStrided || reduces();
  const Tensor dz = own_keys ? ctx.scratch().take(Shape{g.batch, keys(g), config_.dim}, ctx.dtype()) : Tensor();
  attention_.backward(dy, {gradients.dx, dz, {}}, tape, ctx);
  if (reduces())
    reduce_backward(r, dz, gradients.dx, tape, ctx);
  else if (own_keys)
    ctx.kernels().scatter_add_rows(g.batch * keys(g), config_.dim, dz.data, key_rows(g, ctx).data(), gradients.dx.data, ctx);
}

std::vector<std::string> SampledAttention::unsupported(const TokenGrid& grid) const {
  if (grid.batch > 0 && (grid.height == 0 || grid.width == 0)) return {"the map that keys are sampled from is empty"};
  return {};
}

double SampledAttention::flops(const TokenGrid& grid) const {
  const auto batch = static_cast<double>(grid.batch), n = static_cast<double>(grid.tokens()), m = static_cast<double>(keys(grid));
  const auto dim = static_cast<double>(config_.dim), inner = static_cast<double>(config_.heads * config_.head_dim);
  double total = 2 * batch * inner * dim * (n * (config_.project_out ? 2 : 1) + 2 * m) + 4 * batch * n * m * inner;
  if (reduces()) {
    const auto taps = static_cast<double>(reduction_->shape().kernel_h * reduction_->shape().kernel_w);
    total += 2 * batch * static_cast<double>(keys(grid) - grid.prefix) * dim * dim * taps;
  }
  return total;
}

AttentionKind sampled_attention_kind() {
  AttentionKind k;
  k.name = "sampled";
  k.summary = "every token meets a sample of the keys: pooled patches of the map (PVT, Twins' global half), a fixed grid, or a stride";
  k.paper = "Wang et al. 2021, arXiv:2102.12122; Wang et al. 2022, arXiv:2106.13797; Twins: Chu et al. 2021, arXiv:2104.13840";
  k.cost = "O(N^2 C / r^2 + N C^2), r the ratio; linear: O(N g C + N C^2), g cells of the grid";
  k.options = {{"kind", "pooled", "pooled: convolution over patches and LayerNorm; linear: mean over a fixed grid, 1x1 convolution, "
                                  "LayerNorm, GELU; strided: tokens at a stride"},
               {"ratio", "2", "patch or stride, R or RxR, in tokens; 1: every token is a key"},
               {"offset", "0", "strided: the first row and column"},
               {"grid", "7", "linear: keys, G or GxG"}};
  k.traits.prefix = k.traits.separate_qkv = true;
  k.no_union_reason = "its keys are projections of their own, not the tokens'";
  k.make = [](const Scope& scope, const AttentionConfig& config, const AttentionOptions& o) -> std::unique_ptr<Attention> {
    SampledConfig s;
    const std::string kind = o.choice("kind", {"pooled", "linear", "strided"});
    s.kind = kind == "pooled" ? Kind::kPooled : kind == "linear" ? Kind::kLinear : Kind::kStrided;
    std::tie(s.ratio_h, s.ratio_w) = o.size("ratio");
    s.offset_h = s.offset_w = o.integer("offset");
    std::tie(s.grid_h, s.grid_w) = o.size("grid");
    return std::make_unique<SampledAttention>(scope, config, s);
  };
  return k;
}

}  // namespace fovea
