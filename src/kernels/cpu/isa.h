// Instruction sets of the CPU tables. Each kernel file is compiled once per set by Highway's foreach_target and puts its
// functions into a table through one fill function. A kernel file looks like this:
//
//   #undef HWY_TARGET_INCLUDE
//   #define HWY_TARGET_INCLUDE "kernels/cpu/layer_norm.cc"
//   #include "kernels/cpu/isa.h"
//   #include <hwy/foreach_target.h>
//   #include <hwy/highway.h>
//   HWY_BEFORE_NAMESPACE();
//   namespace fovea::HWY_NAMESPACE::layer_norm_file {
//   ... void fill(KernelTable& t) { t.layer_norm = layer_norm; ... }
//   }
//   HWY_AFTER_NAMESPACE();
//   #if HWY_ONCE
//   namespace fovea { void fill_layer_norm(KernelTable& t, Isa isa) { FOVEA_FILL(t, isa, layer_norm_file); } }
//   #endif
//
// The inner namespace keeps the names of different kernel files apart.
#pragma once

// The three sets below and no others; must be seen before any Highway header.
#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSE4 | HWY_AVX3_DL)
#endif
// Without it the compiler's plain x86-64 is the baseline and every kernel is compiled once more, as scalar code.
#ifndef HWY_BASELINE_TARGETS
#define HWY_BASELINE_TARGETS HWY_SSSE3
#endif

#include <vector>

#include "kernels/kernel_table.h"

namespace fovea {

enum class Isa : uint8_t { kBaseline, kAvx2, kAvx512 };  // SSSE3; AVX2 + FMA; AVX-512 F, BW, CD, DQ, VL

void fill_gemm(KernelTable&, Isa);               // gemm, gemm_packed_bytes, gemm_pack
void fill_layer_norm(KernelTable&, Isa);         // layer_norm, layer_norm_backward
void fill_activation(KernelTable&, Isa);         // activation, activation_backward
void fill_cosine(KernelTable&, Isa);             // unit_rows, clamped_exp, scaled_sigmoid and their backwards
void fill_grouped_attention(KernelTable&, Isa);  // grouped_attention, grouped_attention_backward
void fill_feature_attention(KernelTable&, Isa);  // feature_attention, feature_attention_backward, feature_attention_state
void fill_clusters(KernelTable&, Isa);           // nearest_clusters, top_rows, cluster_distance(_backward)
void fill_cross_entropy(KernelTable&, Isa);      // cross_entropy, cross_entropy_backward
void fill_rows(KernelTable&, Isa);               // gather_rows, scatter_add_rows, table_bias(_backward), mean_tokens(_backward)
void fill_patches(KernelTable&, Isa);            // patches, patches_backward
void fill_pooling(KernelTable&, Isa);            // adaptive_pool, adaptive_pool_backward
void fill_elementwise(KernelTable&, Isa);        // add, scale_add, scale_rows, scale_columns(_backward), column_sum, dropout
void fill_depthwise(KernelTable&, Isa);          // depthwise3x3, depthwise3x3_backward
void fill_optimizer(KernelTable&, Isa);          // adamw, sum_of_squares

}  // namespace fovea

#define FOVEA_FILL(table, isa, space)                              \
  do {                                                             \
    switch (isa) {                                                 \
      case ::fovea::Isa::kBaseline: N_SSSE3::space::fill(table); break; \
      case ::fovea::Isa::kAvx2: N_AVX2::space::fill(table); break;      \
      case ::fovea::Isa::kAvx512: N_AVX3::space::fill(table); break;    \
    }                                                              \
  } while (false)
