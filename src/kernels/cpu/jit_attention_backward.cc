#include "kernels/cpu/jit_attention_backward.h"

#if defined(__x86_64__)

#include <array>
#include <atomic>
#include <cstddef>
#include <limits>
#include <memory>

#include "kernels/cpu/jit_attention_code.h"

namespace fovea {

namespace {

// Powers of two below this one would be denormal numbers, which some processors are slow with.
constexpr float kLeast[] = {-126.0f, -std::numeric_limits<float>::infinity()};

class GradientCode : public AttentionTileCode {
 public:
  GradientCode(int rows, int vectors) : AttentionTileCode(16384, "attention_gradient", rows, vectors) {
    mov(row_stride_, field(offsetof(GradientTile, row_stride)));
    start_scores();
    products(offsetof(GradientTile, q), offsetof(GradientTile, keys_t));
    subtract(offsetof(GradientTile, lse));
    penalise();
    probabilities();
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < vectors; ++j) vpxord(sum(i, j), sum(i, j), sum(i, j));
    products(offsetof(GradientTile, g), offsetof(GradientTile, values_t));
    subtract(offsetof(GradientTile, delta));
    gradients();
    vzeroupper();
    ret();
  }

 private:
  Xbyak::Address field(size_t offset) { return ptr[tile_ + static_cast<int>(offset)]; }

  void start_scores() {
    mov(row_, field(offsetof(GradientTile, start)));
    mov(stride_, field(offsetof(GradientTile, start_stride)));
    for_rows(row_, stride_, [&](int i, int j, const Xbyak::Address& at) { vmovups(sum(i, j), at); });
  }

  // sum(i, j) += row i of `left` times column j of `right`, over the depth.
  void products(size_t left, size_t right) {
    const Xbyak::Reg64 &b = rdx, &count = rcx;
    mov(a_[0], field(left));
    if (rows() > 3) {
      lea(a_[1], ptr[a_[0] + row_stride_ * 2]);
      add(a_[1], row_stride_);
    }
    mov(b, field(right));
    mov(count, field(offsetof(GradientTile, depth)));
    const auto steps = [&](int n) {
      for (int u = 0; u < n; ++u)
        multiply(
            [&](int i) {
              const Xbyak::Reg64& base = a_[static_cast<size_t>(i / 3)];
              if (i % 3 == 0) return ptr[base + 4 * u];
              return i % 3 == 1 ? ptr[base + row_stride_ + 4 * u] : ptr[base + row_stride_ * 2 + 4 * u];
            },
            [&](int j) { return ptr[b + u * panel_bytes() + 64 * j]; });
      add(b, n * panel_bytes());
      add(a_[0], 4 * n);
      if (rows() > 3) add(a_[1], 4 * n);
    };
    Xbyak::Label fours, ones, one, done;
    sub(count, 4);
    jl(ones, T_NEAR);
    align(32);
    L(fours);
    steps(4);
    sub(count, 4);
    jge(fours, T_NEAR);
    L(ones);
    add(count, 4);
    jz(done, T_NEAR);
    L(one);
    steps(1);
    dec(count);
    jnz(one, T_NEAR);
    L(done);
  }

  // Each row less its number. Last, not as the sums' start: products are mostly smaller, and so are the rounding errors of their sum.
  void subtract(size_t numbers) {
    const Xbyak::Reg64& number = rdx;
    mov(number, field(numbers));
    for (int i = 0; i < rows(); ++i) {
      vbroadcastss(spare(i % 4), ptr[number + 4 * i]);
      for (int j = 0; j < vectors(); ++j) vsubps(sum(i, j), sum(i, j), spare(i % 4));
    }
  }

  void penalise() {
    const Xbyak::Reg64 &masks = rdx, &mask = rcx, &least = rax;
    Xbyak::Label none;
    mov(masks, field(offsetof(GradientTile, penalised)));
    test(masks, masks);
    jz(none, T_NEAR);
    vbroadcastss(right(0), field(offsetof(GradientTile, penalty)));
    mov(least, reinterpret_cast<size_t>(kLeast));
    vbroadcastss(right(1), ptr[least]);
    vbroadcastss(right(2), ptr[least + 4]);
    for (int i = 0; i < rows(); ++i) {
      mov(mask, ptr[masks + 8 * i]);
      for (int j = 0; j < vectors(); ++j) {
        kmovw(k1, mask.cvt32());
        vaddps(sum(i, j) | k1, sum(i, j), right(0));
        vcmpps(k2, sum(i, j), right(1), 1);  // less
        vmovaps(sum(i, j) | k2, right(2));
        if (j + 1 < vectors()) shr(mask, 16);
      }
    }
    L(none);
  }

  void probabilities() {
    const Xbyak::Reg64& table = rdx;
    load_powers(table);
    mov(row_, field(offsetof(GradientTile, p)));
    mov(stride_, field(offsetof(GradientTile, score_stride)));
    int turn = 0;
    for_rows(row_, stride_, [&](int i, int j, const Xbyak::Address& at) {
      power(table, sum(i, j), turn++);
      vmovups(at, sum(i, j));
    });
  }

  void gradients() {
    const Xbyak::Reg64 &score = rax, &dbias = rdx, &dbias_stride = rcx;
    mov(row_, field(offsetof(GradientTile, p)));
    mov(stride_, field(offsetof(GradientTile, score_stride)));
    mov(score, field(offsetof(GradientTile, ds)));
    for_rows(row_, stride_, [&](int i, int j, const Xbyak::Address& at) {
      vmulps(sum(i, j), sum(i, j), at);
      vmovups(ptr[score + 64 * j], sum(i, j));
      if (j + 1 == vectors() && i + 1 < rows()) add(score, stride_);
    });
    Xbyak::Label none;
    mov(dbias, field(offsetof(GradientTile, dbias)));
    test(dbias, dbias);
    jz(none, T_NEAR);
    mov(dbias_stride, field(offsetof(GradientTile, dbias_stride)));
    for_rows(dbias, dbias_stride, [&](int i, int j, const Xbyak::Address& at) {
      vaddps(sum(i, j), sum(i, j), at);
      vmovups(at, sum(i, j));
    });
    L(none);
  }

  const Xbyak::Reg64 tile_ = rdi, row_stride_ = rsi, row_ = r10, stride_ = r11;
  const std::array<Xbyak::Reg64, 2> a_ = {r8, r9};
};

}  // namespace

GradientTileKernel jit_gradient_tile(int rows, int vectors) {
  if (!attention_code_runs() || rows < 1 || rows > kGradientTileRows || vectors < 1 || vectors > kGradientTileVectors) return nullptr;
  static std::atomic<GradientTileKernel> kernels[kGradientTileRows][kGradientTileVectors];
  return kept_code(kernels[rows - 1][vectors - 1], [&] { return std::make_unique<GradientCode>(rows, vectors); });
}

}  // namespace fovea

#else

namespace fovea {

GradientTileKernel jit_gradient_tile(int, int) { return nullptr; }

}  // namespace fovea

#endif
