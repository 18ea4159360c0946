// Grouped attention's forward by generated tiles, and the memory that it works in.

#if defined(FOVEA_GROUPED_ATTENTION_GENERATED_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_GROUPED_ATTENTION_GENERATED_INL_H_
#undef FOVEA_GROUPED_ATTENTION_GENERATED_INL_H_
#else
#define FOVEA_GROUPED_ATTENTION_GENERATED_INL_H_
#endif

#include "kernels/cpu/attention_pack.h"
#include "kernels/cpu/grouped_attention_relative-inl.h"
#include "kernels/cpu/jit_attention.h"
#include "kernels/cpu/native_rows.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::HWY_NAMESPACE::grouped_attention_tile {

// Scores up to 2^24 around the reference point of a row are summed as they are; others move the point to the maximum.
constexpr float kSafeExponent = 24.0f;

struct Workspace {
  int32_t* codes;   // (chunk) of the task's queries; those of rows that are finished become padding's
  int32_t* query_codes;  // (chunk) as the group has them
  int32_t* labels;
  float *max, *sum, *lse;  // the row's reference point, sum of 2^(score - max), and result
  float *q, *out;   // (chunk, width)
  const float** q_rows;  // (chunk) that generated tiles read
  const float** v_rows;  // (block keys)
  float* s;         // (kMostValueRows, kMaxBlockKeys)
  float* v;         // (block keys, width)
  uint64_t* penalised;  // (kMaxPanels, chunk) of each panel's keys those whose label differs from the query's, where labels are mixed
  float *k_pairs, *v_pairs;  // in bf16: keys_t and v in pairs, of channels (or fours of bytes) and of keys
  // Of scores of integers: rows of bytes, their scales (the queries' times that of the scores), and what a key's sums begin with.
  uint8_t *q_bytes, *k_bytes;
  float *q_scale, *k_scale;
  int32_t* k_start;
  KeyBlock block;
  int32_t block_keys;
  RelativeWorkspace relative;
  // The heads of a group come one after the other: what query_codes are of, and the batch element where `block` has all of the group's keys.
  const TokenGroups::Group* group = nullptr;
  int32_t begin = -1, end = -1;
  int64_t block_batch = -1;
  bool has_penalised = false;  // of these queries and the block
  int32_t queries;  // that a chunk has room for

  Workspace(Cutter cutter, int32_t chunk, int32_t keys, const Call& call, const RelativeCall* relative_call)
      : Workspace(cutter, chunk, keys, call.a.head_dim, call.width, call.a.bf16 ? keys : 0, call.a.int8_scores, call.exclusions, relative_call) {}
  static int64_t bytes(int32_t chunk, int32_t keys, const Call& call, const RelativeCall* relative_call) {
    const int64_t head_dim = call.a.head_dim, width = call.width, paired_keys = call.a.bf16 ? keys : 0;
    return 3 * Cutter::bytes<int32_t>(chunk) + 3 * Cutter::bytes<float>(chunk) +
           2 * Cutter::bytes<float>(chunk * width) + Cutter::bytes<const float*>(chunk) + Cutter::bytes<const float*>(keys) + Cutter::bytes<float>(kMostValueRows * kMaxBlockKeys) +
           Cutter::bytes<float>(keys * width) + Cutter::bytes<uint64_t>(kMaxPanels * chunk) + 2 * Cutter::bytes<float>(paired_keys * width / 2) + KeyBlock::bytes(keys, head_dim, call.exclusions) +
           (call.a.int8_scores ? bytes_of_integers(chunk, keys, head_dim) : 0) + RelativeWorkspace::bytes(relative_call, chunk, keys, kTileRows, width);
  }

  // Of n queries with these labels.
  void find_penalised(const int32_t* query_labels, int32_t n) {
    for (int32_t panel = 0; panel < block.panels.pieces && !has_penalised; ++panel) {
      const int32_t first = block.panels.begin(panel), vectors = block.panels.begin(panel + 1) - first;
      for (int32_t i = 0; i < n; ++i) penalised[panel * queries + i] = differing(block.labels + first * kLanes, vectors, query_labels[i]);
    }
    has_penalised = true;
  }

 private:
  static int64_t bytes_of_integers(int64_t chunk, int64_t keys, int64_t head_dim) {
    return Cutter::bytes<uint8_t>(chunk * head_dim) + Cutter::bytes<uint8_t>(keys * head_dim) + Cutter::bytes<float>(chunk) + Cutter::bytes<float>(keys) +
           Cutter::bytes<int32_t>(keys);
  }
  Workspace(Cutter cutter, int32_t chunk, int32_t keys, int64_t head_dim, int64_t width, int64_t paired_keys, bool int8_scores, int64_t exclusions,
            const RelativeCall* relative_call)
      : codes(cutter.take<int32_t>(chunk)),
        query_codes(cutter.take<int32_t>(chunk)),
        labels(cutter.take<int32_t>(chunk)),
        max(cutter.take<float>(chunk)),
        sum(cutter.take<float>(chunk)),
        lse(cutter.take<float>(chunk)),
        q(cutter.take<float>(chunk * width)),
        out(cutter.take<float>(chunk * width)),
        q_rows(cutter.take<const float*>(chunk)),
        v_rows(cutter.take<const float*>(keys)),
        s(cutter.take<float>(kMostValueRows * kMaxBlockKeys)),
        v(cutter.take<float>(keys * width)),
        penalised(cutter.take<uint64_t>(kMaxPanels * chunk)),
        k_pairs(cutter.take<float>(paired_keys * width / 2)),
        v_pairs(cutter.take<float>(paired_keys * width / 2)),
        q_bytes(int8_scores ? cutter.take<uint8_t>(chunk * head_dim) : nullptr),
        k_bytes(int8_scores ? cutter.take<uint8_t>(keys * head_dim) : nullptr),
        q_scale(int8_scores ? cutter.take<float>(chunk) : nullptr),
        k_scale(int8_scores ? cutter.take<float>(keys) : nullptr),
        k_start(int8_scores ? cutter.take<int32_t>(keys) : nullptr),
        block(cutter, keys, head_dim, exclusions),
        block_keys(keys),
        relative(cutter, relative_call, chunk, keys, kTileRows, width),
        queries(chunk) {}
};

static_assert(kMaxBlockKeys == kAttentionRowKeys && kTileRows <= kMostValueRows);

// What scores and weighted values of a group are products of.
inline AttentionElement score_element(const Call& call, const TokenGroups::Group& group) {
  return call.a.has_int8_scores(group) ? AttentionElement::kByteFour : call.a.bf16 ? AttentionElement::kBf16Pair : AttentionElement::kFloat;
}
inline AttentionElement value_element(const Call& call) { return call.a.bf16 ? AttentionElement::kBf16Pair : AttentionElement::kFloat; }
inline int64_t weight_bytes(const Call& call) { return call.a.bf16 ? sizeof(uint16_t) : sizeof(float); }

// Whether tiles for such attention can be generated here.
inline bool can_generate(const Call& call, const TokenGroups::Group& group) {
  const int64_t d = call.a.head_dim;
  const AttentionElement scores = score_element(call, group);
  if (kLanes != 16 || d % numbers_of(scores) != 0) return false;
  return jit_attention_values(value_element(call), 1, d) != nullptr && jit_attention_scores(scores, 1, 1, d / numbers_of(scores)) != nullptr;
}

// Tiles of a task by generated code: scores with zero as the reference point of all rows.
class GeneratedTiles {
 public:
  // Of the n queries from `slot` on.
  GeneratedTiles(const Call& call, Workspace& w, const TokenGroups::Group& group, const Rows& q_rows, int32_t slot, int32_t n, int64_t h)
      : w_(w),
        laid_(call.laid_bias(group)),
        mixed_labels_(call.labels && group.mixed_labels),
        element_(score_element(call, group)),
        weight_bytes_(weight_bytes(call)) {
    for (int32_t i = 0; i < n; ++i) w.q_rows[i] = q_rows.row(w.codes[i]);
    if (laid_) bias_ = laid_->data + (h * call.bias_of(group).queries + slot) * laid_->stride;
    same_.head_dim = call.a.head_dim / numbers_of(element_);
    same_.scale = call.scale(h) * kLog2E;
    if (element_ == AttentionElement::kByteFour) {
      round_bf16_rows(w.q_rows, n, call.a.head_dim, same_.scale, w.q_bytes, w.q_scale);
      for (int32_t i = 0; i < n; ++i) w.q_rows[i] = reinterpret_cast<const float*>(w.q_bytes + i * call.a.head_dim);
    }
    same_.penalty = call.groups.rule_of(group).region_penalty * kLog2E;
    same_.greatest = kSafeExponent;
    same_.bias_stride = laid_ ? laid_->stride * static_cast<int64_t>(sizeof(float)) : 0;
  }

  // Weights (rows, kMaxBlockKeys) of queries [r, r + rows) for the block's keys, their sums being added to `sums` (rows, kLanes) lane by lane. False: some
  // scores want another reference point, and neither counts.
  bool run(int32_t r, int32_t rows, float* sums, char* weights) const {
    const KeyBlock& block = w_.block;
    bool begun = block.first > 0;
    for (int32_t i = 0; i < rows && block.first > 0; ++i) {
      if (w_.max[r + i] != kNegInf && w_.max[r + i] != 0) return false;
      begun = begun && w_.max[r + i] == 0;
    }
    AttentionScores t = same_;
    t.q = w_.q_rows + r;
    t.sum = sums;
    const bool bytes = element_ == AttentionElement::kByteFour;
    if (bytes) t.row_scale = w_.q_scale + r;
    for (int32_t panel = 0; panel < block.panels.pieces; ++panel) {
      const int32_t vectors = block.panels.begin(panel + 1) - block.panels.begin(panel), first = block.panels.begin(panel) * kLanes;
      t.keys_t = (element_ == AttentionElement::kFloat ? block.keys_t : w_.k_pairs) + first * t.head_dim;
      t.bias = (laid_ ? bias_ + r * laid_->stride + block.first : block.start) + first;
      t.p = weights + first * weight_bytes_;
      if (bytes) {
        t.start = w_.k_start + first;
        t.key_scale = w_.k_scale + first;
      }
      t.least = begun ? kNegInf : -kSafeExponent;
      if (mixed_labels_) t.penalised = w_.penalised + panel * w_.queries + r;
      if (jit_attention_scores(element_, rows, vectors, t.head_dim)(&t) == 0) return false;
      begun = true;
    }
    std::fill_n(w_.max + r, rows, 0.0f);
    return true;
  }

 private:
  Workspace& w_;
  const LaidBias* laid_;
  const float* bias_ = nullptr;  // of the first query
  bool mixed_labels_;
  AttentionElement element_;
  int64_t weight_bytes_;
  AttentionScores same_;
};

// Rows of a tile, as many as registers hold with their values.
inline int32_t tile_rows(int64_t head_dim) {
  const auto vectors = static_cast<int32_t>((head_dim + kLanes - 1) / kLanes);
  const int32_t pieces = (vectors + kAttentionTileVectors - 1) / kAttentionTileVectors;
  return std::min(kMostValueRows, kAttentionTileRows * kAttentionTileVectors / ((vectors + pieces - 1) / pieces));
}

// Keys and values of the block in pairs, or keys in fours of bytes.
inline void pack_pairs(const Call& call, Workspace& w, const TokenGroups::Group& group, const Rows& k_rows, const Rows& v_rows) {
  const KeyBlock& block = w.block;
  for (int32_t i = 0; i < block.count; ++i) {
    w.v_rows[i] = k_rows.row(block.codes[i]);
    if (group.keys <= kFewRows) k_rows.fetch_next_head(block.codes[i], call.a.head_dim);
  }
  const bool bytes = call.a.has_int8_scores(group);
  if (bytes) {
    round_bf16_rows(w.v_rows, block.count, call.a.head_dim, 1.0f, w.k_bytes, w.k_scale);
    std::fill(w.k_scale + block.count, w.k_scale + block.vectors * kLanes, 0.0f);
    for (int32_t i = 0; i < block.count; ++i) w.v_rows[i] = reinterpret_cast<const float*>(w.k_bytes + i * call.a.head_dim);
  }
  const int64_t words = call.a.head_dim / numbers_of(score_element(call, group));
  for (int32_t panel = 0; panel < block.panels.pieces; ++panel) {
    const int32_t first = block.panels.begin(panel), end = block.panels.begin(panel + 1), stride = (end - first) * kLanes;
    float* out = w.k_pairs + first * kLanes * words;
    for (int32_t vector = first; vector < end; ++vector, out += kLanes) {
      const float* const* rows = w.v_rows + vector * kLanes;
      const int32_t count = std::min(kLanes, block.count - vector * kLanes);
      if (bytes)
        pack_byte_keys(rows, count, words, out, stride, w.k_start + vector * kLanes);
      else
        transpose_words(rows, count, words, out, stride);
    }
  }
  for (int32_t i = 0; i < block.count; ++i) w.v_rows[i] = v_rows.row(block.codes[i]);
  pack_value_pairs(w.v_rows, block.count, call.a.head_dim, w.v_pairs);
}

// Where rows go that nothing is to come for: the heads' own, of floats, or of bfloat16 where weights are.
struct FinishedRows {
  char* first = nullptr;  // of the batch element and head; null: sums go to the workspace
  int64_t stride = 0;     // bytes
};

// Queries [r, r + rows), up to tile_rows, against the block. `slow(r, rows)` is called for what wants another reference point than zero. Rows that are
// finished get the code of padding.
template <class Slow>
void generated_tile(const Call& call, Workspace& w, const GeneratedTiles& tiles, int32_t r, int32_t rows, const FinishedRows& finished, Slow&& slow) {
  const plan::Pieces parts(rows, kAttentionTileRows);
  const D d;
  HWY_ALIGN float sums[kMostValueRows * kLanes];
  for (int32_t i = 0; i < rows; ++i) hn::Store(hn::Zero(d), d, sums + i * kLanes);
  bool all = true, scored[2] = {};
  const auto weights = [&](int32_t part) { return reinterpret_cast<char*>(w.s) + parts.begin(part) * kMaxBlockKeys * weight_bytes(call); };
  for (int32_t part = 0; part < parts.pieces; ++part) {
    const int32_t first = parts.begin(part), n = parts.begin(part + 1) - first;
    scored[part] = tiles.run(r + first, n, sums + first * kLanes, weights(part));
    all = all && scored[part];
  }
  const auto add_values = [&](int32_t part, int32_t first, int32_t n) {
    void* to[kMostValueRows];
    float factor[kMostValueRows];
    AttentionValues v;
    v.p = weights(part);
    v.v = call.a.bf16 ? static_cast<const void*>(w.v_pairs) : w.v_rows;
    v.count = call.a.bf16 ? (w.block.count + 1) / 2 : w.block.count;
    if (finished.first) {
      for (int32_t i = 0; i < n; ++i) {
        int32_t& code = w.codes[first + i];
        to[i] = plan::is_token(code) ? finished.first + code * finished.stride : reinterpret_cast<char*>(w.out + (first + i) * call.width);
        code = plan::kPadCode;
        factor[i] = 1.0f / w.sum[first + i];
      }
      v.rows = to;
      v.factor = factor;
    } else {
      v.out = w.out + first * call.width;
      v.out_stride = call.width * static_cast<int64_t>(sizeof(float));
    }
    jit_attention_values(value_element(call), n, call.a.head_dim)(&v);
  };
  if (all) {
    add_lane_sums(sums, rows, w.sum + r);
    return add_values(0, r, rows);
  }
  for (int32_t part = 0; part < parts.pieces; ++part) {
    const int32_t first = parts.begin(part), n = parts.begin(part + 1) - first;
    if (!scored[part]) continue;
    add_lane_sums(sums + first * kLanes, n, w.sum + r + first);
    add_values(part, r + first, n);
  }
  for (int32_t part = 0; part < parts.pieces; ++part)
    if (!scored[part]) slow(r + parts.begin(part), parts.begin(part + 1) - parts.begin(part));
}

}  // namespace fovea::HWY_NAMESPACE::grouped_attention_tile
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
