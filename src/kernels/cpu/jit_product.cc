#include "kernels/cpu/jit_product.h"

#if defined(__x86_64__)

#include <array>
#include <atomic>
#include <cstddef>
#include <memory>

#include "kernels/cpu/jit_attention_code.h"

namespace fovea {

namespace {

class ProductCode : public AttentionTileCode {
 public:
  ProductCode(bool columns, int rows, int vectors) : AttentionTileCode(8192, columns ? "product_columns" : "product_rows", rows, vectors), columns_(columns) {
    start();
    load_arguments();
    Xbyak::Label loop, rest, done;
    sub(count_, 2);
    jl(rest, T_NEAR);
    align(32);
    L(loop);
    step(0);
    step(1);
    lea(b_, ptr[b_ + b_stride_ * 2]);
    if (columns_) {
      lea(a_[0], ptr[a_[0] + a_stride_ * 2]);
    } else {
      for (size_t g = 0; g < row_groups(); ++g) add(a_[g], 8);
    }
    sub(count_, 2);
    jge(loop, T_NEAR);
    L(rest);
    add(count_, 2);
    jz(done, T_NEAR);
    step(0);
    L(done);
    mov(b_, field(offsetof(Product, c)));
    load_stride(b_stride_, offsetof(Product, c_stride));
    for_rows(b_, b_stride_, [&](int i, int j, const Xbyak::Address& at) { vmovups(at, sum(i, j)); });
    vzeroupper();
    ret();
  }

 private:
  Xbyak::Address field(size_t offset) { return ptr[product_ + static_cast<int>(offset)]; }
  void load_stride(const Xbyak::Reg64& to, size_t offset) {
    mov(to, field(offset));
    shl(to, 2);
  }
  size_t row_groups() const { return (static_cast<size_t>(rows()) + 2) / 3; }

  void start() {
    Xbyak::Label given, begun;
    mov(b_, field(offsetof(Product, init)));
    test(b_, b_);
    jnz(given, T_NEAR);
    for (int i = 0; i < rows(); ++i)
      for (int j = 0; j < vectors(); ++j) vpxord(sum(i, j), sum(i, j), sum(i, j));
    jmp(begun, T_NEAR);
    L(given);
    load_stride(b_stride_, offsetof(Product, init_stride));
    for_rows(b_, b_stride_, [&](int i, int j, const Xbyak::Address& at) { vmovups(sum(i, j), at); });
    L(begun);
  }

  void load_arguments() {
    mov(a_[0], field(offsetof(Product, a)));
    load_stride(a_stride_, offsetof(Product, a_stride));
    for (size_t g = 1; !columns_ && g < row_groups(); ++g) {
      lea(a_[g], ptr[a_[g - 1] + a_stride_ * 2]);
      add(a_[g], a_stride_);
    }
    mov(b_, field(offsetof(Product, b)));
    load_stride(b_stride_, offsetof(Product, b_stride));
    mov(count_, field(offsetof(Product, depth)));
  }

  void step(int u) {
    multiply([&](int i) { return columns_ ? column_element(i, u) : row_element(i, u); },
             [&](int j) { return u == 0 ? ptr[b_ + 64 * j] : ptr[b_ + b_stride_ + 64 * j]; });
  }
  Xbyak::Address column_element(int i, int u) { return u == 0 ? ptr[a_[0] + 4 * i] : ptr[a_[0] + a_stride_ + 4 * i]; }
  Xbyak::Address row_element(int i, int u) {
    const Xbyak::Reg64& base = a_[static_cast<size_t>(i / 3)];
    if (i % 3 == 0) return ptr[base + 4 * u];
    return i % 3 == 1 ? ptr[base + a_stride_ + 4 * u] : ptr[base + a_stride_ * 2 + 4 * u];
  }

  const bool columns_;
  const Xbyak::Reg64 product_ = rdi, b_ = rsi, b_stride_ = rdx, a_stride_ = rcx, count_ = r11;
  const std::array<Xbyak::Reg64, 4> a_ = {rax, r8, r9, r10};
};

}  // namespace

ProductFunction jit_product(bool columns, int rows, int vectors) {
  if (!attention_code_runs() || vectors < 1 || vectors > kMostProductVectors || rows < 1 || rows > product_rows(vectors)) return nullptr;
  static std::atomic<ProductFunction> products[2][kMostProductRows][kMostProductVectors];
  std::atomic<ProductFunction>& slot = products[columns][rows - 1][vectors - 1];
  return kept_code(slot, [&] { return std::make_unique<ProductCode>(columns, rows, vectors); });
}

}  // namespace fovea

#else

namespace fovea {

ProductFunction jit_product(bool, int, int) { return nullptr; }

}  // namespace fovea

#endif
