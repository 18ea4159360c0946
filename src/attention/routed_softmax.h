// Softmax attention among tokens of the same cluster (Routing Transformer, Roy et al. 2020, 2003.05997), from projected q, k and v
// to the heads' outputs: centroids, choices, groups, and the centroids' own learning.
#pragma once

#include "attention/routing_groups.h"
#include "core/param_store.h"
#include "core/tape.h"
#include "kernels/kernel_table.h"

namespace fovea {

struct RoutedConfig {
  int64_t heads = 1, head_dim = 1, clusters = 1;
  int64_t window = 0;             // queries (and keys) of a cluster; 0: rows / clusters, rounded up
  int64_t key_window = 0;         // keys of a cluster where they come from a second input; 0: likewise
  int64_t memory = 0;             // learned keys and values of each cluster
  double commitment = 1e-4;       // weight of the mean square distance from the centroids, added to the loss
  double decay = 0.999;           // of the centroids: mean <- decay mean + (1 - decay) new mean

  // Who joins a cluster. Balanced: its `window` most similar queries and keys, so that a token may be in several clusters or in
  // none; whether it is depends on all the tokens. Nearest: every token joins its nearest cluster, which looks at no other
  // token, and meets the cluster's tokens around its own position (see build_routing_groups). Auto: nearest where the order is
  // causal, else balanced.
  enum class Membership : uint8_t { kAuto, kBalanced, kNearest } membership = Membership::kAuto;

  // Own: queries and keys choose apart. Unit queries (shared q and k): keys are the queries at length one, they choose as one, and
  // a token meets itself only where there is nobody else. As queries: keys of their own that go where the queries go.
  enum class Keys : uint8_t { kOwn, kUnitQueries, kAsQueries } keys = Keys::kOwn;

  // What official code does besides, which fixtures pin.
  double scale = 0;               // 0: 1 / sqrt(head_dim)
  double self_penalty = -5e4;     // of a token's score with itself, with unit queries
  double mean_epsilon = 1e-5;     // outputs of a token are summed and divided by their number plus this
  bool unit = true;               // clusters see rows at length one
  bool rank_causal = false;
  bool padding_is_routed = false; // padded tokens take places in clusters, and rows without any key give a plain mean
  bool distance_per_side = false; // a mean for the queries and one for the keys, added
};

struct RoutedInputs {
  int64_t batch = 0, queries = 0, keys = 0;       // rows of q, and of k and v
  int64_t query_prefix = 0, key_prefix = 0;       // rows that meet everybody
  ConstHeadsView q, k, v;                         // k has no data with unit queries
  bool causal = false;
  const uint8_t* query_padding = nullptr;         // (B, queries) 1 = takes no part, or null
  const uint8_t* key_padding = nullptr;           // (B, keys)
};

class RoutedSoftmax {
 public:
  // Parameters scope/{mem_key, mem_value} (H, clusters, memory, D), where there is memory; buffers scope/means (H, clusters, D) and
  // scope/means_ready (1): whether training has put the means among its tokens yet.
  RoutedSoftmax(const Scope& scope, const RoutedConfig& config);

  // out: a row of D for each query and head. Recorded when there is a tape.
  void forward(const RoutedInputs& in, const HeadsView& out, Tape* tape, Context& ctx) const;
  // `out` as the forward left it; dq, dk (unless unit queries) and dv are written.
  void backward(const ConstHeadsView& out, const ConstHeadsView& dout, const HeadsView& dq, const HeadsView& dk, const HeadsView& dv,
                Tape& tape, Context& ctx) const;
  void end_step(Context& ctx);

  // The centroids of this step's tokens (H, clusters, D): the mean over its training forwards.
  std::vector<double> new_means(Context& ctx) const;

  const RoutedConfig& config() const { return config_; }
  const Param& means() const { return *means_; }
  double pairs(int64_t queries, int64_t keys) const;  // of a head, for the cost
  double similarities(int64_t queries, int64_t keys) const;

 private:
  struct Record;
  struct Side;
  struct Gathered;
  void choose(const RoutedInputs& in, Record& r, Tape* tape, Context& ctx) const;
  void learn(const Record& r, Context& ctx) const;
  void sample(const Record& r, Gathered& gathered, Context& ctx) const;
  void place_means(const Gathered& gathered, Context& ctx);
  void memory_rows(Record& r, Tape* tape, Context& ctx) const;
  ClusterArgs cluster_args(const Record& r, const Side& side) const;
  double distance_scale(const Record& r, const Side& side) const;
  const TokenGroups& groups(const Record& r, Context& ctx) const;
  GroupedAttentionArgs kernel_args(const Record& r, const TokenGroups& groups) const;

  RoutedConfig config_;
  Param *means_, *means_ready_;
  Param *mem_key_ = nullptr, *mem_value_ = nullptr;
};

}  // namespace fovea
