#include "attention/cross_shaped.h"

#include <algorithm>

#include "attention/registry.h"

namespace fovea {

namespace {

// One axis cut into stripes: the padded axis is centred around the real one.
struct Cut {
  int64_t length, stripe, before;
  Cut(int64_t length_, int64_t stripe_) : length(length_), stripe(stripe_), before((stripe - length % stripe) % stripe / 2) {}
  int64_t count() const { return (length + stripe - 1) / stripe; }
  int64_t begin(int64_t i) const { return std::max<int64_t>(0, i * stripe - before); }
  int64_t end(int64_t i) const { return std::min(length, (i + 1) * stripe - before); }
};

// Tokens [top, bottom) x [left, right) of a map, in as few runs as may be.
template <class AddRun>
void add_rectangle(int64_t first, int64_t width, int64_t top, int64_t bottom, int64_t left, int64_t right, AddRun&& add) {
  const auto run = [&](int64_t begin, int64_t stride, int64_t count) {
    add(Run{static_cast<int32_t>(first + begin), static_cast<int32_t>(stride), static_cast<int32_t>(count)});
  };
  if (left == 0 && right == width) return run(top * width, 1, (bottom - top) * width);
  if (right - left < bottom - top) {
    for (int64_t x = left; x < right; ++x) run(top * width + x, width, bottom - top);
  } else {
    for (int64_t y = top; y < bottom; ++y) run(y * width + left, 1, right - left);
  }
}

// The groups of one branch.
void add_stripes(TokenGroups& g, int64_t prefix, int64_t height, int64_t width, Stripe direction, int64_t stripe) {
  const Cut rows(height, direction == Stripe::kHorizontal ? stripe : height);
  const Cut columns(width, direction == Stripe::kVertical ? stripe : width);
  for (int64_t r = 0; r < rows.count(); ++r)
    for (int64_t c = 0; c < columns.count(); ++c) {
      const auto add_tokens = [&](auto&& add) {
        add_rectangle(prefix, width, rows.begin(r), rows.end(r), columns.begin(c), columns.end(c), add);
      };
      const int64_t tokens = (rows.end(r) - rows.begin(r)) * (columns.end(c) - columns.begin(c));
      g.begin_group();
      add_tokens([&](const Run& run) { g.add_query_run(run); });
      g.add_key_run({0, 1, static_cast<int32_t>(prefix)});
      add_tokens([&](const Run& run) { g.add_key_run(run); });
      g.add_key_run({0, 1, static_cast<int32_t>(rows.stripe * columns.stripe - tokens), RowSource::kPad});
      g.end_group();
    }
}

// Sum over the stripes of a branch of the pairs in them, without pads.
double stripe_pairs(const TokenGrid& grid, Stripe direction, int64_t stripe) {
  const Cut rows(grid.height, direction == Stripe::kHorizontal ? stripe : grid.height);
  const Cut columns(grid.width, direction == Stripe::kVertical ? stripe : grid.width);
  double pairs = 0;
  for (int64_t r = 0; r < rows.count(); ++r)
    for (int64_t c = 0; c < columns.count(); ++c) {
      const auto tokens = static_cast<double>((rows.end(r) - rows.begin(r)) * (columns.end(c) - columns.begin(c)));
      pairs += tokens * (tokens + static_cast<double>(grid.prefix));
    }
  return pairs;
}

std::vector<StripeBranch> branches_of(int64_t heads, int64_t block, bool whole_map) {
  if (whole_map) return {{Stripe::kWhole, heads}};
  const int64_t vertical = (heads + (block % 2 == 0 ? 1 : 0)) / 2;
  std::vector<StripeBranch> branches;
  if (vertical > 0) branches.push_back({Stripe::kVertical, vertical});
  if (heads > vertical) branches.push_back({Stripe::kHorizontal, heads - vertical});
  return branches;
}

// The channels of a branch in rows of all heads, as one head; a moved pointer for null stays null.
template <class View>
View channels_at(View view, int64_t elements, DType dtype) {
  if (!view.data) return view;
  using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(view.data)>>, const char, char>;
  view.data = static_cast<Byte*>(view.data) + elements * static_cast<int64_t>(size_of(dtype));
  return view;
}

}  // namespace

MapBlocks stripe_blocks(int64_t height, int64_t width, Stripe direction, int64_t stripe) {
  const Cut rows(height, direction == Stripe::kHorizontal ? stripe : height);
  const Cut columns(width, direction == Stripe::kVertical ? stripe : width);
  return {rows.stripe, columns.stripe, rows.before, columns.before};
}

TokenGroups stripe_groups(int64_t prefix, int64_t height, int64_t width, const std::vector<StripeBranch>& branches, int64_t stripe) {
  check(branches.size() == 1 || branches.size() == 2, "stripes in {} directions", branches.size());
  TokenGroups g;
  add_stripes(g, prefix, height, width, branches[0].direction, stripe);
  auto begin = static_cast<int32_t>(g.groups.size());
  // Between the two branches and in the range of both: what prefix tokens look at is the same for all heads.
  if (prefix > 0) {
    g.begin_group();
    g.add_query_run({0, 1, static_cast<int32_t>(prefix)});
    g.add_key_run({0, 1, static_cast<int32_t>(prefix + height * width)});
    g.end_group();
  }
  if (branches.size() == 2) {
    const auto end = static_cast<int32_t>(g.groups.size());
    add_stripes(g, prefix, height, width, branches[1].direction, stripe);
    g.heads = branches[0].heads + branches[1].heads;
    g.ranges.assign(static_cast<size_t>(branches[0].heads), {0, end});
    g.ranges.resize(static_cast<size_t>(g.heads), {begin, static_cast<int32_t>(g.groups.size())});
  }
  g.keys_disjoint = prefix == 0;
  g.finish();
  return g;
}

CrossShapedAttention::CrossShapedAttention(const Scope& scope, const AttentionConfig& config, const CrossShapedConfig& shape)
    : MultiHeadAttention(scope, config,
                         std::make_unique<StripesGeometry>(branches_of(config.heads, config.block, shape.whole_map), shape.stripe,
                                                           config.cross)),
      shape_(shape),
      branches_(branches_of(config.heads, config.block, shape.whole_map)) {
  require(shape.stripe > 0 && shape.stripe <= 16384, "a stripe is 1 to 16384 tokens wide, got {}", shape.stripe);
  for (const StripeBranch& b : branches_)
    lepe_.emplace_back(scope / "attns" / static_cast<int64_t>(lepe_.size()) / "get_v", b.heads * this->config().head_dim);
}

std::vector<std::string> StripesGeometry::unsupported(const TokenGrid& grid) const {
  std::vector<std::string> reasons;
  if (cross_) reasons.push_back("stripes have no second input");
  if (grid.batch > 0 && (grid.height == 0 || grid.width == 0)) reasons.push_back("the map is empty");
  return reasons;
}

const TokenGroups& StripesGeometry::groups(const AttentionInputs& in, Context& ctx) const {
  require(!in.causal, "cross-shaped attention on a map has no causal order");
  const TokenGrid& g = in.grid;
  const int64_t first = branches_[0].heads, heads = first + (branches_.size() == 2 ? branches_[1].heads : 0);
  return ctx.cached<TokenGroups>(fmt::format("cross_shaped {} {}x{} {} {} {}/{}", g.prefix, g.height, g.width, stripe_,
                                             static_cast<int>(branches_[0].direction), first, heads),
                                 [&] { return stripe_groups(g.prefix, g.height, g.width, branches_, stripe_); });
}

double StripesGeometry::pairs(const TokenGrid& grid) const {
  double sum = 0, heads = 0;
  for (const StripeBranch& b : branches_) {
    sum += static_cast<double>(b.heads) * stripe_pairs(grid, b.direction, stripe_);
    heads += static_cast<double>(b.heads);
  }
  return sum / heads + static_cast<double>(grid.prefix * grid.tokens());
}

template <class F>
void CrossShapedAttention::for_each_branch(const AttentionInputs& in, F&& f) const {
  const TokenGrid& g = in.grid;
  if (g.height == 0 || g.width == 0) return;
  DepthwiseMap map;
  map.batch = g.batch;
  map.height = g.height;
  map.width = g.width;
  if (in.key_padding) map.skip = in.key_padding + g.prefix;
  map.skip_batch_stride = g.tokens();
  int64_t channels = 0;
  for (size_t i = 0; i < branches_.size(); ++i) {
    map.blocks = stripe_blocks(g.height, g.width, branches_[i].direction, shape_.stripe);
    f(lepe_[i], map, channels);
    channels += lepe_[i].channels();
  }
}

// Padded tokens take no part: neither do others see their values, nor do they get the term.
void CrossShapedAttention::add_value_term(const AttentionInputs& in, const ConstHeadsView& v, DType v_dtype, ConstTensor out, Tensor sum,
                                          Context& ctx) const {
  const int64_t tokens = in.grid.tokens(), prefix = in.grid.prefix;
  const size_t row_bytes = static_cast<size_t>(inner()) * size_of(sum.dtype);
  if (sum.data != out.data && prefix > 0)
    for (int64_t b = 0; b < in.grid.batch; ++b) {
      const int64_t at = b * tokens * static_cast<int64_t>(row_bytes);
      std::memcpy(static_cast<char*>(sum.data) + at, static_cast<const char*>(out.data) + at, static_cast<size_t>(prefix) * row_bytes);
    }
  for_each_branch(in, [&](const DepthwiseConv3x3& lepe, const DepthwiseMap& map, int64_t channels) {
    const int64_t skipped = prefix * inner() + channels;
    lepe.forward(map, channels_at(v, prefix * v.token_stride + channels, v_dtype), v_dtype,
                 channels_at(ConstHeadsView(out.data, tokens * inner(), inner(), 0), skipped, sum.dtype),
                 channels_at(HeadsView{sum.data, tokens * inner(), inner(), 0}, skipped, sum.dtype), ctx);
  });
}

// dv += the transposed convolution of dsum, stripe by stripe; see DepthwiseConv3x3::backward.
void CrossShapedAttention::value_term_backward(const AttentionInputs& in, const ConstHeadsView& v, ConstTensor dsum, const HeadsView& dv,
                                               Context& ctx) const {
  const int64_t tokens = in.grid.tokens(), prefix = in.grid.prefix;
  for_each_branch(in, [&](const DepthwiseConv3x3& lepe, const DepthwiseMap& map, int64_t channels) {
    lepe.backward(map, channels_at(v, prefix * v.token_stride + channels, dsum.dtype),
                  channels_at(ConstHeadsView(dsum.data, tokens * inner(), inner(), 0), prefix * inner() + channels, dsum.dtype),
                  channels_at(dv, prefix * dv.token_stride + channels, dsum.dtype), ctx);
  });
}

double CrossShapedAttention::value_term_flops(const TokenGrid& grid) const {
  double total = 0;
  for (const DepthwiseConv3x3& lepe : lepe_) total += lepe.flops(grid.batch * grid.height * grid.width);
  return total;
}

AttentionKind cross_shaped_attention_kind() {
  AttentionKind k;
  k.name = "cross_shaped";
  k.summary = "half of the heads attend within vertical stripes, half within horizontal ones; a convolution of the values inside each stripe gives the places (CSWin)";
  k.paper = "Dong et al. 2021, arXiv:2107.00652";
  k.cost = "O(N s (H + W) C + N C^2), s the stripe's width";
  k.options = {{"stripe", "7", "width of a stripe, in tokens; where it does not divide the map, empty places with score 0 fill the rest"},
               {"branches", "2", "2: vertical and horizontal stripes; 1: all heads over the whole map, as in CSWin's last stage"}};
  k.traits.prefix = true;
  k.no_union_reason = "its convolution of the values belongs to the stripes alone";
  k.make = [](const Scope& scope, const AttentionConfig& config, const AttentionOptions& o) -> std::unique_ptr<Attention> {
    CrossShapedConfig c;
    c.stripe = o.integer("stripe");
    c.whole_map = o.choice("branches", {"1", "2"}) == "1";
    return std::make_unique<CrossShapedAttention>(scope, config, c);
  };
  return k;
}

}  // namespace fovea
