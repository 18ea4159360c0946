// The products by which the matrix product is judged.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace fovea {

struct GemmShape {
  std::string_view name;
  int64_t m, k, n;
};

// The 24 distinct products of one forward of swin_tiny_patch4_window7_224 and vit_small_patch16_224 with `batch` images:
// Swin's patch embedding, qkv, proj, fc1 and fc2 of its four stages, its three patch mergings, and the four of a ViT block
// (whose patch embedding is the size of Swin's second merging).
std::vector<GemmShape> bench_gemm_shapes(int64_t batch = 1);

}  // namespace fovea
