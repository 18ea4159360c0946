// Blocks of keys and tiles of scores: what grouped attention's forward and backward share, once per instruction set.

#if defined(FOVEA_GROUPED_ATTENTION_BLOCK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_GROUPED_ATTENTION_BLOCK_INL_H_
#undef FOVEA_GROUPED_ATTENTION_BLOCK_INL_H_
#else
#define FOVEA_GROUPED_ATTENTION_BLOCK_INL_H_
#endif

#include <cstring>

#include "kernels/cpu/grouped_attention_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::grouped_attention_tile {

// A score bias laid out for use as the products' start value: (H, queries, stride), times log2(e), -inf behind the keys.
struct LaidBias {
  const float* data = nullptr;
  int64_t stride = 0;
};

// What is the same for every task of a call.
struct Call {
  const GroupedAttentionArgs& a;
  const TokenGroups& groups;
  int64_t width;                // head_dim rounded up to vectors: the stride of packed rows
  bool labels;
  int64_t exclusions = 0;       // of the rule that has most
  const LaidBias* laid = nullptr;  // for each of groups.biases, or null: no bias, or read where it is

  explicit Call(const GroupedAttentionArgs& args)
      : a(args), groups(*args.groups), width(plan::round_up(args.head_dim, kLanes)), labels(!groups.query_labels.empty()) {
    check(args.head_dim >= 1 && args.head_dim <= kMaxHeadDim, "grouped attention: head_dim {} is not in [1, 256]", args.head_dim);
    for (const PairRule& rule : groups.rules) exclusions = std::max(exclusions, static_cast<int64_t>(rule.exclusions.size()));
  }

  float scale(int64_t h) const {
    return a.head_scale ? static_cast<const float*>(a.head_scale)[h] : static_cast<float>(a.scale);
  }
  int32_t vectors(int32_t keys) const { return (keys + kLanes - 1) / kLanes; }

  bool has_bias(const TokenGroups::Group& group) const { return a.bias && group.bias >= 0; }
  const TokenGroups::Bias& bias_of(const TokenGroups::Group& group) const {
    return groups.biases[static_cast<size_t>(group.bias)];
  }
  // The table's first element for a head, where the group has one.
  const float* bias(const TokenGroups::Group& group, int64_t h) const {
    const TokenGroups::Bias& b = bias_of(group);
    return static_cast<const float*>(a.bias) + a.heads * b.offset + h * b.elements();
  }
  const LaidBias* laid_bias(const TokenGroups::Group& group) const {
    return laid && has_bias(group) ? &laid[group.bias] : nullptr;
  }
};

// Lays the biases out, unless they are so large that copies would not pay.
inline void prepare_bias(Call& call, Context& ctx) {
  const GroupedAttentionArgs& a = call.a;
  constexpr int64_t kMostElements = int64_t{4} << 20;
  const auto& biases = call.groups.biases;
  int64_t elements = 0;
  for (const TokenGroups::Bias& b : biases) elements += a.heads * b.queries * plan::round_up(b.keys, kLanes);
  if (!a.bias || elements > kMostElements || elements == 0) return;
  LaidBias* laid = ctx.scratch().take<LaidBias>(static_cast<int64_t>(biases.size()));
  for (size_t i = 0; i < biases.size(); ++i) {
    const TokenGroups::Bias& b = biases[i];
    const int64_t stride = plan::round_up(b.keys, kLanes), rows = a.heads * b.queries;
    float* to = ctx.scratch().take<float>(rows * stride);
    constexpr int64_t kRowsAhead = 24;  // that come from the memory meanwhile
    ctx.pool().for_each(rows, [&](int64_t r) HWY_ATTR {
      const float* from = static_cast<const float*>(a.bias) + a.heads * b.offset + r * b.keys;
      float* row = to + r * stride;
      prefetch<false>(from + std::min(kRowsAhead, rows - 1 - r) * b.keys, b.keys);
      const D d;
      const V log2e = hn::Set(d, kLog2E);
      for_vectors(
          b.keys, [&](int64_t j) HWY_ATTR { hn::Store(hn::Mul(log2e, hn::LoadU(d, from + j)), d, row + j); },
          [&](int64_t j, int32_t n) HWY_ATTR {
            const auto there = hn::FirstN(d, static_cast<size_t>(n));
            hn::Store(hn::IfThenElse(there, hn::Mul(log2e, load_partial(from + j, n)), hn::Set(d, kNegInf)), d, row + j);
          });
    });
    laid[i] = {to, stride};
  }
  call.laid = laid;
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

// Where keys stand, for a band: on the line of rows, or in a map.
struct KeyPlaces {
  int32_t *y = nullptr, *x = nullptr, *residues = nullptr;  // x alone on a line; residues with a dilation

  KeyPlaces() = default;
  KeyPlaces(Cutter& cutter, int64_t keys)
      : y(cutter.take<int32_t>(keys)), x(cutter.take<int32_t>(keys)), residues(cutter.take<int32_t>(keys)) {}
  static int64_t bytes(int64_t keys) { return 3 * Cutter::bytes<int32_t>(keys); }

  // Of rows, negative ones standing nowhere in particular.
  template <class Band>
  void load(const Band& band, const int32_t* rows, int32_t count) const {
    for (int32_t i = 0; i < count; ++i) {
      const int32_t place = rows[i] < band.first_row ? 0 : rows[i] - band.first_row;
      x[i] = band.map_width > 0 ? place % band.map_width : place;
      if (band.map_width > 0) y[i] = place / band.map_width;
      if (band.dilation > 1) residues[i] = residue(band, band.map_width > 0 ? y[i] : 0, x[i]);
    }
  }
  template <class Band>
  static int32_t residue(const Band& band, int32_t y, int32_t x) {
    const auto mod = [&](int32_t i) { return i % band.dilation < 0 ? i % band.dilation + band.dilation : i % band.dilation; };
    return mod(y) * band.dilation + mod(x);
  }
};

// One query row against such keys: lanes that the band leaves out.
class BandTest {
 public:
  template <class Band>
  BandTest(const Band& band, int32_t row, const KeyPlaces& keys) : keys_(keys), map_(band.map_width > 0), dilated_(band.dilation > 1) {
    const int32_t place = row - band.first_row;
    x_ = map_ ? place % band.map_width : place;
    y_ = map_ ? place / band.map_width : 0;
    reach_ = static_cast<int32_t>(std::min(int64_t{band.band} * band.dilation, int64_t{1} << 30));
    residue_ = dilated_ ? KeyPlaces::residue(band, y_, x_) : 0;
  }
  HWY_INLINE hn::Mask<DI> outside(int32_t i) const {
    const DI di;
    const auto reach = hn::Set(di, reach_);
    auto out = hn::Gt(hn::Abs(hn::Sub(hn::Load(di, keys_.x + i), hn::Set(di, x_))), reach);
    if (map_) out = hn::Or(out, hn::Gt(hn::Abs(hn::Sub(hn::Load(di, keys_.y + i), hn::Set(di, y_))), reach));
    if (dilated_) out = hn::Or(out, hn::Ne(hn::Load(di, keys_.residues + i), hn::Set(di, residue_)));
    return out;
  }

 private:
  const KeyPlaces& keys_;
  bool map_, dilated_;
  int32_t x_, y_, reach_, residue_;
};

// Key slots [first, first + count) of a group: their scores' start value and what the rules need to know of them.
struct KeyBlock {
  int32_t first = 0, count = 0, vectors = 0;
  plan::Pieces panels{0, 1};
  bool padded = false;       // some key is padding
  bool consecutive = false;  // token rows one after the other
  plan::RowBounds bounds[kMaxPanels];
  int32_t *codes, *labels, *own_places;  // (vectors * kLanes)
  const int32_t* places;                 // codes, or own_places where some keys are free
  KeyPlaces band;                        // of the group's own band
  int32_t* excluded;                     // for each exclusion: KeyPlaces of a band, or labels
  int64_t excluded_stride;               // between them
  float* start;                          // (vectors * kLanes) 0, or -inf where there is no key
  float* keys_t;                         // panels of (head_dim, vectors of the panel)

  static int64_t bytes(int64_t keys, int64_t head_dim, int64_t exclusions) {
    return 3 * Cutter::bytes<int32_t>(keys) + (1 + exclusions) * KeyPlaces::bytes(keys) + Cutter::bytes<float>(keys) +
           Cutter::bytes<float>(keys * head_dim);
  }
  KeyBlock(Cutter& cutter, int64_t keys, int64_t head_dim, int64_t exclusions)
      : codes(cutter.take<int32_t>(keys)),
        labels(cutter.take<int32_t>(keys)),
        own_places(cutter.take<int32_t>(keys)),
        places(codes),
        band(cutter, keys),
        excluded(cutter.take<int32_t>(exclusions * KeyPlaces::bytes(keys) / static_cast<int64_t>(sizeof(int32_t)))),
        excluded_stride(KeyPlaces::bytes(keys) / static_cast<int64_t>(sizeof(int32_t))),
        start(cutter.take<float>(keys)),
        keys_t(cutter.take<float>(keys * head_dim)) {}

  // A laid out bias is the start value instead of `start`, and says -inf behind the longest group's keys only.
  bool needs_start(const Call& call, const TokenGroups::Group& group) const {
    return call.laid_bias(group) && (padded || (count < vectors * kLanes && first + count != call.bias_of(group).keys));
  }

  // What a term of an exclusion knows of the block's keys.
  int32_t* excluded_labels(size_t exclusion) const { return excluded + static_cast<int64_t>(exclusion) * excluded_stride; }
  KeyPlaces excluded_places(size_t exclusion) const {
    KeyPlaces p;
    p.x = excluded_labels(exclusion);
    p.y = p.x + excluded_stride / 3;
    p.residues = p.y + excluded_stride / 3;
    return p;
  }

  // Reads the next slots of the cursor, vectors [vector_begin, vector_end) of the group's keys; pack_keys comes after.
  void load(const Call& call, const TokenGroups::Group& group, plan::SlotCursor& cursor, int32_t vector_begin, int32_t vector_end, int64_t b) {
    first = vector_begin * kLanes;
    vectors = vector_end - vector_begin;
    count = std::min(vectors * kLanes, group.keys - first);
    panels = plan::Pieces(vectors, kTileVectors);
    const int32_t padded_count = vectors * kLanes;
    cursor.read(count, codes, group.free_keys ? own_places : nullptr);
    std::fill(codes + count, codes + padded_count, plan::kPadCode);
    if (group.free_keys) std::fill(own_places + count, own_places + padded_count, plan::kNowhere);
    places = group.free_keys ? own_places : codes;
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
      std::fill(labels + count, labels + padded_count, kAnyLabel);
    }
    const PairRule& rule = call.groups.rule_of(group);
    if (rule.band >= 0) band.load(rule, places, padded_count);
    for (size_t e = 0; e < rule.exclusions.size(); ++e) load_excluded(call, rule, e, padded_count);
    if (rule.looks_at_positions()) {
      for (int32_t p = 0; p < panels.pieces; ++p) {
        const int32_t begin = panels.begin(p) * kLanes, end = std::min(panels.begin(p + 1) * kLanes, count);
        bounds[p] = plan::bounds_of(places + begin, end - begin);
      }
    }
    if (call.a.mask) {
      consecutive = count > 0 && codes[0] >= 0;
      for (int32_t i = 1; i < count; ++i) consecutive = consecutive && codes[i] == codes[0] + i;
    }
  }
  // `copies` as pack_panels has it.
  void pack_keys(const Call& call, const TokenGroups::Group& group, const Rows& rows, float* copies = nullptr) const {
    pack_panels(rows, codes, count, panels, call.a.head_dim, keys_t, copies, group.keys <= kFewRows);
  }

 private:
  void load_excluded(const Call& call, const PairRule& rule, size_t exclusion, int32_t padded_count) const {
    const PairTerm& term = call.groups.terms[static_cast<size_t>(rule.exclusions[exclusion].term)];
    if (term.kind == PairTerm::Kind::kBand) excluded_places(exclusion).load(term, codes, padded_count);
    if (term.kind != PairTerm::Kind::kLabels && term.kind != PairTerm::Kind::kKeys) return;
    const int32_t* of_row = term.labels_of_keys().data();
    int32_t* to = excluded_labels(exclusion);
    for (int32_t i = 0; i < padded_count; ++i) to[i] = codes[i] >= 0 ? of_row[codes[i]] : -1;
  }
};

// True where scores are shaped by nothing but a laid out bias, region labels and missing keys: what generated tiles can do.
inline bool plain_scores(const Call& call, const TokenGroups::Group& group) {
  const PairRule& rule = call.groups.rule_of(group);
  return !rule.looks_at_positions() && rule.exclusions.empty() && call.a.mask == nullptr && (!call.has_bias(group) || call.laid != nullptr);
}

// Bits of the keys of a panel whose label differs from the row's.
inline uint64_t differing(const int32_t* labels, int32_t vectors, int32_t label) {
  const DI di;
  if (label == kAnyLabel) return 0;
  uint64_t bits = 0;
  for (int32_t j = 0; j < vectors; ++j) {
    const auto of_key = hn::Load(di, labels + j * kLanes);
    uint8_t part[8] = {};
    hn::StoreMaskBits(di, hn::And(hn::Ne(of_key, hn::Set(di, label)), hn::Ne(of_key, hn::Set(di, kAnyLabel))), part);
    uint64_t word;
    std::memcpy(&word, part, sizeof(word));
    bits |= word << (j * kLanes);
  }
  return bits;
}

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

// Scores in base 2 of one query row against the seen vectors: what the product has not given yet, but for exclusions.
inline void finish_scores(const Call& call, const TokenGroups::Group& group, const KeyBlock& block, bool positions, int64_t b,
                          int64_t h, int32_t slot, int32_t code, int32_t label, Seen seen, float* HWY_RESTRICT s) {
  const D d;
  const DI di;
  const GroupedAttentionArgs& a = call.a;
  const PairRule& rule = call.groups.rule_of(group);
  const int32_t position = code + rule.query_position_shift;
  const bool banded = positions && rule.band >= 0, causal = positions && rule.causal;
  const bool self = positions && rule.self_penalty != 0;
  const BandTest band(rule, position, block.band);
  const bool mixed_labels = call.labels && group.mixed_labels && label != kAnyLabel;
  const bool add_start = block.needs_start(call, group);
  const float* bias = call.has_bias(group) && !call.laid
                          ? call.bias(group, h) + int64_t{slot} * call.bias_of(group).keys + block.first
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
      const auto of_key = hn::Load(di, block.labels + i);
      const auto differs = hn::And(hn::Ne(of_key, hn::Set(di, label)), hn::Ne(of_key, hn::Set(di, kAnyLabel)));
      x = hn::IfThenElse(hn::RebindMask(d, differs), hn::Add(x, hn::Set(d, rule.region_penalty * kLog2E)), x);
    }
    if (positions) {
      const auto key = hn::Load(di, block.places + i);
      const auto at = hn::Set(di, position);
      const auto placed = hn::Gt(key, hn::Set(di, -1));
      auto forbidden = hn::And(placed, hn::And(hn::Gt(key, at), hn::MaskFromVec(hn::Set(di, causal ? -1 : 0))));
      if (banded) forbidden = hn::Or(forbidden, hn::And(placed, band.outside(i)));
      x = hn::IfThenElse(hn::RebindMask(d, forbidden), minus_inf, x);
      if (self) {
        const auto same = hn::And(placed, hn::Eq(key, at));
        x = hn::IfThenElse(hn::RebindMask(d, same), hn::Add(x, hn::Set(d, rule.self_penalty * kLog2E)), x);
      }
    }
    hn::Store(x, d, s + i);
  }
}

// Takes the scores away of pairs that a term contains: `inside(i)` is its mask for the lanes from key i on.
template <class Inside>
HWY_INLINE void exclude(const KeyBlock& block, const PairRule::Exclusion& exclusion, bool causal, int32_t row, Seen seen,
                        float* HWY_RESTRICT s, Inside&& inside) {
  const D d;
  const DI di;
  const int32_t* rows = exclusion.of_free ? block.codes : block.places;
  const auto last = hn::Set(di, causal ? row : std::numeric_limits<int32_t>::max());
  for (int32_t j = seen.begin; j < seen.end; ++j) {
    const int32_t i = j * kLanes;
    const auto key = hn::Load(di, rows + i);
    const auto out = hn::AndNot(hn::Gt(key, last), hn::And(hn::Gt(key, hn::Set(di, -1)), inside(i)));
    hn::Store(hn::IfThenElse(hn::RebindMask(d, out), hn::Set(d, kNegInf), hn::Load(d, s + i)), d, s + i);
  }
}

// The rule's exclusions for query row `row`.
inline void exclude_pairs(const Call& call, const TokenGroups::Group& group, const KeyBlock& block, int32_t row, Seen seen,
                          float* HWY_RESTRICT s) {
  const DI di;
  const PairRule& rule = call.groups.rule_of(group);
  for (size_t e = 0; e < rule.exclusions.size(); ++e) {
    const PairRule::Exclusion& exclusion = rule.exclusions[e];
    const PairTerm& term = call.groups.terms[static_cast<size_t>(exclusion.term)];
    const int32_t* labels = block.excluded_labels(e);
    switch (term.kind) {
      case PairTerm::Kind::kQueries:
        if (term.query_labels[static_cast<size_t>(row)] < 0) break;
        [[fallthrough]];
      case PairTerm::Kind::kAll:
        exclude(block, exclusion, term.causal, row, seen, s, [&](int32_t) HWY_ATTR { return hn::MaskFromVec(hn::Set(di, -1)); });
        break;
      case PairTerm::Kind::kKeys:
        exclude(block, exclusion, term.causal, row, seen, s,
                [&](int32_t i) HWY_ATTR { return hn::Gt(hn::Load(di, labels + i), hn::Set(di, -1)); });
        break;
      case PairTerm::Kind::kLabels: {
        const int32_t label = term.query_labels[static_cast<size_t>(row)];
        if (label < 0) break;
        const int32_t below = std::max(0, label + term.low) - 1, above = label + term.high + 1;  // -1 is in no pair
        exclude(block, exclusion, term.causal, row, seen, s, [&](int32_t i) HWY_ATTR {
          const auto of_key = hn::Load(di, labels + i);
          return hn::And(hn::Gt(of_key, hn::Set(di, below)), hn::Gt(hn::Set(di, above), of_key));
        });
        break;
      }
      case PairTerm::Kind::kBand: {
        if (row < term.first_row) break;
        const KeyPlaces places = block.excluded_places(e);
        const BandTest band(term, row, places);
        const int32_t* codes = block.codes;
        exclude(block, exclusion, term.causal, row, seen, s, [&](int32_t i) HWY_ATTR {
          const auto in_map = hn::Gt(hn::Load(di, codes + i), hn::Set(di, term.first_row - 1));
          return hn::AndNot(band.outside(i), in_map);
        });
        break;
      }
    }
  }
}

// Scores in base 2 of queries [r, r + rows) against a block: s row i at s + i * s_stride, seen vectors only. `slot` is the group's slot of query 0.
inline Seen score_tile(const Call& call, const TokenGroups::Group& group, const KeyBlock& block, const Queries& q, int32_t slot,
                       int32_t r, int32_t rows, int64_t b, int64_t h, float* s, int64_t s_stride) {
  const PairRule& rule = call.groups.rule_of(group);
  int32_t panel_begin = 0, panel_end = block.panels.pieces;
  bool positions = false;
  if (rule.looks_at_positions()) {
    const plan::RowBounds range = plan::bounds_of(q.codes + r, rows);
    if (range.min > range.max) return {};  // pad rows are computed by nobody
    int32_t first = panel_end, last = -1;
    for (int32_t p = 0; p < block.panels.pieces; ++p) {
      const plan::Sight sight = plan::sight(rule, range, block.bounds[p]);
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
  const LaidBias* laid = call.laid_bias(group);
  const float* init =
      laid ? laid->data + (h * call.bias_of(group).queries + slot + r) * laid->stride + block.first : block.start;
  Product p{.a = q.rows + r * call.width,
            .a_stride = call.width,
            .b = block.keys_t + seen.begin * kLanes * call.a.head_dim,
            .b_stride = 0,
            .depth = call.a.head_dim,
            .init = nullptr,
            .init_stride = laid ? laid->stride : 0,
            .c = nullptr,
            .c_stride = s_stride};
  for (int32_t panel = panel_begin; panel < panel_end; ++panel) {
    const int32_t vector = block.panels.begin(panel), vectors = block.panels.begin(panel + 1) - vector;
    p.b_stride = vectors * kLanes;
    p.init = init + vector * kLanes;
    p.c = s + vector * kLanes;
    tile_of(false, rows, vectors)(p);
    p.b += p.b_stride * call.a.head_dim;
  }

  const bool mixed_labels = call.labels && group.mixed_labels;
  const bool unfinished = positions || mixed_labels || call.a.mask || (call.has_bias(group) && !laid) || block.needs_start(call, group);
  if (!unfinished && rule.exclusions.empty()) return seen;
  for (int32_t i = 0; i < rows; ++i) {
    const int32_t code = q.codes[r + i];
    if (!plan::is_token(code)) continue;
    if (unfinished)
      finish_scores(call, group, block, positions, b, h, slot + r + i, code, mixed_labels ? q.labels[r + i] : kAnyLabel, seen,
                    s + i * s_stride);
    if (!rule.exclusions.empty()) exclude_pairs(call, group, block, code, seen, s + i * s_stride);
  }
  return seen;
}

}  // namespace fovea::HWY_NAMESPACE::grouped_attention_tile
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
