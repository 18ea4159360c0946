#include "kernels/cpu/jit_attention.h"

#if defined(__x86_64__)

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <memory>
#include <string>

#include "kernels/cpu/jit_attention_code.h"

namespace fovea {

namespace {

constexpr int64_t kMostHeadDim = 128;
constexpr int row_bytes(AttentionElement element) { return kAttentionRowKeys * (element == AttentionElement::kFloat ? 4 : 2); }

class ScoresCode : public AttentionTileCode {
 public:
  ScoresCode(AttentionElement element, int rows, int vectors) : AttentionTileCode(32768, "attention_scores", rows, vectors, element) {
    for (const Xbyak::Reg64& r : kSaved) push(r);
    Xbyak::Label unsafe, done;
    scores();
    finish_scores();
    check_range(unsafe);
    powers();
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
  Xbyak::Address field(size_t offset) { return ptr[tile_ + static_cast<int>(offset)]; }
  Xbyak::Address field_b(size_t offset) { return zword_b[tile_ + static_cast<int>(offset)]; }

  void scores() {
    const Xbyak::Reg64 &keys = rsi, &at = rdx, &end = rcx;
    mov(rax, field(offsetof(AttentionScores, q)));
    for (int i = 0; i < rows(); ++i) mov(q_[static_cast<size_t>(i)], ptr[rax + 8 * i]);
    mov(keys, field(offsetof(AttentionScores, keys_t)));
    mov(end, field(offsetof(AttentionScores, head_dim)));
    shl(end, 2);
    if (bytes()) {
      mov(at, field(offsetof(AttentionScores, start)));
      for (int j = 0; j < vectors(); ++j) vmovups(sum(0, j), ptr[at + 64 * j]);
      for (int i = 1; i < rows(); ++i)
        for (int j = 0; j < vectors(); ++j) vmovaps(sum(i, j), sum(0, j));
    } else {
      clear_sums();
    }
    xor_(at, at);
    Xbyak::Label loop;
    align(32);
    L(loop);
    for (int u = 0; u < 4; ++u)
      multiply([&](int i) { return ptr[q_[static_cast<size_t>(i)] + at + 4 * u]; },
               [&](int j) { return ptr[keys + u * panel_bytes() + 64 * j]; });
    add(keys, 4 * panel_bytes());
    add(at, 16);
    cmp(at, end);
    jl(loop, T_NEAR);
  }

  void finish_scores() {
    const Xbyak::Reg64 &bias = rsi, &stride = rdx, &masks = rcx, &mask = rax;
    Xbyak::Label none;
    mov(bias, field(offsetof(AttentionScores, bias)));
    mov(stride, field(offsetof(AttentionScores, bias_stride)));
    if (bytes()) {
      mov(masks, field(offsetof(AttentionScores, key_scale)));
      for (int j = 0; j < vectors(); ++j) vmovups(right(j), ptr[masks + 64 * j]);
      mov(masks, field(offsetof(AttentionScores, row_scale)));
    } else {
      vbroadcastss(spare(0), field(offsetof(AttentionScores, scale)));
    }
    for_rows(bias, stride, [&](int i, int j, const Xbyak::Address& at) {
      const Xbyak::Zmm factor = spare(bytes() ? i % 4 : 0);
      if (bytes()) {
        if (j == 0) vbroadcastss(factor, ptr[masks + 4 * i]);
        vcvtdq2ps(sum(i, j), sum(i, j));
        vmulps(sum(i, j), sum(i, j), right(j));
      }
      vfmadd213ps(sum(i, j), factor, at);
    });
    mov(masks, field(offsetof(AttentionScores, penalised)));
    test(masks, masks);
    jz(none, T_NEAR);
    vbroadcastss(spare(0), field(offsetof(AttentionScores, penalty)));
    for (int i = 0; i < rows(); ++i) {
      mov(mask, ptr[masks + 8 * i]);
      for (int j = 0; j < vectors(); ++j) {
        kmovw(k1, mask.cvt32());
        vaddps(sum(i, j) | k1, sum(i, j), spare(0));
        if (j + 1 < vectors()) shr(mask, 16);
      }
    }
    L(none);
  }

  void check_range(Xbyak::Label& unsafe) {
    const Xbyak::Zmm most = spare(0), up = spare(1), low = spare(2);
    for (int i = 0; i < rows(); ++i) {
      const Xbyak::Zmm to = vectors() == 1 ? sum(i, 0) : most;
      if (vectors() > 1) vmaxps(most, sum(i, 0), sum(i, 1));
      for (int j = 2; j < vectors(); ++j) vmaxps(most, most, sum(i, j));
      if (i == 0) {
        vmovaps(up, to);
        vmovaps(low, to);
      } else {
        vmaxps(up, up, to);
        vminps(low, low, to);
      }
    }
    vcmpps(k1, up, field_b(offsetof(AttentionScores, greatest)), 6);  // not less or equal
    kortestw(k1, k1);
    jnz(unsafe, T_NEAR);
    vcmpps(k1, low, field_b(offsetof(AttentionScores, least)), 13);  // greater or equal
    kortestw(k1, k1);
    jz(unsafe, T_NEAR);
  }

  void powers() {
    const Xbyak::Reg64 &table = rsi, &p = rdx, &total = rcx;
    load_powers(table);
    mov(p, field(offsetof(AttentionScores, p)));
    mov(total, field(offsetof(AttentionScores, sum)));
    for (int i = 0; i < rows(); ++i) {
      for (int j = 0; j < vectors(); ++j) {
        power(table, sum(i, j), j);
        if (!rounds()) vmovups(ptr[p + i * row_bytes(element()) + 64 * j], sum(i, j));
      }
      for (int j = 0; j < vectors() && rounds(); j += 2) keep_rounded(ptr[p + i * row_bytes(element()) + 32 * j], i, j);
      const Xbyak::Zmm t = spare(0);
      vaddps(t, sum(i, 0), ptr[total + 64 * i]);
      if (vectors() == 2) vaddps(t, t, sum(i, 1));
      if (vectors() > 2) {
        vaddps(spare(1), sum(i, 1), sum(i, 2));
        if (vectors() == 4) vaddps(t, t, sum(i, 3));
        vaddps(t, t, spare(1));
      }
      vmovups(ptr[total + 64 * i], t);
    }
  }

  // Vector j of row i and the next, where there is one.
  void keep_rounded(const Xbyak::Address& to, int i, int j) {
    const Xbyak::Zmm t = spare(j / 2);
    if (j + 1 < vectors()) {
      vcvtne2ps2bf16(t, sum(i, j + 1), sum(i, j));
      vmovups(to, t);
    } else {
      vcvtneps2bf16(Xbyak::Ymm(t.getIdx()), sum(i, j));
      vmovups(to, Xbyak::Ymm(t.getIdx()));
    }
  }

  const Xbyak::Reg64 tile_ = rdi;
  const std::array<Xbyak::Reg64, kAttentionTileRows> q_ = {rbx, rbp, r12, r13, r14, r15};
  const std::array<Xbyak::Reg64, 6> kSaved = {rbx, rbp, r12, r13, r14, r15};
};

class ValuesCode : public AttentionTileCode {
 public:
  ValuesCode(AttentionElement element, int rows, int64_t head_dim)
      : AttentionTileCode(32768, "attention_values_" + std::to_string(head_dim), rows, 1, element), head_dim_(static_cast<int>(head_dim)) {
    if (head_dim_ % 16 != 0) {
      mov(eax, (1 << head_dim_ % 16) - 1);
      kmovw(k1, eax);
    }
    // As many channels at a time as the registers hold.
    const int most = std::min(kMostVectors, kSums / rows), pieces = (channels() + most - 1) / most;
    for (int piece = 0; piece < pieces; ++piece) {
      const int first = channels() * piece / pieces;
      set_shape(rows, channels() * (piece + 1) / pieces - first);
      add_products(first);
      hand_over(first);
    }
    vzeroupper();
    ret();
  }

 private:
  Xbyak::Address field(size_t offset) { return ptr[tile_ + static_cast<int>(offset)]; }
  int channels() const { return (head_dim_ + 15) / 16; }  // vectors

  void add_products(int first) {
    const Xbyak::Reg64 &p = rsi, &v = rdx, &count = rcx, &row = rax;
    mov(p, field(offsetof(AttentionValues, p)));
    mov(v, field(offsetof(AttentionValues, v)));
    mov(count, field(offsetof(AttentionValues, count)));
    clear_sums();
    Xbyak::Label loop;
    align(32);
    L(loop);
    if (!rounds()) mov(row, ptr[v]);
    multiply([&](int i) { return ptr[p + i * row_bytes(element())]; }, [&](int j) { return ptr[(rounds() ? v : row) + 64 * (first + j)]; });
    add(p, 4);
    add(v, rounds() ? 64 * channels() : 8);
    dec(count);
    jnz(loop, T_NEAR);
  }

  void hand_over(int first) {
    const Xbyak::Reg64 &out = rsi, &stride = rdx, &rows_of_out = rsi, &factor = rdx, &row = rcx;
    Xbyak::Label finished, done;
    mov(out, field(offsetof(AttentionValues, out)));
    test(out, out);
    jz(finished, T_NEAR);
    add(out, 64 * first);
    mov(stride, field(offsetof(AttentionValues, out_stride)));
    for_rows(out, stride, [&](int i, int j, const Xbyak::Address& at) {
      vaddps(sum(i, j), sum(i, j), at);
      vmovups(at, sum(i, j));
    });
    jmp(done, T_NEAR);
    L(finished);
    mov(rows_of_out, field(offsetof(AttentionValues, rows)));
    mov(factor, field(offsetof(AttentionValues, factor)));
    for (int i = 0; i < rows(); ++i) {
      mov(row, ptr[rows_of_out + 8 * i]);
      vbroadcastss(spare(0), ptr[factor + 4 * i]);
      for (int j = 0; j < vectors(); ++j) {
        vmulps(sum(i, j), sum(i, j), spare(0));
        store_finished(ptr[row + (rounds() ? 32 : 64) * (first + j)], sum(i, j), 16 * (first + j + 1) <= head_dim_);
      }
    }
    L(done);
  }

  void store_finished(const Xbyak::Address& at, const Xbyak::Zmm& x, bool whole) {
    const Xbyak::Ymm half(x.getIdx());
    if (rounds()) vcvtneps2bf16(half, x);
    if (whole)
      rounds() ? vmovups(at, half) : vmovups(at, x);
    else
      rounds() ? vmovdqu16(at | k1, half) : vmovups(at | k1, x);
  }

  const int head_dim_;
  const Xbyak::Reg64 tile_ = rdi;
};

bool runs(AttentionElement element) {
  switch (element) {
    case AttentionElement::kFloat: return attention_code_runs();
    case AttentionElement::kBf16Pair: return bf16_attention_code_runs();
    case AttentionElement::kByteFour: return byte_attention_code_runs();
  }
  return false;
}

constexpr size_t kElements = 3;

}  // namespace

AttentionScoresKernel jit_attention_scores(AttentionElement element, int rows, int vectors, int64_t head_dim) {
  if (!runs(element) || rows < 1 || rows > kAttentionTileRows || vectors < 1 || vectors > kAttentionTileVectors || head_dim < 4 || head_dim % 4 != 0 ||
      numbers_of(element) * head_dim > kMostHeadDim)
    return nullptr;
  static std::atomic<AttentionScoresKernel> kernels[kElements][kAttentionTileRows][kAttentionTileVectors];
  return kept_code(kernels[static_cast<size_t>(element)][rows - 1][vectors - 1], [&] { return std::make_unique<ScoresCode>(element, rows, vectors); });
}

AttentionValuesKernel jit_attention_values(AttentionElement element, int rows, int64_t head_dim) {
  if (!runs(element) || element == AttentionElement::kByteFour || rows < 1 || rows > kMostValueRows || head_dim < 4 || head_dim > kMostHeadDim ||
      head_dim % (4 * numbers_of(element)) != 0)
    return nullptr;
  static std::atomic<AttentionValuesKernel> kernels[kElements][kMostValueRows][kMostHeadDim / 4];
  return kept_code(kernels[static_cast<size_t>(element)][rows - 1][head_dim / 4 - 1], [&] { return std::make_unique<ValuesCode>(element, rows, head_dim); });
}

}  // namespace fovea

#else

namespace fovea {

AttentionScoresKernel jit_attention_scores(AttentionElement, int, int, int64_t) { return nullptr; }
AttentionValuesKernel jit_attention_values(AttentionElement, int, int64_t) { return nullptr; }

}  // namespace fovea

#endif
