// What the generated tiles of attention have in common: sums of outer products in registers, and powers of two.
#pragma once

#if defined(__x86_64__)

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/cpu/jit_attention.h"
#include "kernels/cpu/jit_code.h"

namespace fovea {

// True where the processor runs these tiles, those that multiply pairs of bfloat16, and those of fours of bytes besides.
bool attention_code_runs();
bool bf16_attention_code_runs();
bool byte_attention_code_runs();

// A tile is up to 24 vectors of sums, row by row. Four registers hold vectors of the right-hand side and four are spare: an element of the
// left-hand side is broadcast once for its row, since a broadcast inside each multiplication would take the loads' place.
class AttentionTileCode : public JitCode {
 protected:
  static constexpr int kSums = 24;
  static constexpr int kMostVectors = 4;

  AttentionTileCode(size_t bytes, const std::string& name, int rows, int vectors, AttentionElement element = AttentionElement::kFloat)
      : JitCode(bytes, name + "_" + std::to_string(rows) + "x" + std::to_string(vectors) + suffix(element)),
        rows_(rows),
        vectors_(vectors),
        element_(element) {}

  Xbyak::Zmm sum(int i, int j) const { return Xbyak::Zmm(i * vectors_ + j); }
  static Xbyak::Zmm right(int j) { return Xbyak::Zmm(kSums + j); }
  static Xbyak::Zmm spare(int i) { return Xbyak::Zmm(kSums + kMostVectors + i); }
  int panel_bytes() const { return 64 * vectors_; }

  // Rows and vectors of the tile that the functions below are about; a tile may change its shape between two products.
  void set_shape(int rows, int vectors) {
    rows_ = rows;
    vectors_ = vectors;
  }
  int rows() const { return rows_; }
  int vectors() const { return vectors_; }
  AttentionElement element() const { return element_; }
  bool rounds() const { return element_ != AttentionElement::kFloat; }  // what multiplies values is bfloat16
  bool bytes() const { return element_ == AttentionElement::kByteFour; }

  void clear_sums() {
    for (int i = 0; i < rows_; ++i)
      for (int j = 0; j < vectors_; ++j) vpxord(sum(i, j), sum(i, j), sum(i, j));
  }

  // sum(i, j) += left(i) · right(j), both in memory.
  template <class Left, class Right>
  void multiply(const Left& left_of, const Right& right_of) {
    for (int j = 0; j < vectors_; ++j) vmovups(right(j), right_of(j));
    for (int i = 0; i < rows_; ++i) {
      vbroadcastss(spare(i % 4), left_of(i));
      for (int j = 0; j < vectors_; ++j) multiply_add(sum(i, j), spare(i % 4), right(j));
    }
  }

  // Powers of two use `table`, and right and spare registers. load_powers comes first; then power makes x = 2^x, even or odd calls in turn.
  // What is rounded to bfloat16 afterwards has a relative error of 3e-6 and not of 2e-9 before.
  void load_powers(const Xbyak::Reg64& table);
  void power(const Xbyak::Reg64& table, const Xbyak::Zmm& x, int turn);

  // Rows `stride` bytes apart from `row` on, which moves: f(i, j, address).
  template <class F>
  void for_rows(const Xbyak::Reg64& row, const Xbyak::Reg64& stride, const F& f) {
    for (int i = 0; i < rows_; ++i) {
      for (int j = 0; j < vectors_; ++j) f(i, j, ptr[row + 64 * j]);
      if (i + 1 < rows_) add(row, stride);
    }
  }

 private:
  static const char* suffix(AttentionElement element) {
    return element == AttentionElement::kFloat ? "" : element == AttentionElement::kBf16Pair ? "_bf16" : "_int8";
  }
  void multiply_add(const Xbyak::Zmm& sum, const Xbyak::Zmm& left, const Xbyak::Zmm& right) {
    switch (element_) {
      case AttentionElement::kFloat: vfmadd231ps(sum, right, left); break;
      case AttentionElement::kBf16Pair: vdpbf16ps(sum, right, left); break;
      case AttentionElement::kByteFour: vpdpbusd(sum, left, right); break;  // the left one is unsigned
    }
  }

  int rows_, vectors_;
  const AttentionElement element_;
};

}  // namespace fovea

#endif
