#include "kernels/cpu/jit.h"

#if defined(__x86_64__)

#include <xbyak/xbyak_util.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <memory>
#include <string>

#include "core/check.h"
#include "kernels/cpu/gelu_table.h"
#include "kernels/cpu/jit_code.h"

namespace fovea {

namespace {

constexpr size_t kCodeBytes = 16384;

// Columns below n: eight lanes from entry 16 - n + 8 · vector.
alignas(64) constexpr int32_t kMaskLanes[32] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};

class TileCode : public JitCode {
 public:
  TileCode(Isa isa, int rows, int vectors, AOrder order, TileType type, TileEnd end)
      : JitCode(kCodeBytes, "gemm_tile_" + std::to_string(rows) + "x" + std::to_string(vectors) + (order == AOrder::kColumns ? "_columns" : "") +
                                (type == TileType::kF32 ? "" : type == TileType::kBF16 ? "_bf16" : "_int8") +
                                (end.activation == Activation::kNone ? "" : "_activation") + (end.bf16 ? "_to_bf16" : "")),
        wide_(isa == Isa::kAvx512), rows_(rows), vectors_(vectors), order_(order), type_(type), end_(end) {
    push(prefetch_);
    push(prefetch_step_);
    load_arguments();
    if (sums_in_runs(order_, type_)) {
      runs();
    } else {
      k_loops();
      if (begins_at_zero()) add_start();
    }
    if (type_ == TileType::kInt8) scale();
    load_mask_bits();
    if (end_.activation != Activation::kNone) keep_before_activation();
    if (end_.activation != Activation::kNone || end_.bf16)
      activate_and_store();
    else
      add_and_store();
    vzeroupper();
    pop(prefetch_step_);
    pop(prefetch_);
    ret();
  }

 private:
  int vector_bytes() const { return wide_ ? 64 : 32; }
  int panel_bytes() const { return vectors_ * vector_bytes(); }
  Xbyak::Xmm vec(int i) const { return wide_ ? Xbyak::Xmm(Xbyak::Zmm(i)) : Xbyak::Xmm(Xbyak::Ymm(i)); }
  Xbyak::Xmm acc(int i, int j) const { return vec(i * vectors_ + j); }
  Xbyak::Xmm b_vec(int j) const { return vec((wide_ ? 28 : 12) + j); }
  Xbyak::Xmm a_vec(int i) const { return vec((wide_ ? 30 : 14) + i % 2); }
  Xbyak::Address field(size_t offset) { return qword[tile_ + static_cast<int>(offset)]; }
  // Whether `start` is added in the end instead of sums beginning with it. Of sums that are stored as they are that takes 10 to 35 cycles of a tile less;
  // where more is done with them the addition costs as much.
  bool begins_at_zero() const {
    return sums_in_runs(order_, type_) || (order_ == AOrder::kRows && type_ != TileType::kF32 && end_.activation == Activation::kNone && !end_.bf16);
  }
  int row_groups() const { return order_ == AOrder::kRows ? (rows_ + 2) / 3 : 1; }

  void load_arguments() {
    mov(a_stride_, field(offsetof(GemmTile, a_stride)));
    mov(a_[0], field(offsetof(GemmTile, a)));
    if (order_ == AOrder::kRows) {
      for (int g = 1; g < row_groups(); ++g) {
        lea(a_[g], ptr[a_[g - 1] + a_stride_ * 2]);
        add(a_[g], a_stride_);
      }
    } else {
      lea(a_[1], ptr[a_stride_ + a_stride_ * 2]);
    }
    ask_for_addend();
    if (begins_at_zero()) {
      for (int i = 0; i < rows_; ++i)
        for (int j = 0; j < vectors_; ++j) zero(acc(i, j));
    } else {
      mov(b_, field(offsetof(GemmTile, start)));
      for (int j = 0; j < vectors_; ++j) vmovups(acc(0, j), ptr[b_ + j * vector_bytes()]);
      for (int i = 1; i < rows_; ++i)
        for (int j = 0; j < vectors_; ++j) vmovaps(acc(i, j), acc(0, j));
    }
    mov(b_, field(offsetof(GemmTile, b)));
    mov(count_, field(offsetof(GemmTile, k)));
    mov(prefetch_, field(offsetof(GemmTile, prefetch)));
    mov(prefetch_step_, field(offsetof(GemmTile, prefetch_step)));
  }

  // What is added in the end comes nearer while the sums are formed.
  void ask_for_addend() {
    Xbyak::Label none;
    const Xbyak::Reg64 &addend = b_, &stride = count_;
    mov(addend, field(offsetof(GemmTile, addend)));
    test(addend, addend);
    jz(none, T_NEAR);
    mov(stride, field(offsetof(GemmTile, addend_stride)));
    for (int i = 0; i < rows_; ++i) {
      for (int line = 0; line < panel_bytes(); line += 64) prefetcht0(ptr[addend + line]);
      if (i + 1 < rows_) add(addend, stride);
    }
    L(none);
  }

  Xbyak::Address a_element(int i, int u) {
    if (order_ == AOrder::kRows) {
      const Xbyak::Reg64& base = a_[i / 3];
      if (i % 3 == 0) return ptr[base + 4 * u];
      return i % 3 == 1 ? ptr[base + a_stride_ + 4 * u] : ptr[base + a_stride_ * 2 + 4 * u];
    }
    switch (u) {
      case 0: return ptr[a_[0] + 4 * i];
      case 1: return ptr[a_[0] + a_stride_ + 4 * i];
      case 2: return ptr[a_[0] + a_stride_ * 2 + 4 * i];
      default: return ptr[a_[0] + a_[1] + 4 * i];
    }
  }

  void k_step(int u) {
    for (int j = 0; j < vectors_; ++j) vmovups(b_vec(j), ptr[b_ + u * panel_bytes() + j * vector_bytes()]);
    for (int i = 0; i < rows_; ++i) {
      vbroadcastss(a_vec(i), a_element(i, u));
      for (int j = 0; j < vectors_; ++j) multiply_add(acc(i, j), a_vec(i), b_vec(j));
    }
  }

  void multiply_add(const Xbyak::Xmm& sum, const Xbyak::Xmm& a, const Xbyak::Xmm& b) {
    switch (type_) {
      case TileType::kF32: vfmadd231ps(sum, b, a); break;
      case TileType::kBF16: vdpbf16ps(sum, b, a); break;
      case TileType::kInt8: vpdpbusd(sum, a, b); break;  // a is the unsigned one
    }
  }

  void advance(int steps) {
    add(b_, steps * panel_bytes());
    if (order_ == AOrder::kRows) {
      for (int g = 0; g < row_groups(); ++g) add(a_[g], 4 * steps);
    } else if (steps == 4) {
      lea(a_[0], ptr[a_[0] + a_stride_ * 4]);
    } else {
      add(a_[0], a_stride_);
    }
  }

  void zero(const Xbyak::Xmm& x) { wide_ ? vpxord(x, x, x) : vxorps(x, x, x); }

  // Sums of finished runs wait on the stack, where `start` is the first; a single run has it added in the end.
  void runs() {
    const Xbyak::Reg64 &left = r13, &old_stack = rbp;
    const int bytes = rows_ * panel_bytes();
    Xbyak::Label run, last, single, done;
    const auto for_sums = [&](auto&& f) {
      for (int i = 0; i < rows_; ++i)
        for (int j = 0; j < vectors_; ++j) f(acc(i, j), ptr[rsp + i * panel_bytes() + j * vector_bytes()]);
    };
    push(left);
    push(old_stack);
    mov(old_stack, rsp);
    sub(rsp, bytes);
    and_(rsp, -64);
    mov(left, count_);
    cmp(left, field(offsetof(GemmTile, run)));
    jle(last, T_NEAR);
    load_start();  // in place of count_, which k_loops() has used up or is about to be given
    for (int i = 0; i < rows_; ++i)
      for (int j = 0; j < vectors_; ++j) vmovaps(ptr[rsp + i * panel_bytes() + j * vector_bytes()], b_vec(j));
    L(run);
    mov(count_, field(offsetof(GemmTile, run)));
    sub(left, field(offsetof(GemmTile, run)));
    k_loops();
    for_sums([&](const Xbyak::Xmm& sum, const Xbyak::Address& kept) {
      vaddps(sum, sum, kept);
      vmovaps(kept, sum);
      zero(sum);
    });
    cmp(left, field(offsetof(GemmTile, run)));
    jg(run, T_NEAR);
    L(last);
    mov(count_, left);
    k_loops();
    mov(count_, field(offsetof(GemmTile, k)));
    cmp(count_, field(offsetof(GemmTile, run)));
    jle(single, T_NEAR);
    for_sums([&](const Xbyak::Xmm& sum, const Xbyak::Address& kept) { vaddps(sum, sum, kept); });
    jmp(done, T_NEAR);
    L(single);
    add_start();
    L(done);
    mov(rsp, old_stack);
    pop(old_stack);
    pop(left);
  }

  void k_loops() {
    Xbyak::Label four, ones, one, done;
    sub(count_, 4);
    jl(ones, T_NEAR);
    align(32);
    L(four);
    for (int u = 0; u < 4; ++u) {
      static_assert(kPrefetchLines == 4);
      prefetcht1(ptr[prefetch_ + 64 * u]);
      k_step(u);
    }
    advance(4);
    add(prefetch_, prefetch_step_);
    sub(count_, 4);
    jge(four, T_NEAR);
    L(ones);
    add(count_, 4);
    jz(done, T_NEAR);
    L(one);
    k_step(0);
    advance(1);
    dec(count_);
    jnz(one, T_NEAR);
    L(done);
  }

  void load_start() {
    const Xbyak::Reg64& start = count_;
    mov(start, field(offsetof(GemmTile, start)));
    for (int j = 0; j < vectors_; ++j) vmovups(b_vec(j), ptr[start + j * vector_bytes()]);
  }
  void add_start() {
    load_start();
    for (int i = 0; i < rows_; ++i)
      for (int j = 0; j < vectors_; ++j) type_ == TileType::kInt8 ? vpaddd(acc(i, j), acc(i, j), b_vec(j)) : vaddps(acc(i, j), acc(i, j), b_vec(j));
  }

  // Integer sums to numbers.
  void scale() {
    const Xbyak::Reg64 &row_scale = a_[0], &column_scale = a_[1], &bias = a_[2];
    mov(row_scale, field(offsetof(GemmTile, row_scale)));
    mov(column_scale, field(offsetof(GemmTile, column_scale)));
    mov(bias, field(offsetof(GemmTile, bias)));
    for (int j = 0; j < vectors_; ++j) {
      vmovups(b_vec(j), ptr[column_scale + j * vector_bytes()]);
      vmovups(a_vec(j), ptr[bias + j * vector_bytes()]);
    }
    for (int i = 0; i < rows_; ++i)
      for (int j = 0; j < vectors_; ++j) {
        vcvtdq2ps(acc(i, j), acc(i, j));
        vmulps(acc(i, j), acc(i, j), zword_b[row_scale + 4 * i]);
        vfmadd132ps(acc(i, j), a_vec(j), b_vec(j));
      }
  }

  // Of the columns that there are: opmasks 1 and 2 for a vector each, 3 for both.
  void load_mask_bits() {
    if (!wide_) return;
    const Xbyak::Reg64 &bits = prefetch_, &columns = count_;
    mov(columns, field(offsetof(GemmTile, columns)));
    mov(bits.cvt32(), -1);
    bzhi(bits.cvt32(), bits.cvt32(), columns.cvt32());
    if (end_.bf16) kmovd(Xbyak::Opmask(3), bits.cvt32());
    kmovw(Xbyak::Opmask(1), bits.cvt32());
    shr(bits.cvt32(), 16);
    kmovw(Xbyak::Opmask(2), bits.cvt32());
  }

  void keep_before_activation() {
    const Xbyak::Reg64 &pre = b_, &stride = a_stride_;
    Xbyak::Label done;
    mov(pre, field(offsetof(GemmTile, pre)));
    test(pre, pre);
    jz(done, T_NEAR);
    mov(stride, field(offsetof(GemmTile, pre_stride)));
    for (int i = 0; i < rows_; ++i) {
      for (int j = 0; j < vectors_; ++j) vmovups(ptr[pre + j * vector_bytes()] | Xbyak::Opmask(1 + j), acc(i, j));
      if (i + 1 < rows_) add(pre, stride);
    }
    L(done);
  }

  // Sums, or what the activation makes of them, row by row, to floats or bfloat16: nothing is added to either.
  void activate_and_store() {
    const Xbyak::Reg64 &c = b_, &c_stride = a_stride_;
    const bool has_gelu = end_.activation != Activation::kNone && end_.activation != Activation::kRelu;
    bool in_registers = false;
    if (has_gelu) mov(prefetch_step_, reinterpret_cast<size_t>(&gelu_table(end_.activation, degree())));
    mov(c, field(offsetof(GemmTile, c)));
    mov(c_stride, field(offsetof(GemmTile, c_stride)));
    for (int i = 0; i < rows_; ++i) {
      if (has_gelu && !in_registers && i * vectors_ >= gelu_registers()) {
        load_gelu_registers();
        in_registers = true;
      }
      for (int j = 0; j < vectors_; ++j) {
        const Xbyak::Zmm x(acc(i, j).getIdx());
        if (has_gelu) gelu(x, in_registers);
        else if (end_.activation == Activation::kRelu) relu(x);
      }
      store_row(c, i);
      if (i + 1 < rows_) add(c, c_stride);
    }
  }

  // Of the columns that there are. Two vectors are rounded to bfloat16 in the time of one.
  void store_row(const Xbyak::Reg64& row, int i) {
    const Xbyak::Zmm first(acc(i, 0).getIdx());
    if (end_.bf16 && vectors_ == 2) {
      vcvtne2ps2bf16(first, Xbyak::Zmm(acc(i, 1).getIdx()), first);
      vmovdqu16(ptr[row] | Xbyak::Opmask(3), first);
    } else if (end_.bf16) {
      vcvtneps2bf16(Xbyak::Ymm(first.getIdx()), first);
      vmovdqu16(ptr[row] | Xbyak::Opmask(1), Xbyak::Ymm(first.getIdx()));
    } else {
      for (int j = 0; j < vectors_; ++j) vmovups(ptr[row + j * 64] | Xbyak::Opmask(1 + j), acc(i, j));
    }
  }

  void relu(const Xbyak::Zmm& x) {
    const Xbyak::Zmm zero(28);
    vpxord(zero, zero, zero);
    vmaxps(x, zero, x);  // the second operand where one is not a number: it must stay visible
  }

  // GELU: see gelu_table.h. What it reads is in the table for the first rows, and for the others in the registers of sums that are stored: from
  // memory alone, its loads would take longer than its arithmetic.
  int degree() const { return end_.bf16 ? 3 : 5; }
  int gelu_registers() const { return degree() + 4; }
  Xbyak::Zmm bound() const { return Xbyak::Zmm(degree() + 1); }
  Xbyak::Zmm inverse_width() const { return Xbyak::Zmm(degree() + 2); }
  Xbyak::Zmm to_integer() const { return Xbyak::Zmm(degree() + 3); }
  Xbyak::Address of_table(size_t at) { return ptr[prefetch_step_ + static_cast<int>(at)]; }
  Xbyak::Address each_of_table(size_t at) { return zword_b[prefetch_step_ + static_cast<int>(at)]; }
  Xbyak::Address coefficients(int n) { return of_table(offsetof(GeluTable, coefficients) + 64 * static_cast<size_t>(n)); }

  void load_gelu_registers() {
    for (int n = 0; n <= degree(); ++n) vmovaps(Xbyak::Zmm(n), coefficients(n));
    vbroadcastss(bound(), of_table(offsetof(GeluTable, bound)));
    vbroadcastss(inverse_width(), of_table(offsetof(GeluTable, inverse_width)));
    vbroadcastss(to_integer(), of_table(offsetof(GeluTable, to_integer)));
  }

  void gelu(const Xbyak::Zmm& x, bool in_registers) {
    const Xbyak::Zmm magnitude(28), piece(29), term(30), lack(31);
    constexpr uint8_t kSmallerMagnitude = 0b1010;  // vrangeps: the lesser of two magnitudes, without a sign
    const auto coefficient = [&](const Xbyak::Zmm& to, int n) { in_registers ? vpermps(to, piece, Xbyak::Zmm(n)) : vpermps(to, piece, coefficients(n)); };
    if (in_registers) {
      vrangeps(magnitude, x, bound(), kSmallerMagnitude);
      vmovaps(piece, inverse_width());
      vfmadd213ps(piece, magnitude, to_integer());
    } else {
      vrangeps(magnitude, x, each_of_table(offsetof(GeluTable, bound)), kSmallerMagnitude);
      vbroadcastss(piece, of_table(offsetof(GeluTable, inverse_width)));
      vfmadd213ps(piece, magnitude, each_of_table(offsetof(GeluTable, to_integer)));
    }
    if (!end_.bf16) {  // the place in the piece
      in_registers ? vsubps(term, piece, to_integer()) : vsubps(term, piece, each_of_table(offsetof(GeluTable, to_integer)));
      in_registers ? vfmsub132ps(magnitude, term, inverse_width()) : vfmsub132ps(magnitude, term, each_of_table(offsetof(GeluTable, inverse_width)));
    }
    coefficient(lack, degree());
    for (int n = degree() - 1; n >= 0; --n) {
      coefficient(term, n);
      vfmadd213ps(lack, magnitude, term);
    }
    vpxord(term, term, term);
    vmaxps(x, term, x);
    vsubps(x, x, lack);
  }

  void add_and_store() {
    Xbyak::Label masked, full_store, masked_store, done;
    const Xbyak::Reg64 &c = b_, &c_stride = a_stride_, &columns = count_, &addend = a_[0], &addend_stride = a_[1];
    mov(c, field(offsetof(GemmTile, c)));
    mov(c_stride, field(offsetof(GemmTile, c_stride)));
    mov(columns, field(offsetof(GemmTile, columns)));
    mov(addend, field(offsetof(GemmTile, addend)));
    mov(addend_stride, field(offsetof(GemmTile, addend_stride)));
    cmp(columns, panel_bytes() / 4);
    jl(masked, T_NEAR);
    test(addend, addend);
    jz(full_store, T_NEAR);
    for (int i = 0; i < rows_; ++i) {
      for (int j = 0; j < vectors_; ++j) vaddps(acc(i, j), acc(i, j), ptr[addend + j * vector_bytes()]);
      if (i + 1 < rows_) add(addend, addend_stride);
    }
    L(full_store);
    for (int i = 0; i < rows_; ++i) {
      for (int j = 0; j < vectors_; ++j) vmovups(ptr[c + j * vector_bytes()], acc(i, j));
      if (i + 1 < rows_) add(c, c_stride);
    }
    jmp(done, T_NEAR);

    L(masked);
    if (!wide_) load_lane_masks(columns);
    test(addend, addend);
    jz(masked_store, T_NEAR);
    for (int i = 0; i < rows_; ++i) {
      for (int j = 0; j < vectors_; ++j) {
        const Xbyak::Address p = ptr[addend + j * vector_bytes()];
        if (wide_) {
          vaddps(acc(i, j) | Xbyak::Opmask(1 + j), acc(i, j), p);
        } else {
          vmaskmovps(a_vec(0), b_vec(j), p);
          vaddps(acc(i, j), acc(i, j), a_vec(0));
        }
      }
      if (i + 1 < rows_) add(addend, addend_stride);
    }
    L(masked_store);
    for (int i = 0; i < rows_; ++i) {
      for (int j = 0; j < vectors_; ++j) {
        const Xbyak::Address p = ptr[c + j * vector_bytes()];
        if (wide_) {
          vmovups(p | Xbyak::Opmask(1 + j), acc(i, j));
        } else {
          vmaskmovps(p, b_vec(j), acc(i, j));
        }
      }
      if (i + 1 < rows_) add(c, c_stride);
    }
    L(done);
  }

  // AVX2: lane masks in place of the two vectors of b.
  void load_lane_masks(const Xbyak::Reg64& columns) {
    const Xbyak::Reg64& lanes = prefetch_;
    mov(lanes, reinterpret_cast<size_t>(kMaskLanes + 16));
    neg(columns);
    for (int j = 0; j < vectors_; ++j) vmovups(b_vec(j), ptr[lanes + columns * 4 + j * vector_bytes()]);
  }

  const bool wide_;
  const int rows_, vectors_;
  const AOrder order_;
  const TileType type_;
  const TileEnd end_;
  const Xbyak::Reg64 tile_ = rdi, b_ = rsi, a_stride_ = rcx, count_ = rdx, prefetch_ = rbx, prefetch_step_ = r12;
  const std::array<Xbyak::Reg64, 5> a_ = {rax, r8, r9, r10, r11};
};

// 24 chains of AVX-512 instructions, 12 otherwise: more than latency times throughput of any processor so far.
constexpr int kPeakRepeats = 4;
constexpr int peak_chains(PeakLoop loop) { return loop >= PeakLoop::kAvx512Fma ? 24 : 12; }
constexpr int64_t peak_operations(PeakLoop loop) {
  constexpr int64_t kPerInstruction[] = {4, 16, 32, 64, 128};
  return kPerInstruction[static_cast<int>(loop)] * peak_chains(loop) * kPeakRepeats;
}

class PeakLoopCode : public JitCode {
 public:
  explicit PeakLoopCode(PeakLoop loop) : JitCode(kCodeBytes, "peak_loop") {
    const int chains = peak_chains(loop);
    // Small numbers in every type: zeros would cost less power than work does, and so run at a higher clock.
    constexpr uint32_t kFactors[] = {0x3a833a91, 0xba113a23}, kSseTerms[] = {0x3f800000, 0x3a833a91};  // SSE multiplies by one
    const uint32_t* terms = loop == PeakLoop::kSseMulAdd ? kSseTerms : kFactors;
    for (int i = 0; i < chains + 2; ++i) {
      mov(eax, terms[i == chains + 1]);
      switch (loop) {
        case PeakLoop::kSseMulAdd:
          movd(Xbyak::Xmm(i), eax);
          shufps(Xbyak::Xmm(i), Xbyak::Xmm(i), 0);
          break;
        case PeakLoop::kAvx2Fma:
          vmovd(Xbyak::Xmm(i), eax);
          vpbroadcastd(Xbyak::Ymm(i), Xbyak::Xmm(i));
          break;
        default: vpbroadcastd(Xbyak::Zmm(i), eax);
      }
    }
    Xbyak::Label again;
    align(32);
    L(again);
    for (int r = 0; r < kPeakRepeats; ++r)
      for (int i = 0; i < chains; ++i) {
        const Xbyak::Zmm z(i), x(chains), y(chains + 1);
        switch (loop) {
          case PeakLoop::kSseMulAdd: i % 2 == 0 ? mulps(Xbyak::Xmm(i), Xbyak::Xmm(12)) : addps(Xbyak::Xmm(i), Xbyak::Xmm(13)); break;
          case PeakLoop::kAvx2Fma: vfmadd231ps(Xbyak::Ymm(i), Xbyak::Ymm(12), Xbyak::Ymm(13)); break;
          case PeakLoop::kAvx512Fma: vfmadd231ps(z, x, y); break;
          case PeakLoop::kAvx512Bf16: vdpbf16ps(z, x, y); break;
          case PeakLoop::kAvx512Int8: vpdpbusd(z, x, y); break;
        }
      }
    dec(rdi);
    jnz(again, T_NEAR);
    if (loop != PeakLoop::kSseMulAdd) vzeroupper();
    ret();
  }
};

bool runs(PeakLoop loop) {
  static const Xbyak::util::Cpu cpu;
  using C = Xbyak::util::Cpu;
  switch (loop) {
    case PeakLoop::kSseMulAdd: return true;
    case PeakLoop::kAvx2Fma: return cpu.has(C::tAVX2) && cpu.has(C::tFMA);
    case PeakLoop::kAvx512Fma: return cpu.has(C::tAVX512F);
    case PeakLoop::kAvx512Bf16: return cpu.has(C::tAVX512F) && cpu.has(C::tAVX512_BF16);
    case PeakLoop::kAvx512Int8: return cpu.has(C::tAVX512F) && cpu.has(C::tAVX512BW) && cpu.has(C::tAVX512VL) && cpu.has(C::tAVX512_VNNI);
  }
  return false;
}

}  // namespace

GemmTileKernel jit_gemm_kernel(Isa isa, int rows, int vectors, AOrder order, TileType type, TileEnd end) {
  if (isa == Isa::kBaseline) return nullptr;
  static const bool has_bf16 = runs(PeakLoop::kAvx512Bf16), has_int8 = runs(PeakLoop::kAvx512Int8);
  const bool ends = end.activation != Activation::kNone || end.bf16;
  if ((ends || type != TileType::kF32) && isa != Isa::kAvx512) return nullptr;
  if ((ends || type == TileType::kInt8) && order != AOrder::kRows) return nullptr;
  if ((type == TileType::kBF16 || end.bf16) && !has_bf16) return nullptr;
  if (type == TileType::kInt8 && !has_int8) return nullptr;
  constexpr size_t kActivations = 4;  // those that it has code for
  if (static_cast<size_t>(end.activation) >= kActivations) return nullptr;
  static std::atomic<GemmTileKernel> kernels[3][2][2][kActivations][2][2][kGemmMaxRows];
  std::atomic<GemmTileKernel>& slot = kernels[static_cast<int>(type)][isa == Isa::kAvx512][order == AOrder::kColumns]
                                             [static_cast<size_t>(end.activation)][end.bf16][vectors - 1][rows - 1];
  return kept_code(slot, [&] {
    check(rows >= 1 && rows <= (isa == Isa::kAvx512 ? kGemmMaxRows : 6) && vectors >= 1 && vectors <= 2,
          "no tile of {} rows and {} vectors", rows, vectors);
    return std::make_unique<TileCode>(isa, rows, vectors, order, type, end);
  });
}

PeakCode jit_peak_loop(PeakLoop loop) {
  using Loop = void (*)(int64_t);
  if (!runs(loop)) return {};
  static std::array<std::atomic<Loop>, 5> loops;
  std::atomic<Loop>& slot = loops[static_cast<size_t>(loop)];
  const Loop run = kept_code(slot, [&] { return std::make_unique<PeakLoopCode>(loop); });
  if (run == nullptr) return {};
  return {run, peak_operations(loop)};
}

}  // namespace fovea

#else

namespace fovea {

GemmTileKernel jit_gemm_kernel(Isa, int, int, AOrder, TileType, TileEnd) { return nullptr; }
PeakCode jit_peak_loop(PeakLoop) { return {}; }

}  // namespace fovea

#endif
