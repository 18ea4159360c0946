// The rows R of Transformer-XL's relative term and their gradients: projected sinusoids, for a sequence one table, for a map
// one for each axis; or learned rows.
#include <algorithm>

#include "attention/sinusoid.h"
#include "attention/transformer_xl_record.h"

namespace fovea {

namespace {

// Sinusoids of one range of distances.
struct PositionTable {
  Buffer memory;
  Tensor rows;  // (count, width)
};

const Tensor& sinusoid_table(int64_t first, int64_t count, int64_t width, int64_t clamp, Context& ctx) {
  const auto build = [&] {
    std::vector<double> positions;
    for (int64_t t = 0; t < count; ++t)
      positions.push_back(static_cast<double>(clamp > 0 ? std::clamp(first + t, -clamp, clamp) : first + t));
    const Shape shape{count, width};
    PositionTable table;
    table.memory = Buffer(std::max<size_t>(1, static_cast<size_t>(shape.elements()) * size_of(ctx.dtype())));
    table.rows = Tensor(table.memory.data(), shape, ctx.dtype());
    write_sinusoids(positions, table.rows);
    return table;
  };
  return ctx.cached<PositionTable>(fmt::format("sinusoids {} {} {} {}", first, count, width, clamp), build).rows;
}

Tensor columns(const Tensor& weight /* (out, in) */, int64_t column) {
  return {static_cast<char*>(weight.data) + column * static_cast<int64_t>(size_of(weight.dtype)), Shape{}, weight.dtype};
}

// rows (n, out) = positions (n, width) · W[:, column .. column + width)ᵀ
void project_part(const Param& weight, int64_t column, ConstTensor positions, Tensor rows, Context& ctx) {
  GemmArgs g;
  g.m = positions.rows();
  g.n = weight.shape[0];
  g.k = positions.last();
  g.a = positions.data;
  g.a_stride = g.k;
  g.b = columns(weight.value, column).data;
  g.b_stride = weight.shape[1];
  g.b_transposed = true;
  g.c = rows.data;
  g.c_stride = g.n;
  ctx.kernels().gemm(g, ctx);
}

// dW[:, column .. column + width) += drowsᵀ · positions
void project_part_backward(const Param& weight, int64_t column, ConstTensor positions, ConstTensor drows, Context& ctx) {
  if (weight.frozen) return;
  GemmArgs g;
  g.m = weight.shape[0];
  g.n = positions.last();
  g.k = positions.rows();
  g.a = drows.data;
  g.a_stride = g.m;
  g.a_transposed = true;
  g.b = positions.data;
  g.b_stride = g.n;
  g.c = columns(weight.grad, column).data;
  g.c_stride = weight.shape[1];
  g.accumulate = true;
  ctx.kernels().gemm(g, ctx);
}

}  // namespace

int64_t TransformerXlAttention::distances(int64_t memory, int64_t tokens) const {
  return xl_.same_length ? std::min(memory + tokens, xl_.mem_len) : memory + tokens;
}

void TransformerXlAttention::make_rows(Record& r, Tape* tape, Context& ctx) const {
  const TokenGrid& grid = r.in.grid;
  const int64_t heads = config_.heads, dim = config_.head_dim;
  if (!is_sequence(r.in)) {
    // W_r [s(dy); s(dx)] is a sum of two products: 2 height - 1 + 2 width - 1 rows instead of their product.
    const int64_t for_y = (config_.dim + 1) / 2;
    r.y_first = 1 - grid.height;
    r.x_first = 1 - grid.width;
    const auto count = [](int64_t length) { return std::max<int64_t>(0, 2 * length - 1); };
    r.y_positions = sinusoid_table(r.y_first, count(grid.height), for_y, xl_.clamp_len, ctx);
    r.x_positions = sinusoid_table(r.x_first, count(grid.width), config_.dim - for_y, xl_.clamp_len, ctx);
    r.y_rows = ctx.activation(Shape{r.y_positions.dim(0), heads, dim}, tape);
    r.x_rows = ctx.activation(Shape{r.x_positions.dim(0), heads, dim}, tape);
    project_part(r_net_->weight(), 0, r.y_positions, r.y_rows, ctx);
    project_part(r_net_->weight(), for_y, r.x_positions, r.x_rows, ctx);
    return;
  }
  const int64_t count = distances(r.memory, grid.tokens());
  r.x_rows = ctx.activation(Shape{count, heads, dim}, tape);
  if (xl_.learnable > 0) {
    r.learned = &ctx.cached<std::vector<int32_t>>(fmt::format("transformer_xl learned {} {}", xl_.learnable, count), [&] {
      std::vector<int32_t> index;
      for (int64_t t = 0; t < count; ++t) index.push_back(static_cast<int32_t>(std::max<int64_t>(0, xl_.learnable - 1 - t)));
      return index;
    });
    r.x_bias = ctx.activation(Shape{count, heads}, tape);
    ctx.kernels().gather_rows(count, inner(), r_emb_->value.data, r.learned->data(), r.x_rows.data, ctx);
    ctx.kernels().gather_rows(count, heads, r_bias_->value.data, r.learned->data(), r.x_bias.data, ctx);
    return;
  }
  if (!xl_.positions.empty()) {
    require(xl_.positions.rows() >= count && xl_.positions.last() == config_.dim, "position rows of shape {} for {} distances of {} channels",
            xl_.positions.shape, count, config_.dim);
    r.x_positions = xl_.positions.slice(0, count);
  } else {
    r.x_positions = sinusoid_table(0, count, config_.dim, xl_.clamp_len, ctx);
  }
  r_net_->apply(r.x_positions, r.x_rows, {}, ctx);
}

// R = s W_rᵀ: dW_r += dRᵀ s, and ds = dR W_r where somebody wants it. Learned rows: every distance adds to the row it read.
void TransformerXlAttention::make_rows_backward(const Record& r, Tensor dx_rows, Tensor dy_rows, Tensor dx_bias, Context& ctx) const {
  if (!is_sequence(r.in)) {
    project_part_backward(r_net_->weight(), 0, r.y_positions, dy_rows, ctx);
    project_part_backward(r_net_->weight(), r.y_positions.last(), r.x_positions, dx_rows, ctx);
    return;
  }
  const int64_t count = dx_rows.dim(0);
  if (r.learned) {
    if (!r_emb_->frozen) ctx.kernels().scatter_add_rows(count, inner(), dx_rows.data, r.learned->data(), r_emb_->grad.data, ctx);
    if (!r_bias_->frozen)
      ctx.kernels().scatter_add_rows(count, config_.heads, dx_bias.data, r.learned->data(), r_bias_->grad.data, ctx);
    return;
  }
  const Tensor drows = dx_rows.reshaped(Shape{count, inner()});
  r_net_->backward_parameters(r.x_positions, drows, ctx);
  if (xl_.dpositions.empty()) return;
  xl_.dpositions.zero();
  r_net_->backward_input(drows, xl_.dpositions.slice(0, count), Accumulate::kNo, ctx);
}

}  // namespace fovea
