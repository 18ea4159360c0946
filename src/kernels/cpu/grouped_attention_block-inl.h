// Blocks of keys and tiles of scores: what grouped attention's forward and backward share, once per instruction set.

#if defined(FOVEA_GROUPED_ATTENTION_BLOCK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_GROUPED_ATTENTION_BLOCK_INL_H_
#undef FOVEA_GROUPED_ATTENTION_BLOCK_INL_H_
#else
#define FOVEA_GROUPED_ATTENTION_BLOCK_INL_H_
#endif

#include "kernels/cpu/grouped_attention_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::grouped_attention_tile {

// What is the same for every task of a call.
struct Call {
  const GroupedAttentionArgs& a;
  const TokenGroups& groups;
  int64_t width;                // head_dim rounded up to vectors: the stride of packed rows
  bool positions;               // the rule looks at positions
  bool labels;
  const float* bias = nullptr;  // (H, max_queries, bias_stride) the bias times log2(e), -inf behind the keys, or null
  int64_t bias_stride = 0;

  explicit Call(const GroupedAttentionArgs& args)
      : a(args),
        groups(*args.groups),
        width(plan::round_up(args.head_dim, kLanes)),
        positions(groups.rule.causal || groups.rule.band >= 0 || groups.rule.self_penalty != 0),
        labels(!groups.query_labels.empty()) {
    check(args.head_dim >= 1 && args.head_dim <= 256, "grouped attention: head_dim {} is not in [1, 256]", args.head_dim);
  }

  float scale(int64_t h) const {
    return a.head_scale ? static_cast<const float*>(a.head_scale)[h] : static_cast<float>(a.scale);
  }
  int32_t vectors(int32_t keys) const { return (keys + kLanes - 1) / kLanes; }
};

// Lays the bias out for use as the products' start value, unless it is so large that a copy would not pay.
inline void prepare_bias(Call& call, Context& ctx) {
  const GroupedAttentionArgs& a = call.a;
  constexpr int64_t kMostElements = int64_t{4} << 20;
  const int64_t rows = call.groups.max_queries, keys = call.groups.max_keys, stride = plan::round_up(keys, kLanes);
  if (!a.bias || a.heads * rows * stride > kMostElements || keys == 0) return;
  float* to = ctx.scratch().take<float>(a.heads * rows * stride);
  ctx.pool().for_each(a.heads * rows, [&](int64_t i) {
    const float* from = static_cast<const float*>(a.bias) + i / rows * a.bias_head_stride + i % rows * a.bias_row_stride;
    float* row = to + i * stride;
    for (int64_t j = 0; j < keys; ++j) row[j] = from[j] * kLog2E;
    for (int64_t j = keys; j < stride; ++j) row[j] = kNegInf;
  });
  call.bias = to;
  call.bias_stride = stride;
}

constexpr int32_t kMaxBlockKeys = 256;
constexpr int32_t kMaxPanels = kMaxBlockKeys / (kTileVectors * kLanes);

// Memory of one thread, cut from scratch.
class Cutter {
 public:
  explicit Cutter(char* at) : at_(at) {}
  template <class T>
  T* take(int64_t count) {
    T* p = reinterpret_cast<T*>(at_);
    at_ += bytes<T>(count);
    return p;
  }
  template <class T>
  static int64_t bytes(int64_t count) { return plan::round_up(count * static_cast<int64_t>(sizeof(T)), 64); }

 private:
  char* at_;
};

// Key slots [first, first + count) of a group: their scores' start value and what the rules need to know of them.
struct KeyBlock {
  int32_t first = 0, count = 0, vectors = 0;
  plan::Pieces panels{0, 1};
  bool padded = false;       // some key is padding
  bool consecutive = false;  // token rows one after the other
  plan::RowBounds bounds[kMaxPanels];
  int32_t *codes, *labels, *residues;  // (vectors * kLanes)
  float* start;                        // likewise: 0, or -inf where there is no key
  float* keys_t;                       // panels of (head_dim, vectors of the panel)

  static int64_t bytes(int64_t keys, int64_t head_dim) {
    return 3 * Cutter::bytes<int32_t>(keys) + Cutter::bytes<float>(keys) + Cutter::bytes<float>(keys * head_dim);
  }
  KeyBlock(Cutter& cutter, int64_t keys, int64_t head_dim)
      : codes(cutter.take<int32_t>(keys)),
        labels(cutter.take<int32_t>(keys)),
        residues(cutter.take<int32_t>(keys)),
        start(cutter.take<float>(keys)),
        keys_t(cutter.take<float>(keys * head_dim)) {}

  // A laid out bias is the start value instead of `start`, and says -inf behind the longest group's keys only.
  bool needs_start(const Call& call) const {
    return call.bias && (padded || (count < vectors * kLanes && first + count != call.groups.max_keys));
  }

  // Reads the next slots of the cursor, vectors [vector_begin, vector_end) of the group's keys.
  void load(const Call& call, const TokenGroups::Group& group, plan::SlotCursor& cursor, int32_t vector_begin,
            int32_t vector_end, const Rows& rows, int64_t b) {
    first = vector_begin * kLanes;
    vectors = vector_end - vector_begin;
    count = std::min(vectors * kLanes, group.keys - first);
    panels = plan::Pieces(vectors, kTileVectors);
    cursor.read(count, codes);
    const int32_t padded_count = vectors * kLanes;
    std::fill(codes + count, codes + padded_count, plan::kPadCode);
    std::fill_n(start, count, 0.0f);
    std::fill(start + count, start + padded_count, kNegInf);
    padded = false;
    if (call.a.key_padding) {
      const uint8_t* padding = call.a.key_padding + b * call.a.keys;
      for (int32_t i = 0; i < count; ++i) {
        if (!plan::is_token(codes[i]) || padding[codes[i]] == 0) continue;
        start[i] = kNegInf;
        padded = true;
      }
    }
    if (call.labels && group.mixed_labels) {
      const int32_t* from = call.groups.key_labels.data() + group.key_slot + first;
      std::copy(from, from + count, labels);
      std::fill(labels + count, labels + padded_count, 0);
    }
    if (call.groups.rule.band >= 0 && call.groups.rule.dilation > 1)
      for (int32_t i = 0; i < padded_count; ++i) residues[i] = codes[i] < 0 ? 0 : codes[i] % call.groups.rule.dilation;
    if (call.positions) {
      for (int32_t p = 0; p < panels.pieces; ++p) {
        const int32_t begin = panels.begin(p) * kLanes, end = std::min(panels.begin(p + 1) * kLanes, count);
        bounds[p] = plan::bounds_of(codes + begin, end - begin);
      }
    }
    if (call.a.mask) {
      consecutive = count > 0 && codes[0] >= 0;
      for (int32_t i = 1; i < count; ++i) consecutive = consecutive && codes[i] == codes[0] + i;
    }
    pack_panels(rows, codes, count, panels, call.a.head_dim, keys_t);
  }
};

// Query slots of a group: packed rows (width apart) times scale * log2(e), and their codes and labels.
struct Queries {
  const float* rows;
  const int32_t* codes;
  const int32_t* labels;  // or null
};

// Vectors [begin, end) of a block that a tile of queries sees; the others have no score.
struct Seen {
  int32_t begin = 0, end = 0;
  bool empty() const { return begin >= end; }
};

// Scores in base 2 of one query row against the seen vectors: what the product has not given yet.
inline void finish_scores(const Call& call, const KeyBlock& block, bool mixed_labels, bool positions, int64_t b, int64_t h,
                          int32_t slot, int32_t code, int32_t label, Seen seen, float* HWY_RESTRICT s) {
  const D d;
  const DI di;
  const GroupedAttentionArgs& a = call.a;
  const PairRule& rule = call.groups.rule;
  const int32_t position = code + rule.query_position_shift;
  const bool banded = positions && rule.band >= 0, causal = positions && rule.causal;
  const bool self = positions && rule.self_penalty != 0;
  const bool dilated = banded && rule.dilation > 1;
  const int64_t reach = std::min(int64_t{rule.band} * rule.dilation, int64_t{1} << 30);
  int32_t residue = dilated ? position % rule.dilation : 0;
  if (residue < 0) residue += rule.dilation;
  const bool add_start = block.needs_start(call);
  const float* bias = !call.bias && a.bias ? static_cast<const float*>(a.bias) + h * a.bias_head_stride +
                                                 slot * a.bias_row_stride + block.first
                                           : nullptr;
  const float* mask = a.mask ? static_cast<const float*>(a.mask) + b * a.mask_batch_stride + h * a.mask_head_stride +
                                   code * a.mask_row_stride
                             : nullptr;
  const V log2e = hn::Set(d, kLog2E), minus_inf = hn::Set(d, kNegInf);
  for (int32_t j = seen.begin; j < seen.end; ++j) {
    const int32_t i = j * kLanes, n = std::min(kLanes, block.count - i);
    V x = hn::Load(d, s + i);
    if (add_start) x = hn::Add(x, hn::Load(d, block.start + i));
    if (bias) x = hn::MulAdd(log2e, n == kLanes ? hn::LoadU(d, bias + i) : load_partial(bias + i, n), x);
    if (mask) {
      V m;
      if (block.consecutive) {
        const float* from = mask + block.codes[0] + i;
        m = n == kLanes ? hn::LoadU(d, from) : load_partial(from, n);
      } else {
        HWY_ALIGN float t[kLanes];
        for (int32_t l = 0; l < kLanes; ++l) t[l] = block.codes[i + l] >= 0 ? mask[block.codes[i + l]] : 0.0f;
        m = hn::Load(d, t);
      }
      x = hn::MulAdd(log2e, m, x);
    }
    if (mixed_labels) {
      const auto differs = hn::Ne(hn::Load(di, block.labels + i), hn::Set(di, label));
      x = hn::IfThenElse(hn::RebindMask(d, differs), hn::Add(x, hn::Set(d, rule.region_penalty * kLog2E)), x);
    }
    if (positions) {
      const auto key = hn::Load(di, block.codes + i);
      const auto at = hn::Set(di, position);
      const auto token = hn::Gt(key, hn::Set(di, -1));
      auto forbidden = hn::And(token, hn::And(hn::Gt(key, at), hn::MaskFromVec(hn::Set(di, causal ? -1 : 0))));
      if (banded) {
        const auto difference = hn::Abs(hn::Sub(key, at));
        forbidden = hn::Or(forbidden, hn::And(token, hn::Gt(difference, hn::Set(di, static_cast<int32_t>(reach)))));
      }
      if (dilated)
        forbidden = hn::Or(forbidden, hn::And(token, hn::Ne(hn::Load(di, block.residues + i), hn::Set(di, residue))));
      x = hn::IfThenElse(hn::RebindMask(d, forbidden), minus_inf, x);
      if (self) {
        const auto same = hn::And(token, hn::Eq(key, at));
        x = hn::IfThenElse(hn::RebindMask(d, same), hn::Add(x, hn::Set(d, rule.self_penalty * kLog2E)), x);
      }
    }
    hn::Store(x, d, s + i);
  }
}

// Scores in base 2 of queries [r, r + rows) against a block: s row i at s + i * s_stride, seen vectors only. `slot` is the
// group's slot of query 0.
inline Seen score_tile(const Call& call, const TokenGroups::Group& group, const KeyBlock& block, const Queries& q, int32_t slot,
                       int32_t r, int32_t rows, int64_t b, int64_t h, float* s, int64_t s_stride) {
  int32_t panel_begin = 0, panel_end = block.panels.pieces;
  bool positions = false;
  if (call.positions) {
    const plan::RowBounds range = plan::bounds_of(q.codes + r, rows);
    if (range.min > range.max) return {};  // pad rows are computed by nobody
    const int64_t shift = call.groups.rule.query_position_shift;
    int32_t first = panel_end, last = -1;
    for (int32_t p = 0; p < block.panels.pieces; ++p) {
      const plan::Sight sight = plan::sight(call.groups.rule, range.min + shift, range.max + shift, block.bounds[p]);
      positions = positions || sight != plan::Sight::kAll;
      if (sight == plan::Sight::kNone) continue;
      first = std::min(first, p);
      last = p;
    }
    panel_begin = first;
    panel_end = last + 1;
    if (panel_begin >= panel_end) return {};
  }

  const Seen seen{block.panels.begin(panel_begin), block.panels.begin(panel_end)};
  const float* init = call.bias ? call.bias + (h * call.groups.max_queries + slot + r) * call.bias_stride + block.first
                                : block.start;
  Product p{.a = q.rows + r * call.width,
            .a_stride = call.width,
            .b = block.keys_t + seen.begin * kLanes * call.a.head_dim,
            .b_stride = 0,
            .depth = call.a.head_dim,
            .init = nullptr,
            .init_stride = call.bias ? call.bias_stride : 0,
            .c = nullptr,
            .c_stride = s_stride};
  const ProductFunction* f = product_table().f[0][rows - 1];
  for (int32_t panel = panel_begin; panel < panel_end; ++panel) {
    const int32_t vector = block.panels.begin(panel), vectors = block.panels.begin(panel + 1) - vector;
    p.b_stride = vectors * kLanes;
    p.init = init + vector * kLanes;
    p.c = s + vector * kLanes;
    f[vectors - 1](p);
    p.b += p.b_stride * call.a.head_dim;
  }

  const bool mixed_labels = call.labels && group.mixed_labels;
  if (positions || mixed_labels || call.a.mask || (call.a.bias && !call.bias) || block.needs_start(call))
    for (int32_t i = 0; i < rows; ++i)
      if (plan::is_token(q.codes[r + i]))
        finish_scores(call, block, mixed_labels, positions, b, h, slot + r + i, q.codes[r + i],
                      mixed_labels ? q.labels[r + i] : 0, seen, s + i * s_stride);
  return seen;
}

}  // namespace fovea::HWY_NAMESPACE::grouped_attention_tile
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
