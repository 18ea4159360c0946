#include "kernels/cpu/jit.h"

#if defined(__x86_64__)

#include <xbyak/xbyak_util.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <memory>
#include <string>

#include "core/check.h"
#include "kernels/cpu/jit_code.h"

namespace fovea {

namespace {

constexpr size_t kCodeBytes = 8192;

// Columns below n: eight lanes from entry 16 - n + 8 · vector.
alignas(64) constexpr int32_t kMaskLanes[32] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};

class TileCode : public JitCode {
 public:
  TileCode(Isa isa, int rows, int vectors, AOrder order, TileType type)
      : JitCode(kCodeBytes, "gemm_tile_" + std::to_string(rows) + "x" + std::to_string(vectors) + (order == AOrder::kColumns ? "_columns" : "") +
                                (type == TileType::kF32 ? "" : type == TileType::kBF16 ? "_bf16" : "_int8")),
        wide_(isa == Isa::kAvx512), rows_(rows), vectors_(vectors), order_(order), type_(type) {
    push(prefetch_);
    push(prefetch_step_);
    load_arguments();
    k_loops();
    if (type_ == TileType::kInt8) scale();
    finish();
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
  Xbyak::Address field(size_t offset) { return ptr[tile_ + static_cast<int>(offset)]; }
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
    mov(b_, field(offsetof(GemmTile, start)));
    for (int j = 0; j < vectors_; ++j) vmovups(acc(0, j), ptr[b_ + j * vector_bytes()]);
    for (int i = 1; i < rows_; ++i)
      for (int j = 0; j < vectors_; ++j) vmovaps(acc(i, j), acc(0, j));
    mov(b_, field(offsetof(GemmTile, b)));
    mov(count_, field(offsetof(GemmTile, k)));
    mov(prefetch_, field(offsetof(GemmTile, prefetch)));
    mov(prefetch_step_, field(offsetof(GemmTile, prefetch_step)));
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

  void k_loops() {
    Xbyak::Label four, ones, one, done;
    sub(count_, 4);
    jl(ones, T_NEAR);
    align(32);
    L(four);
    for (int u = 0; u < 4; ++u) {
      if (u % 2 == 0) prefetcht1(ptr[prefetch_ + 32 * u]);
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

  void finish() {
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
    make_masks(columns);
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

  // AVX-512: opmasks 1 and 2; AVX2: lane masks in place of the two vectors of b.
  void make_masks(const Xbyak::Reg64& columns) {
    const Xbyak::Reg64& bits = prefetch_;
    if (wide_) {
      mov(bits.cvt32(), -1);
      bzhi(bits.cvt32(), bits.cvt32(), columns.cvt32());
      kmovw(Xbyak::Opmask(1), bits.cvt32());
      shr(bits.cvt32(), 16);
      kmovw(Xbyak::Opmask(2), bits.cvt32());
    } else {
      mov(bits, reinterpret_cast<size_t>(kMaskLanes + 16));
      neg(columns);
      for (int j = 0; j < vectors_; ++j) vmovups(b_vec(j), ptr[bits + columns * 4 + j * vector_bytes()]);
    }
  }

  const bool wide_;
  const int rows_, vectors_;
  const AOrder order_;
  const TileType type_;
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
    for (int i = 0; i < chains + 2; ++i) {
      switch (loop) {
        case PeakLoop::kSseMulAdd: xorps(Xbyak::Xmm(i), Xbyak::Xmm(i)); break;
        case PeakLoop::kAvx2Fma: vxorps(Xbyak::Ymm(i), Xbyak::Ymm(i), Xbyak::Ymm(i)); break;
        default: vpxord(Xbyak::Zmm(i), Xbyak::Zmm(i), Xbyak::Zmm(i));
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
    case PeakLoop::kAvx512Int8: return cpu.has(C::tAVX512F) && cpu.has(C::tAVX512_VNNI);
  }
  return false;
}

}  // namespace

GemmTileKernel jit_gemm_kernel(Isa isa, int rows, int vectors, AOrder order, TileType type) {
  if (isa == Isa::kBaseline) return nullptr;
  static const bool has_bf16 = runs(PeakLoop::kAvx512Bf16), has_int8 = runs(PeakLoop::kAvx512Int8);
  if (type != TileType::kF32 && (isa != Isa::kAvx512 || order != AOrder::kRows || !(type == TileType::kBF16 ? has_bf16 : has_int8))) return nullptr;
  static std::atomic<GemmTileKernel> kernels[3][2][2][2][kGemmMaxRows];
  std::atomic<GemmTileKernel>& slot =
      kernels[static_cast<int>(type)][isa == Isa::kAvx512][order == AOrder::kColumns][vectors - 1][rows - 1];
  const GemmTileKernel known = slot.load(std::memory_order_acquire);
  if (known != nullptr || code_is_refused()) [[likely]]
    return known;
  check(rows >= 1 && rows <= (isa == Isa::kAvx512 ? kGemmMaxRows : 6) && vectors >= 1 && vectors <= 2,
        "no tile of {} rows and {} vectors", rows, vectors);
  const JitFunction code = keep_code([&] { return reinterpret_cast<JitFunction>(slot.load(std::memory_order_acquire)); },
                                  [&] { return std::make_unique<TileCode>(isa, rows, vectors, order, type); });
  const auto kernel = reinterpret_cast<GemmTileKernel>(code);
  if (kernel != nullptr) slot.store(kernel, std::memory_order_release);
  return kernel;
}

PeakCode jit_peak_loop(PeakLoop loop) {
  using Loop = void (*)(int64_t);
  if (!runs(loop)) return {};
  static std::array<std::atomic<Loop>, 5> loops;
  std::atomic<Loop>& slot = loops[static_cast<size_t>(loop)];
  const JitFunction code = keep_code([&] { return reinterpret_cast<JitFunction>(slot.load()); }, [&] { return std::make_unique<PeakLoopCode>(loop); });
  if (code == nullptr) return {};
  slot = reinterpret_cast<Loop>(code);
  return {slot, peak_operations(loop)};
}

}  // namespace fovea

#else

namespace fovea {

GemmTileKernel jit_gemm_kernel(Isa, int, int, AOrder, TileType) { return nullptr; }
PeakCode jit_peak_loop(PeakLoop) { return {}; }

}  // namespace fovea

#endif
