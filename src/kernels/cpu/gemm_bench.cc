#include "kernels/cpu/gemm_bench.h"

namespace fovea {

std::vector<GemmShape> bench_gemm_shapes(int64_t batch) {
  std::vector<GemmShape> shapes = {
      {"swin_t patch_embed", 3136, 48, 96},
      {"swin_t stage1 qkv", 3136, 96, 288},   {"swin_t stage1 proj", 3136, 96, 96},
      {"swin_t stage1 fc1", 3136, 96, 384},   {"swin_t stage1 fc2", 3136, 384, 96},
      {"swin_t merge1", 784, 384, 192},
      {"swin_t stage2 qkv", 784, 192, 576},   {"swin_t stage2 proj", 784, 192, 192},
      {"swin_t stage2 fc1", 784, 192, 768},   {"swin_t stage2 fc2", 784, 768, 192},
      {"swin_t merge2", 196, 768, 384},
      {"swin_t stage3 qkv", 196, 384, 1152},  {"swin_t stage3 proj", 196, 384, 384},
      {"swin_t stage3 fc1", 196, 384, 1536},  {"swin_t stage3 fc2", 196, 1536, 384},
      {"swin_t merge3", 49, 1536, 768},
      {"swin_t stage4 qkv", 49, 768, 2304},   {"swin_t stage4 proj", 49, 768, 768},
      {"swin_t stage4 fc1", 49, 768, 3072},   {"swin_t stage4 fc2", 49, 3072, 768},
      {"vit_s qkv", 197, 384, 1152},          {"vit_s proj", 197, 384, 384},
      {"vit_s fc1", 197, 384, 1536},          {"vit_s fc2", 197, 1536, 384},
  };
  for (GemmShape& s : shapes) s.m *= batch;
  return shapes;
}

}  // namespace fovea
