#include "kernels/cpu/jit_attention.h"

#if defined(__x86_64__)

#include <xbyak/xbyak_util.h>

#include <array>
#include <atomic>
#include <cstddef>

#include "kernels/cpu/jit_code.h"

namespace fovea {

namespace {

constexpr size_t kCodeBytes = 16384;

// 2^f = 1 + f (c1 + f (c2 + ...)) on [0, 1]: minimax in relative error, 2e-9.
alignas(64) constexpr float kPowers[] = {1.0f,
                                         0.6931470444432694f,
                                         0.24022930555281125f,
                                         0.055485280616475646f,
                                         0.009675451570602248f,
                                         0.0012467846417011097f,
                                         0.00021612915041477332f};
constexpr int kDegree = 6;

class AttentionCode : public JitCode {
 public:
  AttentionCode(int rows, int vectors, int channels)
      : JitCode(kCodeBytes, "attention_tile_" + std::to_string(rows) + "x" + std::to_string(vectors)), rows_(rows), vectors_(vectors), channels_(channels) {
    for (const Xbyak::Reg64& r : kSaved) push(r);
    Xbyak::Label unsafe, done;
    scores();
    finish_scores();
    check_range(unsafe);
    powers();
    values();
    mov(rax, 1);
    jmp(done, T_NEAR);
    L(unsafe);
    xor_(rax, rax);
    L(done);
    vzeroupper();
    for (size_t i = kSaved.size(); i-- > 0;) pop(kSaved[i]);
    ret();
  }

 private:
  Xbyak::Zmm score(int i, int j) const { return Xbyak::Zmm(i * vectors_ + j); }
  Xbyak::Zmm spare(int j) const { return Xbyak::Zmm(28 + j); }
  Xbyak::Address field(size_t offset) { return ptr[tile_ + static_cast<int>(offset)]; }
  Xbyak::Address field_b(size_t offset) { return zword_b[tile_ + static_cast<int>(offset)]; }
  int panel_bytes() const { return 64 * vectors_; }

  void scores() {
    const Xbyak::Reg64 &keys = rsi, &at = rdx;
    mov(rax, field(offsetof(AttentionTile, q)));
    for (int i = 0; i < rows_; ++i) mov(q_[static_cast<size_t>(i)], ptr[rax + 8 * i]);
    mov(keys, field(offsetof(AttentionTile, keys_t)));
    for (int i = 0; i < rows_; ++i)
      for (int j = 0; j < vectors_; ++j) vpxord(score(i, j), score(i, j), score(i, j));
    xor_(at, at);
    Xbyak::Label loop;
    align(32);
    L(loop);
    for (int u = 0; u < 4; ++u) {
      for (int j = 0; j < vectors_; ++j) vmovups(spare(j), ptr[keys + u * panel_bytes() + 64 * j]);
      for (int i = 0; i < rows_; ++i) {
        const Xbyak::Address q = zword_b[q_[static_cast<size_t>(i)] + at + 4 * u];
        for (int j = 0; j < vectors_; ++j) vfmadd231ps(score(i, j), spare(j), q);
      }
    }
    add(keys, 4 * panel_bytes());
    add(at, 16);
    cmp(at, 64 * channels_);
    jl(loop, T_NEAR);
  }

  void finish_scores() {
    const Xbyak::Reg64 &bias = rsi, &stride = rdx, &masks = rcx, &mask = rax;
    Xbyak::Label none;
    mov(bias, field(offsetof(AttentionTile, bias)));
    mov(stride, field(offsetof(AttentionTile, bias_stride)));
    vbroadcastss(spare(0), field(offsetof(AttentionTile, scale)));
    for (int i = 0; i < rows_; ++i) {
      for (int j = 0; j < vectors_; ++j) vfmadd213ps(score(i, j), spare(0), ptr[bias + 64 * j]);
      if (i + 1 < rows_) add(bias, stride);
    }
    mov(masks, field(offsetof(AttentionTile, penalised)));
    test(masks, masks);
    jz(none, T_NEAR);
    vbroadcastss(spare(0), field(offsetof(AttentionTile, penalty)));
    for (int i = 0; i < rows_; ++i) {
      mov(mask, ptr[masks + 8 * i]);
      for (int j = 0; j < vectors_; ++j) {
        kmovw(k1, mask.cvt32());
        vaddps(score(i, j) | k1, score(i, j), spare(0));
        if (j + 1 < vectors_) shr(mask, 16);
      }
    }
    L(none);
  }

  void check_range(Xbyak::Label& unsafe) {
    const Xbyak::Zmm &most = spare(0), &up = spare(1), &low = spare(2);
    for (int i = 0; i < rows_; ++i) {
      const Xbyak::Zmm& to = vectors_ == 1 ? score(i, 0) : most;
      if (vectors_ > 1) vmaxps(most, score(i, 0), score(i, 1));
      for (int j = 2; j < vectors_; ++j) vmaxps(most, most, score(i, j));
      if (i == 0) {
        vmovaps(up, to);
        vmovaps(low, to);
      } else {
        vmaxps(up, up, to);
        vminps(low, low, to);
      }
    }
    vcmpps(k1, up, field_b(offsetof(AttentionTile, greatest)), 6);  // not less or equal
    kortestw(k1, k1);
    jnz(unsafe, T_NEAR);
    vcmpps(k1, low, field_b(offsetof(AttentionTile, least)), 13);  // greater or equal
    kortestw(k1, k1);
    jz(unsafe, T_NEAR);
  }

  // score = 2^floor(score) · 2^(score - floor(score)).
  void powers() {
    const Xbyak::Reg64 &table = rsi, &p = rdx, &sum = rcx;
    mov(table, reinterpret_cast<size_t>(kPowers));
    mov(p, field(offsetof(AttentionTile, p)));
    mov(sum, field(offsetof(AttentionTile, sum)));
    for (int i = 0; i < rows_; ++i) {
      for (int j = 0; j < vectors_; ++j) {
        const Xbyak::Zmm &f = spare(2 * (j % 2)), &power = spare(2 * (j % 2) + 1);
        vreduceps(f, score(i, j), 1);
        vbroadcastss(power, ptr[table + 4 * kDegree]);
        for (int k = kDegree - 1; k >= 0; --k) vfmadd213ps(power, f, zword_b[table + 4 * k]);
        vscalefps(score(i, j), power, score(i, j));
        vmovups(ptr[p + i * panel_bytes() + 64 * j], score(i, j));
      }
      if (vectors_ == 1) {
        vaddps(spare(0), score(i, 0), ptr[sum + 64 * i]);
      } else {
        vaddps(spare(0), score(i, 0), score(i, 1));
        if (vectors_ > 2) vaddps(spare(1), score(i, 2), vectors_ == 4 ? Xbyak::Operand(score(i, 3)) : Xbyak::Operand(score(i, 2)));
        if (vectors_ == 3) vmovaps(spare(1), score(i, 2));
        if (vectors_ > 2) vaddps(spare(0), spare(0), spare(1));
        vaddps(spare(0), spare(0), ptr[sum + 64 * i]);
      }
      vmovups(ptr[sum + 64 * i], spare(0));
    }
  }

  void values() {
    const Xbyak::Reg64 &out = rsi, &stride = rdx, &p = rcx, &v = r8, &end = r9, &row = rax;
    const auto acc = [&](int i, int j) { return Xbyak::Zmm(i * channels_ + j); };
    mov(out, field(offsetof(AttentionTile, out)));
    mov(stride, field(offsetof(AttentionTile, out_stride)));
    for (int i = 0; i < rows_; ++i) {
      for (int j = 0; j < channels_; ++j) vmovups(acc(i, j), ptr[out + 64 * j]);
      if (i + 1 < rows_) add(out, stride);
    }
    mov(p, field(offsetof(AttentionTile, p)));
    mov(v, field(offsetof(AttentionTile, v)));
    mov(end, field(offsetof(AttentionTile, keys)));
    lea(end, ptr[v + end * 8]);
    Xbyak::Label loop;
    align(32);
    L(loop);
    mov(row, ptr[v]);
    for (int j = 0; j < channels_; ++j) vmovups(spare(j), ptr[row + 64 * j]);
    for (int i = 0; i < rows_; ++i)
      for (int j = 0; j < channels_; ++j) vfmadd231ps(acc(i, j), spare(j), zword_b[p + i * panel_bytes()]);
    add(p, 4);
    add(v, 8);
    cmp(v, end);
    jl(loop, T_NEAR);
    mov(out, field(offsetof(AttentionTile, out)));
    for (int i = 0; i < rows_; ++i) {
      for (int j = 0; j < channels_; ++j) vmovups(ptr[out + 64 * j], acc(i, j));
      if (i + 1 < rows_) add(out, stride);
    }
  }

  const int rows_, vectors_, channels_;  // channels: vectors of head_dim
  const Xbyak::Reg64 tile_ = rdi;
  const std::array<Xbyak::Reg64, 7> q_ = {rbx, rbp, r12, r13, r14, r15, r8};
  const std::array<Xbyak::Reg64, 6> kSaved = {rbx, rbp, r12, r13, r14, r15};
};

}  // namespace

AttentionTileKernel jit_attention_tile(int rows, int vectors, int64_t head_dim) {
  static const bool runs = [] {
    const Xbyak::util::Cpu cpu;
    return cpu.has(Xbyak::util::Cpu::tAVX512F) && cpu.has(Xbyak::util::Cpu::tAVX512DQ);
  }();
  if (!runs || rows < 1 || rows > kAttentionTileRows || vectors < 1 || vectors > kAttentionTileVectors || head_dim < 16 || head_dim > 64 ||
      head_dim % 16 != 0)
    return nullptr;
  const int channels = static_cast<int>(head_dim / 16);
  static std::atomic<AttentionTileKernel> kernels[kAttentionTileRows][kAttentionTileVectors][4];
  std::atomic<AttentionTileKernel>& slot = kernels[rows - 1][vectors - 1][channels - 1];
  const AttentionTileKernel known = slot.load(std::memory_order_acquire);
  if (known != nullptr || code_is_refused()) return known;
  const JitFunction code = keep_code([&] { return reinterpret_cast<JitFunction>(slot.load(std::memory_order_acquire)); },
                                  [&] { return std::make_unique<AttentionCode>(rows, vectors, channels); });
  const auto kernel = reinterpret_cast<AttentionTileKernel>(code);
  if (kernel != nullptr) slot.store(kernel, std::memory_order_release);
  return kernel;
}

}  // namespace fovea

#else

namespace fovea {

AttentionTileKernel jit_attention_tile(int, int, int64_t) { return nullptr; }

}  // namespace fovea

#endif
