#include "kernels/cpu/tables.h"

#include "kernels/cpu/isa.h"

namespace fovea {

namespace {

KernelTable make_table(std::string_view name, Isa isa) {
  KernelTable t{};
  t.name = name;
  t.dtype = DType::kF32;
  fill_gemm(t, isa);
  fill_layer_norm(t, isa);
  fill_activation(t, isa);
  fill_cosine(t, isa);
  fill_grouped_attention(t, isa);
  fill_feature_attention(t, isa);
  fill_clusters(t, isa);
  fill_cross_entropy(t, isa);
  fill_rows(t, isa);
  fill_patches(t, isa);
  fill_pooling(t, isa);
  fill_elementwise(t, isa);
  fill_depthwise(t, isa);
  fill_optimizer(t, isa);
  return t;
}

bool runs_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}

bool runs_avx512() {
  return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

}  // namespace

std::vector<const KernelTable*> cpu_tables() {
  static const std::vector<KernelTable> tables = [] {
    std::vector<KernelTable> t = {make_table("cpu.baseline", Isa::kBaseline)};
    if (runs_avx2()) t.push_back(make_table("cpu.avx2", Isa::kAvx2));
    if (runs_avx512()) t.push_back(make_table("cpu.avx512", Isa::kAvx512));
    return t;
  }();
  std::vector<const KernelTable*> pointers;
  for (const KernelTable& t : tables) pointers.push_back(&t);
  return pointers;
}

}  // namespace fovea
