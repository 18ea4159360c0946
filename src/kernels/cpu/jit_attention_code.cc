#include "kernels/cpu/jit_attention_code.h"

#if defined(__x86_64__)

#include <xbyak/xbyak_util.h>

namespace fovea {

namespace {

// 2^f = 1 + f (c1 + f (c2 + ...)) on [0, 1]: minimax in relative error, 2e-9.
alignas(64) constexpr float kPowers[] = {1.0f,
                                         0.6931470444432694f,
                                         0.24022930555281125f,
                                         0.055485280616475646f,
                                         0.009675451570602248f,
                                         0.0012467846417011097f,
                                         0.00021612915041477332f};
// The same, 3e-6.
alignas(64) constexpr float kShortPowers[] = {1.0000026226043701f, 0.6930038332939148f, 0.2414427548646927f, 0.052011460065841675f,
                                              0.013534167781472206f};
constexpr int kDegree = 6, kShortDegree = 4;

}  // namespace

bool attention_code_runs() {
  static const bool runs = [] {
    const Xbyak::util::Cpu cpu;
    return cpu.has(Xbyak::util::Cpu::tAVX512F) && cpu.has(Xbyak::util::Cpu::tAVX512DQ);
  }();
  return runs;
}

bool bf16_attention_code_runs() {
  static const bool runs = attention_code_runs() && Xbyak::util::Cpu().has(Xbyak::util::Cpu::tAVX512_BF16);
  return runs;
}

bool byte_attention_code_runs() {
  static const bool runs = bf16_attention_code_runs() && Xbyak::util::Cpu().has(Xbyak::util::Cpu::tAVX512_VNNI);
  return runs;
}

void AttentionTileCode::load_powers(const Xbyak::Reg64& table) {
  mov(table, reinterpret_cast<size_t>(rounds() ? kShortPowers : kPowers));
  const int degree = rounds() ? kShortDegree : kDegree;
  for (int k = 0; k < 4; ++k) vbroadcastss(right(k), ptr[table + 4 * (degree - k)]);
}

// x = 2^floor(x) · 2^(x - floor(x)).
void AttentionTileCode::power(const Xbyak::Reg64& table, const Xbyak::Zmm& x, int turn) {
  const Xbyak::Zmm f = spare(2 * (turn % 2)), p = spare(2 * (turn % 2) + 1);
  vreduceps(f, x, 1);
  vmovaps(p, right(0));
  for (int k = 1; k < 4; ++k) vfmadd213ps(p, f, right(k));
  for (int k = (rounds() ? kShortDegree : kDegree) - 4; k >= 0; --k) vfmadd213ps(p, f, zword_b[table + 4 * k]);
  vscalefps(x, p, x);
}

}  // namespace fovea

#endif
