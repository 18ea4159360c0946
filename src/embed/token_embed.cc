#include "embed/token_embed.h"

#include "kernels/kernel_table.h"

namespace fovea {

namespace {

struct TokenEmbedRecord {
  TokenGrid grid;
};

Tensor rows_of(const Tensor& t, int64_t begin, int64_t count, int64_t channels) {
  return t.reshaped(Shape{t.elements() / channels, channels}).slice(begin, count);
}

// Row of the shared sequence for each token of the batch, and token of the batch for each patch.
struct Indices {
  std::vector<int32_t> shared, patches;
};

const Indices& indices(const TokenGrid& g, Context& ctx) {
  return ctx.cached<Indices>(fmt::format("token embed {} {} {}", g.batch, g.prefix, g.height * g.width), [&] {
    Indices i;
    for (int64_t b = 0; b < g.batch; ++b)
      for (int64_t t = 0; t < g.tokens(); ++t) {
        i.shared.push_back(static_cast<int32_t>(t));
        if (t >= g.prefix) i.patches.push_back(static_cast<int32_t>(b * g.tokens() + t));
      }
    return i;
  });
}

}  // namespace

TokenEmbed::TokenEmbed(const Scope& scope, const TokenEmbedConfig& c) : config_(c) {
  const Init init = Init::truncated_normal(0.02);
  if (c.class_token) cls_token_ = scope.param("cls_token", Shape{1, 1, c.dim}, init, Decay::kNo);
  if (c.distillation_token) dist_token_ = scope.param("dist_token", Shape{1, 1, c.dim}, init, Decay::kNo);
  if (c.register_tokens > 0) reg_token_ = scope.param("reg_token", Shape{1, c.register_tokens, c.dim}, init, Decay::kNo);
  if (!c.positions) return;
  const int64_t rows = c.grid_height * c.grid_width + c.table_prefix();
  pos_embed_ = scope.param(c.table, Shape{1, rows, c.dim}, init, Decay::kNo);
}

std::vector<Param*> TokenEmbed::prefix_params() const {
  std::vector<Param*> p;
  for (Param* param : {cls_token_, dist_token_, reg_token_})
    if (param) p.push_back(param);
  return p;
}

void TokenEmbed::fill_positions(const TokenGrid& grid, Tensor positions, Context& ctx) const {
  if (!pos_embed_) return positions.zero();
  const Tensor table = rows_of(pos_embed_->value, config_.table_prefix(), config_.grid_height * config_.grid_width, config_.dim);
  if (grid.height == config_.grid_height && grid.width == config_.grid_width)
    std::memcpy(positions.data, table.data, positions.bytes());
  else
    resample_grid({config_.grid_height, config_.grid_width, grid.height, grid.width, config_.resampling}, table, positions, ctx);
}

void TokenEmbed::forward(ConstTensor patches, const TokenGrid& grid, Tensor y, Tape* tape, Context& ctx) const {
  check(grid.prefix == config_.prefix(), "token embedding: {} prefix tokens, expected {}", grid.prefix, config_.prefix());
  ArenaScope scope(ctx.scratch());
  const KernelTable& k = ctx.kernels();
  const int64_t c = config_.dim, map = grid.height * grid.width;
  const int64_t table_prefix = config_.table_prefix();
  // What all elements of the batch share: token + position, then the patches' positions.
  const Tensor shared = ctx.scratch().take(Shape{grid.tokens(), c}, ctx.dtype());
  int64_t next = 0;
  for (const Param* p : prefix_params()) {
    const int64_t count = p->shape[1];
    const Tensor out = shared.slice(next, count);
    std::memcpy(out.data, p->value.data, out.bytes());
    if (next < table_prefix) k.scale_add(count * c, 1.0, rows_of(pos_embed_->value, next, count, c).data, out.data, ctx);
    next += count;
  }
  fill_positions(grid, shared.slice(grid.prefix, map), ctx);
  const Indices& index = indices(grid, ctx);
  k.gather_rows(grid.batch * grid.tokens(), c, shared.data, index.shared.data(), y.data, ctx);
  k.scatter_add_rows(grid.batch * map, c, patches.data, index.patches.data(), y.data, ctx);
  if (tape) tape->push(TokenEmbedRecord{grid});
}

void TokenEmbed::backward(ConstTensor dy, Tensor dpatches, Tape& tape, Context& ctx) const {
  const TokenGrid grid = tape.pop<TokenEmbedRecord>().grid;
  ArenaScope scope(ctx.scratch());
  const KernelTable& k = ctx.kernels();
  const int64_t c = config_.dim, map = grid.height * grid.width;
  const int64_t table_prefix = config_.table_prefix();
  const Indices& index = indices(grid, ctx);
  k.gather_rows(grid.batch * map, c, dy.data, index.patches.data(), dpatches.data, ctx);
  const Tensor dshared = ctx.scratch().take(Shape{grid.tokens(), c}, ctx.dtype());
  dshared.zero();
  k.scatter_add_rows(grid.batch * grid.tokens(), c, dy.data, index.shared.data(), dshared.data, ctx);
  int64_t next = 0;
  for (const Param* p : prefix_params()) {
    const int64_t count = p->shape[1];
    const Tensor d = dshared.slice(next, count);
    k.scale_add(count * c, 1.0, d.data, p->grad.data, ctx);
    if (next < table_prefix) k.scale_add(count * c, 1.0, d.data, rows_of(pos_embed_->grad, next, count, c).data, ctx);
    next += count;
  }
  if (!pos_embed_) return;
  const Tensor dtable = rows_of(pos_embed_->grad, table_prefix, config_.grid_height * config_.grid_width, c);
  const Tensor dpositions = dshared.slice(grid.prefix, map);
  if (grid.height == config_.grid_height && grid.width == config_.grid_width)
    k.scale_add(map * c, 1.0, dpositions.data, dtable.data, ctx);
  else
    resample_grid_backward({config_.grid_height, config_.grid_width, grid.height, grid.width, config_.resampling}, dpositions, dtable, ctx);
}

}  // namespace fovea
