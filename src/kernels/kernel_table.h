// THE SEAM. Everything that touches numbers goes through one of these tables, so a layer is written once and runs as the
// f64 or dual-number oracle and on every instruction set unchanged.
//
// Dimension letters: B batch, N tokens, C channels, H heads, D head_dim, M memory slots; m, n, k of a matrix product.
// Data pointers point to elements of the table's dtype; strides count elements. Unless a comment says otherwise outputs
// are written, not accumulated, and outputs must not overlap inputs, but element-wise kernels (activation, add, scale_*,
// dropout) may work in place. Kernels take scratch from the context, use its pool,
// and give the same bits for any number of threads. Sizes of zero are legal everywhere.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/context.h"
#include "kernels/relative_term.h"
#include "kernels/token_groups.h"

namespace fovea {

enum class Activation : uint8_t {
  kNone,
  kGelu,       // erf
  kGeluTanh,
  kRelu,
  kQuickGelu,  // x / (1 + exp(-1.702 x)), Hendrycks and Gimpel 2016 (1606.08415), section 2
  kSilu,       // x / (1 + exp(-x))
  kTanh,
};

// ---- matrix product -------------------------------------------------------------------------------------------------

// A packed B (k, n), as gemm_pack gives it.
struct PackedMatrix {
  const void* data = nullptr;
  ProductType type = ProductType::kOwn;
  int64_t k = 0, n = 0;
};

// c[c_rows[i], :] = residual + act(norm(a)[a_rows[i], :] · b + bias), row i of m; "accumulate" adds to c instead.
struct GemmArgs {
  int64_t m = 0, n = 0, k = 0;

  // A (m, k), row-major with `a_stride` between rows; with a_transposed it is stored (k, m) and a_stride lies between
  // the rows of that. The prologue below needs a_transposed == false.
  const void* a = nullptr;
  int64_t a_stride = 0;
  bool a_transposed = false;

  // B (k, n); with b_transposed it is stored (n, k), as a Linear's weight is. Or, when not null, the packed form of
  // gemm_pack (b, b_stride and b_transposed are then ignored).
  const void* b = nullptr;
  int64_t b_stride = 0;
  bool b_transposed = false;
  const void* b_packed = nullptr;
  ProductType type = ProductType::kOwn;  // of b_packed, where there is one; int8 needs it, and a_transposed == false
  PackedMatrix next;  // B of the product after this one, whose beginning may be brought near meanwhile; or none

  void* c = nullptr;  // (m, n)
  int64_t c_stride = 0;
  bool accumulate = false;  // c += a·b; excludes every epilogue but c_rows
  void* a_sums = nullptr;   // (m) += sums of a over k, as it is stored; with a_transposed: a bias' gradient beside its weight's

  bool fine_sums = false;  // f32: the shortest runs (numerics.md), for products of few rows, which wait for memory anyway

  // Storage as bfloat16 instead of the table's dtype (strides count its elements), with products of another type than kOwn:
  // of A, without norm and rows; of B, with products in bf16 and b_transposed == false; of C, without accumulation and residual.
  bool a_bf16 = false, b_bf16 = false, c_bf16 = false;
  // A of products in int8 that is rounded already: bytes, an element being (byte - 128) times its row's a_scale. Likewise without norm.
  bool a_uint8 = false;
  const void* a_scale = nullptr;  // (rows of a)

  // Prologue.
  const int32_t* a_rows = nullptr;      // (m) row i is read from row a_rows[i] of a; -1 is a row of zeros (also after the norm)
  const void* norm_gamma = nullptr;     // (k) with norm_beta: LayerNorm of each row of a over k channels before the product
  const void* norm_beta = nullptr;      // (k)
  const void* norm_mean = nullptr;      // with norm_rstd: its statistics per row of a (not per gathered row), as
  const void* norm_rstd = nullptr;      //   layer_norm_statistics gives; null: computed here
  double norm_epsilon = 0;              // then

  // Epilogue, in this order.
  const void* bias = nullptr;           // (n)
  void* pre_activation = nullptr;       // (m, n) contiguous rows of n: the value before the activation is kept here
  Activation activation = Activation::kNone;
  const void* residual = nullptr;       // (m, n) added after the activation; may be c itself; row c_rows[i] when scattering
  int64_t residual_stride = 0;
  const int32_t* c_rows = nullptr;      // (m) row i of the result goes to row c_rows[i] of c; -1 drops it; no row twice
};

// ---- normalisation --------------------------------------------------------------------------------------------------

// Rows are addressed as row(i, j) = i * outer_stride + j * inner_stride, i < outer, j < inner: plain (N, C) rows are
// {N, 1, C, 0}; the heads of q inside a fused (B N, 3, H, D) buffer are {B N, H, 3 H D, D}.
struct RowLayout {
  int64_t outer = 0, inner = 1;
  int64_t outer_stride = 0, inner_stride = 0;
  int64_t rows() const { return outer * inner; }
  static RowLayout contiguous(int64_t rows, int64_t channels) { return {rows, 1, channels, 0}; }
};

struct LayerNormArgs {
  int64_t channels = 0;
  double epsilon = 1e-5;
  RowLayout x_rows, y_rows;
  const void* x = nullptr;
  const void* gamma = nullptr;  // (channels) or null: 1
  const void* beta = nullptr;   // (channels) or null: 0
  void* y = nullptr;            // may be x itself; null: statistics only
  void* mean = nullptr;         // (rows) or null: not kept
  void* rstd = nullptr;         // (rows) 1 / sqrt(population variance + epsilon), or null
};

struct LayerNormBackwardArgs {
  int64_t channels = 0;
  RowLayout x_rows, dy_rows, dx_rows;
  const void* x = nullptr;
  const void* mean = nullptr;   // (rows)
  const void* rstd = nullptr;   // (rows)
  const void* gamma = nullptr;  // or null: 1
  const void* dy = nullptr;
  void* dx = nullptr;           // may be dy itself
  bool accumulate_dx = false;   // dx += ...
  void* dgamma = nullptr;       // (channels) += ..., or null
  void* dbeta = nullptr;        // (channels) += ..., or null
};

// Rows of length one, y = x / max(|x|, epsilon): the q and k of cosine attention (Liu et al. 2021, 2111.09883, section 3.3).
struct UnitRowsArgs {
  int64_t channels = 0;
  double epsilon = 1e-12;
  RowLayout x_rows, y_rows;
  const void* x = nullptr;
  void* y = nullptr;            // may be x itself
  bool bf16 = false;            // x and y are stored as bfloat16; strides count its elements
  void* norm = nullptr;         // (rows) max(|x|, epsilon), or null: not kept
};

struct UnitRowsBackwardArgs {
  int64_t channels = 0;
  double epsilon = 1e-12;
  RowLayout y_rows, dy_rows, dx_rows;
  const void* y = nullptr;      // as the forward gave it; x is not needed
  const void* norm = nullptr;   // (rows) likewise
  const void* dy = nullptr;
  void* dx = nullptr;           // may be dy itself
  bool accumulate_dx = false;   // dx += ...
};

// ---- attention ------------------------------------------------------------------------------------------------------

// Rows of heads inside any buffer: element (b, row, head, d) is data[b * batch + row * token + head * head + d].
struct HeadsView {
  void* data = nullptr;
  int64_t batch_stride = 0, token_stride = 0, head_stride = 0;
};
struct ConstHeadsView {
  const void* data = nullptr;
  int64_t batch_stride = 0, token_stride = 0, head_stride = 0;
  ConstHeadsView() = default;
  ConstHeadsView(const void* d, int64_t b, int64_t t, int64_t h) : data(d), batch_stride(b), token_stride(t), head_stride(h) {}
  ConstHeadsView(const HeadsView& v)  // NOLINT: a view may lose the right to write
      : data(v.data), batch_stride(v.batch_stride), token_stride(v.token_stride), head_stride(v.head_stride) {}
};

// out = softmax over a group's keys of (scale · q·k + bias + mask + pair rules) · v, in every group, for every head.
// Source of the streaming form: Dao et al. 2022 (2205.14135), section 3.1. A row that may see no key gives zeros.
constexpr int32_t kLeastInt8Keys = 97;  // fewer do not repay the rounding

struct GroupedAttentionArgs {
  const TokenGroups* groups = nullptr;
  int64_t batch = 0, heads = 0, head_dim = 0;
  int64_t queries = 0, keys = 0;        // token rows of q / out, and of k and v, per batch element
  double scale = 1;                     // usually 1 / sqrt(D)
  const void* head_scale = nullptr;     // (H) replaces `scale` per head (cosine attention's temperature), or null
  ConstHeadsView q, k, v;
  ConstHeadsView memory_k, memory_v;    // RowSource::kMemory rows, or null data
  const void* pad_k = nullptr;          // (H, D) the pad row's key, or null: zeros
  const void* pad_v = nullptr;          // (H, D) likewise
  // Score bias by slot, or null: for each of groups->biases a table (H, queries, keys) by the slots in a group, one table
  // behind the other; H * groups->bias_elements() in all.
  const void* bias = nullptr;
  // Additive mask by row: mask[b * batch + h * head + query row * row + key row] for token keys, or null; -inf forbids.
  const void* mask = nullptr;
  int64_t mask_batch_stride = 0, mask_head_stride = 0, mask_row_stride = 0;
  const uint8_t* key_padding = nullptr; // (B, keys) 1 = this token row is no key, or null
  const RelativeTerm* relative = nullptr;  // position term of Transformer-XL, or null; excludes head_scale
  HeadsView out;                        // every row is written: zeros where no group has it
  // Products in bfloat16, without backward and relative term: q, k, v and memory rows are stored so (strides count such elements), pad rows
  // and what multiplies v are rounded. The latter are 2^(score / ln 2 - n), n a whole number of the row; sums of them are not rounded.
  bool bf16 = false;
  // Scores of integers, in bf16: in groups of at least kLeastInt8Keys keys, rows of q and k become s · round(x / s) with s = max |x| / 127 first
  // (of head_dim elements; ties to even, and a row that is not finite NaN).
  bool int8_scores = false;
  bool has_int8_scores(const TokenGroups::Group& group) const { return int8_scores && group.keys >= kLeastInt8Keys; }
  bool out_bf16 = false;                // so is out; with kAssign
  void* lse = nullptr;                  // (B, H, groups->query_slots) log-sum-exp of the scores per query slot, -inf where
                                        // there is no key; null: not kept
};

struct GroupedAttentionBackwardArgs {
  GroupedAttentionArgs forward;         // as in the forward; forward.out and forward.lse hold its results
  ConstHeadsView dout;
  HeadsView dq, dk, dv;                 // every row is written
  HeadsView dmemory_k, dmemory_v;       // written; null data where there is no memory
  void* dpad_k = nullptr;               // (H, D) += ..., or null
  void* dpad_v = nullptr;
  void* dbias = nullptr;                // like bias, +=, or null
  void* dhead_scale = nullptr;          // (H) +=, or null
  RelativeGradients relative;           // +=
};

// Features of kernelised attention, phi(x) for x~ = input_scale · x and u = W x~ (kNone: u = x~).
enum class FeatureKernel : uint8_t {
  kSoftmax,  // exp(u - |x~|^2 / 2 - c) + epsilon: positive random features of the softmax kernel (2009.14794, lemma 1)
  kRelu,     // f(u) + epsilon, the generalised kernels
  kExp,
  kGelu,
  kNone,     // queries: softmax over D; keys: softmax over the keys per feature, or exp(u - c) when causal (1812.01243)
};

// out_i = phi(q_i) · sum_j phi(k_j) v_j^T / phi(q_i) · sum_j phi(k_j), over all keys or, causal, over those of j <= i.
// Choromanski et al. 2020 (2009.14794). The stabiliser c of a query is the maximum of its u; that of the keys is the maximum over
// the features of all keys that the query meets, so that a causal row is what the prefix alone would give. With epsilon = 0 the
// result does not depend on c. A row that meets no key gives zeros.
struct FeatureAttentionArgs {
  int64_t batch = 0, heads = 0, head_dim = 0, value_dim = 0;
  int64_t queries = 0, keys = 0;         // token rows; the same number when causal
  FeatureKernel map = FeatureKernel::kSoftmax;
  int64_t features = 0;                  // M; D for kNone
  const void* projection = nullptr;      // W (M, D) of all heads; null for kNone
  double input_scale = 1;
  double epsilon = 0;                    // 0 for kNone
  bool causal = false;
  ConstHeadsView q, k, v;
  const uint8_t* key_padding = nullptr;  // (B, keys) 1 = this token row is no key, or null
  HeadsView out;
  void* state = nullptr;                 // what the backward needs: feature_attention_state elements; null: not kept

  // What official implementations do differently, for comparison with them.
  bool constant_stabilisers = false;     // c is no function of q and k: no gradient goes through it
  bool whole_stabiliser = false;         // causal: c is the maximum over all keys, later ones too
  double causal_epsilon = 0;             // causal: added to each feature of the sum over keys in the denominator
};

struct FeatureAttentionBackwardArgs {
  FeatureAttentionArgs forward;          // as in the forward; forward.out and forward.state hold its results
  ConstHeadsView dout;
  HeadsView dq, dk, dv;                  // every row is written
};

// Rows of heads held against centroids (Roy et al. 2020, 2003.05997, section 4.1): the similarity of row n and cluster c is
// x^_n · means_c, with x^ = x / max(|x|, 1e-12) or, without `unit`, x itself.
struct ClusterArgs {
  int64_t batch = 0, heads = 0, head_dim = 0;
  int64_t rows = 0, clusters = 0;       // of each batch element and head; of each head
  bool unit = true;
  ConstHeadsView x;
  const void* means = nullptr;          // (H, clusters, D)
  const uint8_t* padding = nullptr;     // 1 = this row takes no part: row n of batch element b at b * padding_stride + n; or null
  int64_t padding_stride = 0;
};

struct ClusterDistanceArgs {
  ClusterArgs clusters;
  const int32_t* nearest = nullptr;     // (B, H, rows) as nearest_clusters gives it; -1: the row takes no part
  void* distance = nullptr;             // (1) += sum of |x^_n - means_nearest(n)|^2
  void* totals = nullptr;               // (H, clusters, D) += sum of x^ over the rows of a cluster
  void* counts = nullptr;               // (H, clusters) += their number
};

// ---- small operators ------------------------------------------------------------------------------------------------

// Patches of a map as matrix rows, zero outside the map: out row (b, oy, ox), column (c, ky, kx) = x(b, c, oy*stride_h -
// pad_top + ky, ox*stride_w - pad_left + kx). Any layout of x by strides (NCHW images, NHWC maps).
struct PatchesArgs {
  int64_t batch = 0, channels = 0, height = 0, width = 0;  // of x
  int64_t x_batch_stride = 0, x_channel_stride = 0, x_row_stride = 0, x_column_stride = 0;
  int64_t kernel_h = 0, kernel_w = 0, stride_h = 1, stride_w = 1, pad_top = 0, pad_left = 0;
  int64_t out_height = 0, out_width = 0;
};

// Mean over the bins of a map of tokens x (B, height, width, C): bin a of A along an axis of length L covers
// floor(a L / A) ... ceil((a + 1) L / A), so bins may overlap, and repeat rows where A > L.
struct AdaptivePoolArgs {
  int64_t batch = 0, channels = 0, height = 0, width = 0;  // of x; no axis is empty
  int64_t x_batch_stride = 0;           // between maps; inside one, tokens lie one after the other
  int64_t out_height = 0, out_width = 0;
};

// Per-row cross-entropy of softmax(logits) against (1 - smoothing) · target + smoothing / classes.
struct CrossEntropyArgs {
  int64_t rows = 0, classes = 0;
  const void* logits = nullptr;         // (rows, classes)
  const int32_t* labels = nullptr;      // (rows), or null with soft_targets
  const void* soft_targets = nullptr;   // (rows, classes)
  double smoothing = 0;
  void* loss = nullptr;                 // (rows), forward
  double dloss = 1;                     // backward: the gradient of every row's loss (1 / rows for a mean)
  void* dlogits = nullptr;              // (rows, classes), backward
};

// AdamW (Loshchilov and Hutter 2019, algorithm 2, decoupled decay): elements of one flat range.
struct AdamWArgs {
  int64_t count = 0;
  void* value = nullptr;
  const void* grad = nullptr;
  void* m = nullptr;
  void* v = nullptr;
  double grad_scale = 1;                // clipping and accumulation: the gradient is multiplied by this first
  double lr = 0, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0;
  int64_t step = 1;                     // 1-based, for the bias correction
};

struct DropoutArgs {
  int64_t count = 0;
  double probability = 0;               // of dropping
  Rng rng;                              // element i is dropped when rng.uniform(i) < probability
  const void* x = nullptr;
  void* y = nullptr;                    // x / (1 - probability) or 0; may be x. The backward is the same map on dy.
};

// Depthwise 3x3 convolution inside blocks of a map of tokens (LePE: Dong et al. 2021, 2107.00652, section 3.3; one block over the
// whole map is the ordinary convolution with zero padding 1). Blocks of block_h x block_w tile the map from (-block_top,
// -block_left) on. A tap sees tokens of its own block and zeros elsewhere:
//   y(b, t, c) = residual(b, t, c) + bias[c] + sum over i, j of weight[c, i, j] · x(b, t + (i - 1, j - 1), c).
// Views are those of one head of `channels` elements; their rows are the map's tokens, row-major.
struct Depthwise3x3Args {
  int64_t batch = 0, channels = 0, height = 0, width = 0;
  int64_t block_h = 0, block_w = 0, block_top = 0, block_left = 0;
  ConstHeadsView x;
  const void* weight = nullptr;         // (C, 3, 3)
  const void* bias = nullptr;           // (C) or null
  // skip[b * skip_batch_stride + t] = 1: token t is not there; it counts as zero, and y is its residual. Null: all are there.
  const uint8_t* skip = nullptr;
  int64_t skip_batch_stride = 0;
  bool x_bf16 = false;                  // x is stored as bfloat16 (strides count such elements); forward
  ConstHeadsView residual;              // or null data: zeros
  HeadsView y;                          // forward; may be the residual itself
};

struct Depthwise3x3BackwardArgs {
  Depthwise3x3Args forward;             // as in the forward; residual and y are not looked at
  ConstHeadsView dy;
  HeadsView dx;                         // +=, or null data
  void* dweight = nullptr;              // (C, 3, 3) +=, or null
  void* dbias = nullptr;                // (C) +=, or null
};

// ---- the table ------------------------------------------------------------------------------------------------------

struct KernelTable {
  std::string_view name;  // "reference", "cpu.avx512", ...
  DType dtype = DType::kF32;

  void (*gemm)(const GemmArgs&, Context&);
  // Bytes of the packed form of a (k, n) matrix, and packing it: b as in GemmArgs.
  size_t (*gemm_packed_bytes)(ProductType, int64_t k, int64_t n);
  void (*gemm_pack)(ProductType, int64_t k, int64_t n, const void* b, int64_t b_stride, bool b_transposed, void* packed, Context&);

  void (*layer_norm)(const LayerNormArgs&, Context&);
  void (*layer_norm_backward)(const LayerNormBackwardArgs&, Context&);
  void (*unit_rows)(const UnitRowsArgs&, Context&);
  void (*unit_rows_backward)(const UnitRowsBackwardArgs&, Context&);

  // y = act(x); dx = dy · act'(x), x before the activation; dx may be dy.
  void (*activation)(Activation, int64_t count, const void* x, void* y, Context&);
  void (*activation_backward)(Activation, int64_t count, const void* x, const void* dy, void* dx, Context&);

  // y (rows, columns) = act(a) · b for x (rows, 2 columns) = [a, b]: gated perceptrons (Shazeer 2020, 2002.05202). Backward: dx is
  // written.
  void (*gate)(Activation, int64_t rows, int64_t columns, const void* x, void* y, Context&);
  void (*gate_backward)(Activation, int64_t rows, int64_t columns, const void* x, const void* dy, void* dx, Context&);

  void (*grouped_attention)(const GroupedAttentionArgs&, Context&);
  void (*grouped_attention_backward)(const GroupedAttentionBackwardArgs&, Context&);

  void (*feature_attention)(const FeatureAttentionArgs&, Context&);
  void (*feature_attention_backward)(const FeatureAttentionBackwardArgs&, Context&);
  int64_t (*feature_attention_state)(const FeatureAttentionArgs&);
  // nearest (B, H, rows): the cluster of the greatest similarity, the first of equals; -1 for padding.
  void (*nearest_clusters)(const ClusterArgs&, int32_t* nearest, Context&);
  // chosen (B, H, clusters, count): for each cluster the `count` rows of the greatest similarity (the first of equals) in
  // ascending order; -1 behind them where fewer rows than that are no padding.
  void (*top_rows)(const ClusterArgs&, int64_t count, int32_t* chosen, Context&);
  // Distances from the nearest centroids, and what new ones are made of. Backward: dx += scale · d(distance)/dx; means and
  // choices are constants.
  void (*cluster_distance)(const ClusterDistanceArgs&, Context&);
  void (*cluster_distance_backward)(const ClusterDistanceArgs&, double scale, const HeadsView& dx, Context&);

  void (*cross_entropy)(const CrossEntropyArgs&, Context&);
  void (*cross_entropy_backward)(const CrossEntropyArgs&, Context&);

  // out (rows, channels): row i = x row index[i], zeros for -1; and its transpose: dx row index[i] += dout row i.
  void (*gather_rows)(int64_t rows, int64_t channels, const void* x, const int32_t* index, void* out, Context&);
  void (*scatter_add_rows)(int64_t rows, int64_t channels, const void* dout, const int32_t* index, void* dx, Context&);

  // Table rows as a score bias: out[h, i] = table[index[i], h], i < count; zero for index -1. Backward: dtable += ...
  void (*table_bias)(int64_t count, int64_t heads, const void* table, const int32_t* index, void* out, Context&);
  void (*table_bias_backward)(int64_t count, int64_t heads, const void* dout, const int32_t* index, void* dtable, Context&);

  void (*patches)(const PatchesArgs&, const void* x, void* out, Context&);
  void (*patches_backward)(const PatchesArgs&, const void* dout, void* dx, Context&);  // dx is written

  void (*add)(int64_t count, const void* x, const void* y, void* out, Context&);  // out may be x or y
  void (*scale_add)(int64_t count, double alpha, const void* x, void* y, Context&);  // y += alpha · x
  // out row r = scale[r / rows_per_scale] · x row r (+ residual row r when not null): stochastic depth and its backward.
  void (*scale_rows)(int64_t rows, int64_t channels, int64_t rows_per_scale, const void* scale, const void* x,
                     const void* residual, void* out, Context&);
  // out = x · gamma per channel (+ residual): LayerScale. Backward: dx = dy · gamma, dgamma += column sums of dy · x.
  void (*scale_columns)(int64_t rows, int64_t channels, const void* gamma, const void* x, const void* residual, void* out,
                        Context&);
  void (*scale_columns_backward)(int64_t rows, int64_t channels, const void* gamma, const void* x, const void* dy, void* dx,
                                 void* dgamma, Context&);
  void (*column_sum)(int64_t rows, int64_t channels, int64_t stride, const void* x, void* sum, Context&);  // sum (channels) +=
  // out (B, C) = mean of tokens [begin, N) of x (B, N, C); backward writes all of dx (zeros before begin).
  void (*mean_tokens)(int64_t batch, int64_t tokens, int64_t begin, int64_t channels, const void* x, void* out, Context&);
  void (*mean_tokens_backward)(int64_t batch, int64_t tokens, int64_t begin, int64_t channels, const void* dout, void* dx,
                               Context&);
  void (*dropout)(const DropoutArgs&, Context&);
  void (*depthwise3x3)(const Depthwise3x3Args&, Context&);
  void (*depthwise3x3_backward)(const Depthwise3x3BackwardArgs&, Context&);
  // out (B, out_height, out_width, C) = the bins' means; backward: dx, which has the strides of x, is written.
  void (*adaptive_pool)(const AdaptivePoolArgs&, const void* x, void* out, Context&);
  void (*adaptive_pool_backward)(const AdaptivePoolArgs&, const void* dout, void* dx, Context&);
  // y = exp(min(x, limit)), a temperature; backward: dx += dy · y where x <= limit. `limit` is meant in the table's precision.
  void (*clamped_exp)(int64_t count, double limit, const void* x, void* y, Context&);
  void (*clamped_exp_backward)(int64_t count, double limit, const void* x, const void* y, const void* dy, void* dx, Context&);
  // y = scale / (1 + exp(-x)), a bounded bias; backward: dx = dy · scale · s (1 - s), which may be dy.
  void (*scaled_sigmoid)(int64_t count, double scale, const void* x, void* y, Context&);
  void (*scaled_sigmoid_backward)(int64_t count, double scale, const void* x, const void* dy, void* dx, Context&);

  void (*adamw)(const AdamWArgs&, Context&);
  double (*sum_of_squares)(int64_t count, const void* x, Context&);  // in double; NaN or infinity where x has one
};

// Tables of this machine. `reference` computes in f64 and `reference.dual` on dual numbers: oracles, never fast.
// "auto" is the fastest f32 table that the processor runs. Throws Error listing the names for an unknown or unrunnable one.
const KernelTable& kernel_table(std::string_view name);
std::vector<std::string_view> kernel_table_names();  // all that this machine runs, oracles first; without "auto"

}  // namespace fovea
