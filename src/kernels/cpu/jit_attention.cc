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
constexpr int kBf16RowBytes = 2 * kBf16RowKeys;

class ForwardCode : public AttentionTileCode {
 public:
  // Without channels there are scores alone.
  ForwardCode(int rows, int vectors, int channels, AttentionElement element)
      : AttentionTileCode(32768, channels > 0 ? "attention" : "attention_scores", rows, vectors, element), channels_(channels) {
    for (const Xbyak::Reg64& r : kSaved) push(r);
    Xbyak::Label unsafe, done;
    scores();
    finish_scores();
    check_range(unsafe);
    powers();
    if (channels_ > 0) values();
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
    mov(rax, field(offsetof(AttentionTile, q)));
    for (int i = 0; i < rows(); ++i) mov(q_[static_cast<size_t>(i)], ptr[rax + 8 * i]);
    mov(keys, field(offsetof(AttentionTile, keys_t)));
    mov(end, field(offsetof(AttentionTile, head_dim)));
    shl(end, 2);
    if (bytes()) {
      mov(at, field(offsetof(AttentionTile, start)));
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
    mov(bias, field(offsetof(AttentionTile, bias)));
    mov(stride, field(offsetof(AttentionTile, bias_stride)));
    if (bytes()) {
      mov(masks, field(offsetof(AttentionTile, key_scale)));
      for (int j = 0; j < vectors(); ++j) vmovups(right(j), ptr[masks + 64 * j]);
      mov(masks, field(offsetof(AttentionTile, row_scale)));
    } else {
      vbroadcastss(spare(0), field(offsetof(AttentionTile, scale)));
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
    mov(masks, field(offsetof(AttentionTile, penalised)));
    test(masks, masks);
    jz(none, T_NEAR);
    vbroadcastss(spare(0), field(offsetof(AttentionTile, penalty)));
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
    vcmpps(k1, up, field_b(offsetof(AttentionTile, greatest)), 6);  // not less or equal
    kortestw(k1, k1);
    jnz(unsafe, T_NEAR);
    vcmpps(k1, low, field_b(offsetof(AttentionTile, least)), 13);  // greater or equal
    kortestw(k1, k1);
    jz(unsafe, T_NEAR);
  }

  void powers() {
    const Xbyak::Reg64 &table = rsi, &p = rdx, &total = rcx;
    load_powers(table);
    mov(p, field(offsetof(AttentionTile, p)));
    mov(total, field(offsetof(AttentionTile, sum)));
    for (int i = 0; i < rows(); ++i) {
      for (int j = 0; j < vectors(); ++j) {
        power(table, sum(i, j), j);
        if (!rounds()) vmovups(ptr[p + i * panel_bytes() + 64 * j], sum(i, j));
      }
      for (int j = 0; j < vectors() && rounds(); j += 2) keep_rounded(ptr[p + i * kBf16RowBytes + 32 * j], i, j);
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

  // As many channels at a time as the registers hold.
  void values() {
    const int panel = panel_bytes(), most = std::min(kMostVectors, kSums / rows()), pieces = (channels_ + most - 1) / most;
    for (int piece = 0; piece < pieces; ++piece) {
      const int first = channels_ * piece / pieces;
      set_shape(rows(), channels_ * (piece + 1) / pieces - first);
      add_values(first, panel);
    }
  }

  void add_values(int first, int panel) {
    const Xbyak::Reg64 &out = rsi, &stride = rdx, &p = rcx, &v = r8, &end = r9, &row = rax;
    const auto to_out = [&] {
      mov(out, field(offsetof(AttentionTile, out)));
      add(out, 64 * first);
    };
    to_out();
    mov(stride, field(offsetof(AttentionTile, out_stride)));
    for_rows(out, stride, [&](int i, int j, const Xbyak::Address& at) { vmovups(sum(i, j), at); });
    mov(p, field(offsetof(AttentionTile, p)));
    mov(v, field(offsetof(AttentionTile, v)));
    mov(end, field(offsetof(AttentionTile, keys)));
    lea(end, ptr[v + end * 8]);
    Xbyak::Label loop;
    align(32);
    L(loop);
    mov(row, ptr[v]);
    multiply([&](int i) { return ptr[p + i * panel]; }, [&](int j) { return ptr[row + 64 * (first + j)]; });
    add(p, 4);
    add(v, 8);
    cmp(v, end);
    jl(loop, T_NEAR);
    to_out();
    for_rows(out, stride, [&](int i, int j, const Xbyak::Address& at) { vmovups(at, sum(i, j)); });
  }

  const int channels_;  // vectors of head_dim
  const Xbyak::Reg64 tile_ = rdi;
  const std::array<Xbyak::Reg64, kAttentionTileRows> q_ = {rbx, rbp, r12, r13, r14, r15};
  const std::array<Xbyak::Reg64, 6> kSaved = {rbx, rbp, r12, r13, r14, r15};
};

// Weighted values of pairs of bfloat16.
class Bf16ValuesCode : public AttentionTileCode {
 public:
  Bf16ValuesCode(int rows, int64_t head_dim)
      : AttentionTileCode(32768, "attention_values_" + std::to_string(head_dim), rows, 1, AttentionElement::kBf16Pair), head_dim_(static_cast<int>(head_dim)) {
    if (head_dim_ % 16 != 0) {
      mov(eax, (1 << head_dim_ % 16) - 1);
      kmovw(k1, eax);
    }
    const int most = std::min(kMostVectors, kSums / rows), pieces = (channels() + most - 1) / most;
    for (int piece = 0; piece < pieces; ++piece) {
      const int first = channels() * piece / pieces;
      set_shape(rows, channels() * (piece + 1) / pieces - first);
      add_pairs(first);
      hand_over(first);
    }
    vzeroupper();
    ret();
  }

 private:
  Xbyak::Address field(size_t offset) { return ptr[tile_ + static_cast<int>(offset)]; }
  int channels() const { return (head_dim_ + 15) / 16; }  // vectors

  void add_pairs(int first) {
    const Xbyak::Reg64 &p = rsi, &v = rdx, &count = rcx;
    mov(p, field(offsetof(Bf16Values, p)));
    mov(v, field(offsetof(Bf16Values, v)));
    mov(count, field(offsetof(Bf16Values, pairs)));
    clear_sums();
    Xbyak::Label loop;
    align(32);
    L(loop);
    multiply([&](int i) { return ptr[p + i * kBf16RowBytes]; }, [&](int j) { return ptr[v + 64 * (first + j)]; });
    add(p, 4);
    add(v, 64 * channels());
    dec(count);
    jnz(loop, T_NEAR);
  }

  void hand_over(int first) {
    const Xbyak::Reg64 &out = rsi, &stride = rdx, &rows_of_out = rsi, &factor = rdx, &row = rcx;
    Xbyak::Label finished, done;
    mov(out, field(offsetof(Bf16Values, out)));
    test(out, out);
    jz(finished, T_NEAR);
    add(out, 64 * first);
    mov(stride, field(offsetof(Bf16Values, out_stride)));
    for_rows(out, stride, [&](int i, int j, const Xbyak::Address& at) {
      vaddps(sum(i, j), sum(i, j), at);
      vmovups(at, sum(i, j));
    });
    jmp(done, T_NEAR);
    L(finished);
    mov(rows_of_out, field(offsetof(Bf16Values, rows)));
    mov(factor, field(offsetof(Bf16Values, factor)));
    for (int i = 0; i < rows(); ++i) {
      mov(row, ptr[rows_of_out + 8 * i]);
      vbroadcastss(spare(0), ptr[factor + 4 * i]);
      for (int j = 0; j < vectors(); ++j) {
        const Xbyak::Ymm half(sum(i, j).getIdx());
        const Xbyak::Address at = ptr[row + 32 * (first + j)];
        vmulps(sum(i, j), sum(i, j), spare(0));
        vcvtneps2bf16(half, sum(i, j));
        if (16 * (first + j + 1) <= head_dim_)
          vmovups(at, half);
        else
          vmovdqu16(at | k1, half);
      }
    }
    L(done);
  }

  const int head_dim_;
  const Xbyak::Reg64 tile_ = rdi;
};

bool has_shape(int rows, int vectors, int64_t head_dim) {
  return rows >= 1 && rows <= kAttentionTileRows && vectors >= 1 && vectors <= kAttentionTileVectors && head_dim >= 4 && head_dim % 4 == 0;
}

}  // namespace

AttentionTileKernel jit_attention_tile(int rows, int vectors, int64_t head_dim) {
  if (!attention_code_runs() || !has_shape(rows, vectors, head_dim) || head_dim > kMostHeadDim) return nullptr;
  const int channels = static_cast<int>((head_dim + 15) / 16);
  static std::atomic<AttentionTileKernel> kernels[kAttentionTileRows][kAttentionTileVectors][kMostHeadDim / 16];
  return kept_code(kernels[rows - 1][vectors - 1][channels - 1],
                   [&] { return std::make_unique<ForwardCode>(rows, vectors, channels, AttentionElement::kFloat); });
}

AttentionTileKernel jit_bf16_scores(int rows, int vectors, int64_t head_dim) {
  if (!bf16_attention_code_runs() || !has_shape(rows, vectors, head_dim) || 2 * head_dim > kMostHeadDim) return nullptr;
  static std::atomic<AttentionTileKernel> kernels[kAttentionTileRows][kAttentionTileVectors];
  return kept_code(kernels[rows - 1][vectors - 1], [&] { return std::make_unique<ForwardCode>(rows, vectors, 0, AttentionElement::kBf16Pair); });
}

AttentionTileKernel jit_byte_scores(int rows, int vectors, int64_t head_dim) {
  if (!byte_attention_code_runs() || !has_shape(rows, vectors, head_dim) || 4 * head_dim > kMostHeadDim) return nullptr;
  static std::atomic<AttentionTileKernel> kernels[kAttentionTileRows][kAttentionTileVectors];
  return kept_code(kernels[rows - 1][vectors - 1], [&] { return std::make_unique<ForwardCode>(rows, vectors, 0, AttentionElement::kByteFour); });
}

Bf16ValuesKernel jit_bf16_values(int rows, int64_t head_dim) {
  if (!bf16_attention_code_runs() || rows < 1 || rows > kMostValueRows || head_dim < 8 || head_dim > kMostHeadDim || head_dim % 8 != 0) return nullptr;
  static std::atomic<Bf16ValuesKernel> kernels[kMostValueRows][kMostHeadDim / 8];
  return kept_code(kernels[rows - 1][head_dim / 8 - 1], [&] { return std::make_unique<Bf16ValuesCode>(rows, head_dim); });
}

}  // namespace fovea

#else

namespace fovea {

AttentionTileKernel jit_attention_tile(int, int, int64_t) { return nullptr; }
AttentionTileKernel jit_bf16_scores(int, int, int64_t) { return nullptr; }
AttentionTileKernel jit_byte_scores(int, int, int64_t) { return nullptr; }
Bf16ValuesKernel jit_bf16_values(int, int64_t) { return nullptr; }

}  // namespace fovea

#endif
