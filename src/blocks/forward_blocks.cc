#include "blocks/forward_blocks.h"

#include <algorithm>
#include <cstring>

namespace fovea {

namespace {

// A part's tokens: as many as let a block's intermediates stay in a second-level cache, but enough to make reading the weights of
// wide blocks worth it.
constexpr int64_t kPartElements = int64_t{1} << 16;
constexpr int64_t kLeastPartTokens = 192;

// What one thread runs a block over at a time.
struct Part {
  int64_t image = 0, images = 1;
  const TokenBand* band = nullptr;  // or whole images
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How a block's tokens are cut in images [first, first + images) of the map, into parts of at most `share` tokens or one image.
std::vector<Part> parts_of(const TransformerBlock& block, const TokenGrid& grid, int64_t channels, int64_t first, int64_t images, int64_t share, Context& ctx) {
  std::vector<Part> parts;
  const int64_t tokens = grid.tokens(), wanted = std::min(std::max(kLeastPartTokens, kPartElements / channels), share);
  if (tokens <= wanted) {
    const int64_t most = std::max<int64_t>(1, std::min(wanted + wanted / 8, share) / std::max<int64_t>(tokens, 1)), count = ceil_div(images, most);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t begin = images * i / count;
      parts.push_back({first + begin, images * (i + 1) / count - begin, nullptr});
    }
    return parts;
  }
  const std::vector<TokenBand>& bands = block.attention().bands(grid, wanted, ctx);
  for (int64_t b = first; b < first + images; ++b) {
    if (bands.size() < 2) parts.push_back({b, 1, nullptr});
    for (const TokenBand& band : bands)
      if (bands.size() > 1) parts.push_back({b, 1, &band});
  }
  return parts;
}

// The same for all threads together.
std::vector<Part> parts_of(const TransformerBlock& block, const TokenGrid& grid, int64_t channels, Context& ctx) {
  if (grid.cells || grid.batch == 0) return {};
  return parts_of(block, grid, channels, 0, grid.batch, ceil_div(grid.batch * grid.tokens(), ctx.pool().threads()), ctx);
}

// Parts that threads take alone, of `count`: the rest, which would leave some of them idle, is run by all together.
int64_t taken_alone(int64_t count, int64_t threads) {
  const int64_t rounds = ceil_div(count, threads);
  return rounds >= 8 ? count : count / threads * threads;
}

// What blocks in steps hand to attention and get from it.
struct Exchange {
  Tensor projected, met;
  Exchange(const AttentionSteps& steps, int64_t rows, Context& ctx)
      : projected(ctx.scratch().take(Shape{rows, 3 * steps.inner}, steps.projected)), met(ctx.scratch().take(Shape{rows, steps.inner}, steps.met)) {}
};

// f(run, place of its first row in the band)
template <class F>
void for_runs(const TokenBand& band, F&& f) {
  int64_t place = 0;
  for (const TokenBand::Rows& r : band.rows) {
    f(r, place);
    place += r.count;
  }
}

// A band of several runs of the map's rows, which each go through all but the attention by themselves.
void run_where_they_stand(const TransformerBlock& block, const AttentionSteps& steps, const AttentionInputs& in, const Tensor& rows, Context& ctx) {
  ArenaScope scope(ctx.scratch());
  const Exchange exchange(steps, in.band->count, ctx);
  const auto run = [&](const TokenBand::Rows& r) { return Tensor(rows.slice(r.begin, r.count)).reshaped(Shape{1, r.count, rows.last()}); };
  for_runs(*in.band, [&](const TokenBand::Rows& r, int64_t place) { block.enter_rows(run(r), exchange.projected.slice(place, r.count), ctx); });
  block.attention().meet(in, exchange.projected, exchange.met, ctx);
  for_runs(*in.band, [&](const TokenBand::Rows& r, int64_t place) { block.leave_rows(exchange.met.slice(place, r.count), run(r), ctx); });
}

void run_part(const TransformerBlock& block, const Part& part, const Tensor& x, const TokenGrid& grid, ConstTensor score_bias, Context& ctx) {
  const int64_t tokens = grid.tokens(), channels = x.last();
  AttentionInputs in;
  in.grid = grid;
  in.grid.batch = part.images;
  in.score_bias = score_bias;
  in.band = part.band;
  const Tensor images = x.slice(part.image, part.images);
  if (!part.band) {
    in.x = images;
    return block.forward(in, images, nullptr, ctx);
  }
  const Tensor rows = images.reshaped(Shape{tokens, channels});
  const Shape shape{1, part.band->count, channels};
  if (part.band->rows.size() == 1) {
    const Tensor own = Tensor(rows.slice(part.band->rows[0].begin, part.band->count)).reshaped(shape);
    in.x = own;
    return block.forward(in, own, nullptr, ctx);
  }
  const auto narrow = [](const TokenBand::Rows& r) { return r.count < kLeastRowsAlone; };
  if (std::none_of(part.band->rows.begin(), part.band->rows.end(), narrow))
    if (const auto steps = block.steps(grid, ctx)) return run_where_they_stand(block, *steps, in, rows, ctx);
  ArenaScope scope(ctx.scratch());
  const Tensor own = ctx.scratch().take(shape, ctx.dtype()), flat = own.reshaped(Shape{part.band->count, channels});
  const auto copy = [](const Tensor& from, const Tensor& to) { std::memcpy(to.data, from.data, to.bytes()); };
  for_runs(*part.band, [&](const TokenBand::Rows& r, int64_t place) { copy(rows.slice(r.begin, r.count), flat.slice(place, r.count)); });
  in.x = own;
  block.forward(in, own, nullptr, ctx);
  for_runs(*part.band, [&](const TokenBand::Rows& r, int64_t place) { copy(flat.slice(place, r.count), rows.slice(r.begin, r.count)); });
}

void run_depth_first(const TransformerBlock& block, const Tensor& x, const TokenGrid& grid, Context& ctx) {
  ArenaScope scope(ctx.scratch());
  const std::vector<Part> parts = parts_of(block, grid, x.last(), ctx);
  const auto count = static_cast<int64_t>(parts.size());
  const int threads = ctx.pool().threads();
  const ConstTensor score_bias = block.attention().prepare(grid, ctx);
  int64_t next = 0;
  if (threads > 1 && count > 1) {
    next = taken_alone(count, threads);
    ctx.share_out(next, [&](int64_t begin, int64_t end, Context& own) {
      for (int64_t i = begin; i < end; ++i) run_part(block, parts[static_cast<size_t>(i)], x, grid, score_bias, own);
    });
  }
  for (; next < count; ++next) run_part(block, parts[static_cast<size_t>(next)], x, grid, score_bias, ctx);
}

// Whether threads with whole images of their own have about the same to do.
bool images_share_out(int64_t images, int64_t threads) { return images > 0 && (images % threads == 0 || images / threads >= 8); }

// All blocks, each thread going through them with its own images, so that threads meet but once.
void run_by_images(const std::deque<TransformerBlock>& blocks, const Tensor& x, const TokenGrid& grid, Context& ctx) {
  constexpr size_t kMostScratch = size_t{8} << 20;  // of score biases
  for (size_t next = 0; next < blocks.size();) {
    ArenaScope scope(ctx.scratch());
    const size_t first = next, used = ctx.scratch().used();
    std::vector<ConstTensor> biases;
    do {
      biases.push_back(blocks[next++].attention().prepare(grid, ctx));
    } while (next < blocks.size() && ctx.scratch().used() - used < kMostScratch);
    const auto run = [&](int64_t begin, int64_t end, Context& own) {
      for (size_t i = first; i < next; ++i)
        for (const Part& part : parts_of(blocks[i], grid, x.last(), begin, end - begin, (end - begin) * grid.tokens(), own))
          run_part(blocks[i], part, x, grid, biases[i - first], own);
    };
    if (ctx.pool().threads() == 1)
      run(0, grid.batch, ctx);
    else
      ctx.share_out(grid.batch, run);
  }
}

// Blocks whose tokens are one part, in steps: each thread takes rows of its own, some after the other, from behind one attention to before the
// next, so that threads meet around attentions alone. False: they do not work so, or there is one thread, or threads would have few rows each.
bool run_in_steps(const std::deque<TransformerBlock>& blocks, const Tensor& x, const TokenGrid& grid, Context& ctx) {
  const int64_t rows = grid.batch * grid.tokens(), channels = x.last();
  const int threads = ctx.pool().threads();
  if (blocks.empty() || threads == 1 || rows < threads * kLeastRowsAlone || parts_of(blocks.front(), grid, channels, ctx).size() != 1) return false;
  const std::optional<AttentionSteps> steps = blocks.front().steps(grid, ctx);
  if (!steps || !std::all_of(blocks.begin(), blocks.end(), [&](const TransformerBlock& b) { return b.steps(grid, ctx) == steps; })) return false;
  ArenaScope scope(ctx.scratch());
  const Exchange exchange(*steps, rows, ctx);
  const Tensor x_rows = x.reshaped(Shape{rows, channels});
  const auto between = [&](const TransformerBlock* left, const TransformerBlock* entered) {
    ctx.share_out(rows, [&](int64_t begin, int64_t end, Context& own) {
      const int64_t most = std::max(kLeastPartTokens, kPartElements / channels), count = ceil_div(end - begin, most);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t first = begin + (end - begin) * i / count, n = begin + (end - begin) * (i + 1) / count - first;
        const Tensor own_x = Tensor(x_rows.slice(first, n)).reshaped(Shape{1, n, channels});
        if (left) left->leave_rows(exchange.met.slice(first, n), own_x, own);
        if (entered) entered->enter_rows(own_x, exchange.projected.slice(first, n), own);
      }
    });
  };
  const TransformerBlock* left = nullptr;
  for (const TransformerBlock& block : blocks) {
    between(left, &block);
    AttentionInputs in;
    in.grid = grid;
    block.attention().meet(in, exchange.projected, exchange.met, ctx);
    left = &block;
  }
  between(left, nullptr);
  return true;
}

}  // namespace

Tensor forward_blocks(const std::deque<TransformerBlock>& blocks, Tensor x, const TokenGrid& grid, Tape* tape, Context& ctx) {
  const bool depth_first = tape == nullptr && !ctx.training() && ctx.depth_first() && !grid.cells;
  if (depth_first && run_in_steps(blocks, x, grid, ctx)) return x;
  if (depth_first && images_share_out(grid.batch, ctx.pool().threads())) {
    run_by_images(blocks, x, grid, ctx);
    return x;
  }
  for (const TransformerBlock& block : blocks) {
    if (depth_first) {
      run_depth_first(block, x, grid, ctx);
      continue;
    }
    AttentionInputs in;
    in.x = x;
    in.grid = grid;
    const Tensor y = tape ? ctx.activation(x.shape, tape) : x;
    block.forward(in, y, tape, ctx);
    x = y;
  }
  return x;
}

double flops_of(const std::deque<TransformerBlock>& blocks, const TokenGrid& grid) {
  const auto count = std::ssize(blocks);
  double total = 0;
  for (std::ptrdiff_t parity = 0; parity < std::min<std::ptrdiff_t>(count, 2); ++parity)
    total += static_cast<double>((count - parity + 1) / 2) * blocks[static_cast<size_t>(parity)].flops(grid);
  return total;
}

}  // namespace fovea
