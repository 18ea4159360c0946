#include "attention/parallel.h"

#include <cstring>
#include <utility>

namespace fovea {

struct ParallelAttention::Record {
  AttentionInputs in;
  Tensor out;  // (B, N, H D): the parts' outputs side by side
};

namespace {

// Rows of `width` elements between matrices of other row lengths: x (rows, x_stride) to y (rows, y_stride).
void copy_columns(ConstTensor x, int64_t x_stride, int64_t x_first, Tensor y, int64_t y_stride, int64_t y_first, int64_t rows, int64_t width,
                  Context& ctx) {
  const auto size = static_cast<int64_t>(size_of(x.dtype));
  const char* from = static_cast<const char*>(x.data) + x_first * size;
  char* to = static_cast<char*>(y.data) + y_first * size;
  ctx.pool().for_ranges(rows, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r)
      std::memcpy(to + r * y_stride * size, from + r * x_stride * size, static_cast<size_t>(width * size));
  });
}

// The mask of heads [first, first + heads), where heads have masks of their own.
ConstTensor mask_of_heads(const ConstTensor& mask, int64_t first, int64_t heads, int64_t all_heads, Tape* tape, Context& ctx) {
  if (mask.empty() || mask.dim(1) == 1) return mask;
  require(mask.shape.rank() == 4 && mask.dim(1) == all_heads, "attention mask: got shape {} for {} heads", mask.shape, all_heads);
  const int64_t one = mask.dim(2) * mask.dim(3);
  const Tensor own = ctx.activation(Shape{mask.dim(0), heads, mask.dim(2), mask.dim(3)}, tape);
  copy_columns(mask, all_heads * one, first * one, own, heads * one, 0, mask.dim(0), heads * one, ctx);
  return own;
}

}  // namespace

AttentionConfig ParallelAttention::part_config(const AttentionConfig& config, int64_t heads) {
  AttentionConfig c = with_defaults(config);
  c.heads = heads;
  c.project_out = false;
  return c;
}

ParallelAttention::ParallelAttention(const Scope& scope, const AttentionConfig& config, std::vector<Part> parts)
    : config_(with_defaults(config)), parts_(std::move(parts)) {
  int64_t heads = 0;
  for (const Part& p : parts_) heads += p.heads;
  check(heads == config_.heads, "parallel parts have {} heads of {}", heads, config_.heads);
  if (config_.project_out) proj_.emplace(scope / "proj", inner(), config_.dim, config_.out_bias ? Bias::kYes : Bias::kNo);
}

void ParallelAttention::forward(const AttentionInputs& in, Tensor y, Tape* tape, Context& ctx) const {
  const int64_t batch = in.grid.batch, tokens = in.grid.tokens();
  require(proj_ || in.residual.empty(), "an attention without output projection takes no residual");
  ArenaScope scope(ctx.scratch());
  Record r{in, y};
  if (proj_) r.out = ctx.activation(Shape{batch, tokens, inner()}, tape);
  int64_t head = 0;
  for (const Part& part : parts_) {
    AttentionInputs own = in;
    own.residual = {};
    own.mask = mask_of_heads(in.mask, head, part.heads, config_.heads, tape, ctx);
    ArenaScope inside(ctx.scratch());
    const int64_t width = part.heads * config_.head_dim;
    const Tensor out = ctx.scratch().take(Shape{batch, tokens, width}, ctx.dtype());
    part.attention->forward(own, out, tape, ctx);
    copy_columns(out, width, 0, r.out, inner(), head * config_.head_dim, batch * tokens, width, ctx);
    head += part.heads;
  }
  if (proj_) {
    LinearFusion fusion;
    fusion.residual = in.residual;
    proj_->apply(r.out, y, fusion, ctx);
  }
  if (tape) tape->push(r);
}

// y = [O_0 O_1 ...] Wᵀ + b with O_p = part p of x: dO_p are columns of dy W, and dx is the sum of the parts' (each input's
// likewise). A residual input's gradient is the caller's.
void ParallelAttention::backward(ConstTensor dy, const AttentionGradients& gradients, Tape& tape, Context& ctx) const {
  const auto r = tape.pop<Record>();
  const int64_t rows = r.in.grid.batch * r.in.grid.tokens();
  ArenaScope scope(ctx.scratch());
  ConstTensor dout = dy;
  if (proj_) {
    const Tensor own = ctx.scratch().take(r.out.shape, r.out.dtype);
    proj_->backward_parameters(r.out, dy, ctx);
    proj_->backward_input(dy, own, Accumulate::kNo, ctx);
    dout = own;
  }
  int64_t head = config_.heads;
  for (auto part = parts_.rbegin(); part != parts_.rend(); ++part) {
    head -= part->heads;
    ArenaScope inside(ctx.scratch());
    const int64_t width = part->heads * config_.head_dim;
    const Tensor down = ctx.scratch().take(Shape{r.in.grid.batch, r.in.grid.tokens(), width}, ctx.dtype());
    copy_columns(dout, inner(), head * config_.head_dim, down, width, 0, rows, width, ctx);
    if (part == parts_.rbegin()) {
      part->attention->backward(down, gradients, tape, ctx);
      continue;
    }
    const auto like = [&](const Tensor& t) { return t.empty() ? Tensor() : ctx.scratch().take(t.shape, t.dtype); };
    const AttentionGradients own{like(gradients.dx), like(gradients.dkey_input), like(gradients.dvalue_input),
                                 like(gradients.dmemory)};
    part->attention->backward(down, own, tape, ctx);
    const auto add = [&](const Tensor& sum, const Tensor& more) {
      if (!sum.empty()) ctx.kernels().add(sum.elements(), sum.data, more.data, sum.data, ctx);
    };
    add(gradients.dx, own.dx);
    add(gradients.dkey_input, own.dkey_input);
    add(gradients.dvalue_input, own.dvalue_input);
    add(gradients.dmemory, own.dmemory);
  }
}

std::vector<std::string> ParallelAttention::unsupported(const TokenGrid& grid) const {
  std::vector<std::string> reasons;
  for (const Part& p : parts_)
    for (const std::string& reason : p.attention->unsupported(grid)) reasons.push_back(fmt::format("{}: {}", p.name, reason));
  return reasons;
}

double ParallelAttention::flops(const TokenGrid& grid) const {
  double sum = proj_ ? 2 * static_cast<double>(grid.batch * grid.tokens()) * static_cast<double>(inner()) * static_cast<double>(config_.dim) : 0;
  for (const Part& p : parts_) sum += p.attention->flops(grid);
  return sum;
}

void ParallelAttention::end_step(Context& ctx) {
  for (const Part& p : parts_) p.attention->end_step(ctx);
}

}  // namespace fovea
