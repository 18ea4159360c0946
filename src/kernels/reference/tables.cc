#include "kernels/reference/tables.h"

#include "kernels/reference/activation.h"
#include "kernels/reference/clusters.h"
#include "kernels/reference/cosine.h"
#include "kernels/reference/cross_entropy.h"
#include "kernels/reference/depthwise.h"
#include "kernels/reference/elementwise.h"
#include "kernels/reference/feature_attention.h"
#include "kernels/reference/gemm.h"
#include "kernels/reference/grouped_attention.h"
#include "kernels/reference/layer_norm.h"
#include "kernels/reference/patches.h"
#include "kernels/reference/pooling.h"
#include "kernels/reference/rows.h"

namespace fovea {

namespace {

template <class T>
KernelTable make_table(std::string_view name) {
  KernelTable t{};
  t.name = name;
  t.dtype = dtype_of<T>;
  t.gemm = reference::gemm<T>;
  t.gemm_packed_bytes = reference::gemm_packed_bytes<T>;
  t.gemm_pack = reference::gemm_pack<T>;
  t.layer_norm = reference::layer_norm<T>;
  t.layer_norm_backward = reference::layer_norm_backward<T>;
  t.unit_rows = reference::unit_rows<T>;
  t.unit_rows_backward = reference::unit_rows_backward<T>;
  t.activation = reference::activation<T>;
  t.activation_backward = reference::activation_backward<T>;
  t.gate = reference::gate<T>;
  t.gate_backward = reference::gate_backward<T>;
  t.grouped_attention = reference::grouped_attention<T>;
  t.grouped_attention_backward = reference::grouped_attention_backward<T>;
  t.feature_attention = reference::feature_attention<T>;
  t.feature_attention_backward = reference::feature_attention_backward<T>;
  t.feature_attention_state = [](const FeatureAttentionArgs&) -> int64_t { return 0; };
  t.nearest_clusters = reference::nearest_clusters<T>;
  t.top_rows = reference::top_rows<T>;
  t.cluster_distance = reference::cluster_distance<T>;
  t.cluster_distance_backward = reference::cluster_distance_backward<T>;
  t.cross_entropy = reference::cross_entropy<T>;
  t.cross_entropy_backward = reference::cross_entropy_backward<T>;
  t.gather_rows = reference::gather_rows<T>;
  t.scatter_add_rows = reference::scatter_add_rows<T>;
  t.table_bias = reference::table_bias<T>;
  t.table_bias_backward = reference::table_bias_backward<T>;
  t.patches = reference::patches<T>;
  t.patches_backward = reference::patches_backward<T>;
  t.add = reference::add<T>;
  t.scale_add = reference::scale_add<T>;
  t.scale_rows = reference::scale_rows<T>;
  t.scale_columns = reference::scale_columns<T>;
  t.scale_columns_backward = reference::scale_columns_backward<T>;
  t.column_sum = reference::column_sum<T>;
  t.mean_tokens = reference::mean_tokens<T>;
  t.mean_tokens_backward = reference::mean_tokens_backward<T>;
  t.dropout = reference::dropout<T>;
  t.depthwise3x3 = reference::depthwise3x3<T>;
  t.depthwise3x3_backward = reference::depthwise3x3_backward<T>;
  t.adaptive_pool = reference::adaptive_pool<T>;
  t.adaptive_pool_backward = reference::adaptive_pool_backward<T>;
  t.clamped_exp = reference::clamped_exp<T>;
  t.clamped_exp_backward = reference::clamped_exp_backward<T>;
  t.scaled_sigmoid = reference::scaled_sigmoid<T>;
  t.scaled_sigmoid_backward = reference::scaled_sigmoid_backward<T>;
  t.adamw = reference::adamw<T>;
  t.sum_of_squares = reference::sum_of_squares<T>;
  return t;
}

}  // namespace

const KernelTable& reference_table() {
  static const KernelTable table = make_table<double>("reference");
  return table;
}

const KernelTable& reference_dual_table() {
  static const KernelTable table = make_table<Dual>("reference.dual");
  return table;
}

}  // namespace fovea
