// The gradient oracle must accept a right layer and name every kind of wrong one.
#include "harness/layer_oracle.h"

#include <gtest/gtest.h>

#include "harness/expect.h"
#include "kernels/kernel_table.h"

namespace fovea::harness {
namespace {

// What is wrong with the layer below.
enum class Flaw {
  kNone,
  kGradientOfInput,      // one element of dx
  kGradientOfWeight,     // one element of dweight
  kGradientOfBias,       // dbias is missing
  kWritesWeight,         // dweight is written, not added
  kAccumulatesInput,     // dx is added to, not written
  kSecondInputIgnored,   // d of the second input is zeros
  kLeavesRecord,         // the backward does not pop
  kChangesInput,         // the backward writes into x
  kChangesParameter,
  kInferenceDiffers,
  kKeepsScratch,
  kBackwardKeepsScratch,
  kReadsUnwritten,       // uses fresh scratch memory as if it were zero
  kDependsOnThreads,
  kWrongOnFloat,         // right in double only
};

// y = relu(x · w + bias) ∘ gate, with x (4, 3), w (3, 2), bias (2), gate (4, 2).
class Gated : public LayerUnderTest {
 public:
  explicit Gated(Flaw flaw) : flaw_(flaw) {
    const Scope scope(params());
    weight_ = scope.param("weight", Shape{3, 2}, Init::normal(1), Decay::kYes);
    bias_ = scope.param("bias", Shape{2}, Init::zeros(), Decay::kNo);
  }
  std::vector<Shape> input_shapes() const override { return {Shape{4, 3}, Shape{4, 2}}; }
  std::vector<Shape> output_shapes() const override { return {Shape{4, 2}}; }

  struct Record {
    ConstTensor x, gate, pre;
  };

  void forward(std::span<const ConstTensor> in, std::span<const Tensor> out, Tape* tape, Context& ctx) override {
    if (flaw_ == Flaw::kKeepsScratch) ctx.scratch().take(64);
    const Tensor pre = ctx.activation(Shape{4, 2}, tape);
    GemmArgs g;
    g.m = 4;
    g.n = 2;
    g.k = 3;
    g.a = in[0].data;
    g.a_stride = 3;
    g.b = weight_->value.data;
    g.b_stride = 2;
    g.bias = bias_->value.data;
    g.c = pre.data;
    g.c_stride = 2;
    ctx.kernels().gemm(g, ctx);
    const Tensor active = ctx.activation(Shape{4, 2}, tape);
    ctx.kernels().activation(Activation::kGelu, 8, pre.data, active.data, ctx);
    if (ctx.dtype() == DType::kDual) return multiply<Dual>(in[1], active, out[0], tape, {in[0], in[1], pre}, ctx);
    if (ctx.dtype() == DType::kF64) return multiply<double>(in[1], active, out[0], tape, {in[0], in[1], pre}, ctx);
    multiply<float>(in[1], active, out[0], tape, {in[0], in[1], pre}, ctx);
  }

  void backward(std::span<const ConstTensor> dout, std::span<const Tensor> din, Tape& tape, Context& ctx) override {
    if (flaw_ == Flaw::kBackwardKeepsScratch) ctx.scratch().take(64);
    const Record r = flaw_ == Flaw::kLeavesRecord ? record_ : tape.pop<Record>();
    if (ctx.dtype() == DType::kF64) return backward_as<double>(r, dout[0], din, ctx);
    backward_as<float>(r, dout[0], din, ctx);
  }

 private:
  template <class T>
  void multiply(const ConstTensor& gate, const Tensor& active, const Tensor& y, Tape* tape, const Record& record,
                const Context& ctx) {
    for (int i = 0; i < 8; ++i) y.as<T>()[i] = gate.as<T>()[i] * active.as<T>()[i];
    if (flaw_ == Flaw::kInferenceDiffers && !tape) y.as<T>()[3] += T(1);
    if (flaw_ == Flaw::kDependsOnThreads && ctx.pool().threads() > 2) y.as<T>()[0] += T(1);
    if (flaw_ == Flaw::kWrongOnFloat && ctx.dtype() == DType::kF32) y.as<T>()[5] += T(0.01f);
    record_ = record;
    if (tape) tape->push(record);
  }

  template <class T>
  void backward_as(const Record& r, const ConstTensor& dout, std::span<const Tensor> din, Context& ctx) {
    ArenaScope scope(ctx.scratch());
    T* dactive = ctx.scratch().take<T>(8);
    T* active = ctx.scratch().take<T>(8);
    ctx.kernels().activation(Activation::kGelu, 8, r.pre.data, active, ctx);
    for (int i = 0; i < 8; ++i) {
      dactive[i] = dout.as<T>()[i] * r.gate.as<T>()[i];
      din[1].as<T>()[i] = flaw_ == Flaw::kSecondInputIgnored ? T(0) : dout.as<T>()[i] * active[i];
    }
    ctx.kernels().activation_backward(Activation::kGelu, 8, r.pre.data, dactive, dactive, ctx);
    const T* w = weight_->value.as<T>();
    T* dw = weight_->grad.as<T>();
    if (flaw_ == Flaw::kWritesWeight) weight_->grad.zero();
    for (int row = 0; row < 4; ++row)
      for (int c = 0; c < 3; ++c) {
        T sum = flaw_ == Flaw::kReadsUnwritten ? *ctx.scratch().take<T>(1) : T(0);
        for (int j = 0; j < 2; ++j) {
          sum += dactive[row * 2 + j] * w[c * 2 + j];
          dw[c * 2 + j] += dactive[row * 2 + j] * r.x.as<T>()[row * 3 + c];
        }
        T& dx = din[0].as<T>()[row * 3 + c];
        dx = flaw_ == Flaw::kAccumulatesInput ? dx + sum : sum;
      }
    for (int i = 0; i < 8 && flaw_ != Flaw::kGradientOfBias; ++i) bias_->grad.as<T>()[i % 2] += dactive[i];
    if (flaw_ == Flaw::kGradientOfInput) din[0].as<T>()[7] *= T(1.0001f);
    if (flaw_ == Flaw::kGradientOfWeight) dw[1] += T(1e-4f);
    if (flaw_ == Flaw::kChangesInput) const_cast<T*>(r.x.as<T>())[2] += T(1);  // NOLINT: the flaw
    if (flaw_ == Flaw::kChangesParameter) weight_->value.as<T>()[0] += T(1);
  }

  Flaw flaw_;
  Param* weight_;
  Param* bias_;
  Record record_;
};

LayerFactory gated(Flaw flaw) {
  return [flaw] { return std::make_unique<Gated>(flaw); };
}

// Some problem contains `part`.
::testing::AssertionResult finds(const std::vector<std::string>& problems, const std::string& part) {
  for (const std::string& p : problems)
    if (p.find(part) != std::string::npos) return ::testing::AssertionSuccess();
  auto failure = ::testing::AssertionFailure() << "none of " << problems.size() << " problems says '" << part << "'";
  for (const std::string& p : problems) failure << "\n  " << p;
  return failure;
}

TEST(Oracle, AcceptsARightLayer) {
  expect_adjoint(gated(Flaw::kNone));
  expect_jacobian(gated(Flaw::kNone));
  for (const KernelTable* table : f32_tables()) {
    expect_like_reference(gated(Flaw::kNone), *table);
    expect_same_for_any_threads(gated(Flaw::kNone), *table);
  }
}

TEST(Oracle, FindsWrongGradients) {
  EXPECT_TRUE(finds(check_adjoint(gated(Flaw::kGradientOfInput)), "the gradient of 'input 0' is wrong"));
  EXPECT_TRUE(finds(check_adjoint(gated(Flaw::kGradientOfWeight)), "the gradient of 'weight' is wrong"));
  EXPECT_TRUE(finds(check_jacobian(gated(Flaw::kGradientOfInput)), "the Jacobian of 'input 0'"));
  EXPECT_TRUE(finds(check_jacobian(gated(Flaw::kGradientOfWeight)), "the Jacobian of 'weight'"));
  EXPECT_EQ(check_adjoint(gated(Flaw::kGradientOfInput)).size(), 1u) << "the other gradients are right";
}

TEST(Oracle, FindsMissingGradients) {
  EXPECT_TRUE(finds(check_adjoint(gated(Flaw::kGradientOfBias)), "the gradient of 'bias' is zero everywhere"));
  EXPECT_TRUE(finds(check_adjoint(gated(Flaw::kSecondInputIgnored)), "the gradient of 'input 1' is zero everywhere"));
  EXPECT_TRUE(finds(check_jacobian(gated(Flaw::kGradientOfBias)), "the Jacobian of 'bias'"));
}

TEST(Oracle, HoldsDeclaredZerosToZero) {
  OracleOptions options;
  options.zero_gradients = {"bias"};
  EXPECT_TRUE(finds(check_adjoint(gated(Flaw::kNone), options), "the gradient of 'bias' should be zero"));
  EXPECT_TRUE(finds(check_adjoint(gated(Flaw::kGradientOfBias), options), "the gradient of 'bias' is wrong"));
  EXPECT_TRUE(finds(check_jacobian(gated(Flaw::kNone), options), "the Jacobian of 'bias'"));
  options.zero_gradients = {"no_such_parameter"};
  EXPECT_TRUE(finds(check_adjoint(gated(Flaw::kNone), options), "there is no such input or parameter"));
}

TEST(Oracle, FindsBrokenRulesOfWriting) {
  EXPECT_TRUE(finds(check_adjoint(gated(Flaw::kWritesWeight)), "the gradient of 'weight' is wrong"));
  EXPECT_TRUE(finds(check_adjoint(gated(Flaw::kAccumulatesInput)), "'input 0' is not finite or was not written"));
  EXPECT_TRUE(finds(check_adjoint(gated(Flaw::kLeavesRecord)), "leaves 1 records on the tape"));
  EXPECT_TRUE(finds(check_adjoint(gated(Flaw::kChangesInput)), "input 0 was changed"));
  EXPECT_TRUE(finds(check_adjoint(gated(Flaw::kChangesParameter)), "changed a parameter"));
  EXPECT_TRUE(finds(check_adjoint(gated(Flaw::kKeepsScratch)), "the recording forward keeps scratch memory"));
  EXPECT_TRUE(finds(check_adjoint(gated(Flaw::kBackwardKeepsScratch)), "the backward keeps scratch memory"));
  EXPECT_TRUE(finds(check_adjoint(gated(Flaw::kReadsUnwritten)), "not finite"));
  EXPECT_TRUE(finds(check_adjoint(gated(Flaw::kInferenceDiffers)), "output 0 of the inference forward"));
}

TEST(Oracle, FindsTablesThatDiffer) {
  const KernelTable& baseline = kernel_table("cpu.baseline");
  EXPECT_TRUE(finds(check_like_reference(gated(Flaw::kWrongOnFloat), baseline), "output 0 on cpu.baseline"));
  EXPECT_TRUE(finds(check_threads(gated(Flaw::kDependsOnThreads), baseline), "output 0 on cpu.baseline with 3 threads"));
}

TEST(Oracle, ComparesGradientsOnEachTableWithTheReference) {
  // An operation whose backward is wrong in f32 alone.
  Operation square;
  square.inputs = {{Shape{5}}};
  square.outputs = {{Shape{5}}};
  square.forward = [](auto in, auto out, Context& ctx) {
    out[0].zero();
    ctx.kernels().scale_add(5, 2, in[0].data, out[0].data, ctx);
  };
  square.backward = [](auto, auto, auto dout, auto din, Context& ctx) {
    din[0].zero();
    ctx.kernels().scale_add(5, ctx.dtype() == DType::kF32 ? 2.001 : 2.0, dout[0].data, din[0].data, ctx);
  };
  EXPECT_TRUE(check_adjoint(layer_of(square)).empty());
  EXPECT_TRUE(check_jacobian(layer_of(square)).empty());
  EXPECT_TRUE(finds(check_like_reference(layer_of(square), kernel_table("cpu.baseline")), "the gradient of 'input 0' on"));
}

TEST(Randomise, MovesEveryParameterEquallyInEveryType) {
  ParamStore single, wide;
  for (ParamStore* store : {&single, &wide}) {
    store->add("a.weight", Shape{4, 4}, Init::normal(1), Decay::kYes);
    store->add("a.bias", Shape{4}, Init::zeros(), Decay::kNo);
    store->add("norm", Shape{3}, Init::ones(), Decay::kNo);
  }
  single.allocate(DType::kF32, ParamStore::Gradients::kNo);
  wide.allocate(DType::kF64, ParamStore::Gradients::kNo);
  randomise(single, Rng(1));
  randomise(wide, Rng(1));
  for (const Param& p : single.params()) {
    expect_close(p.value, wide.find(p.name)->value, Tolerance::absolute(0), p.name);
    EXPECT_NE(value_at(p.value, 0), value_at(p.value, 1));
    EXPECT_NE(value_at(p.value, 2), p.init.kind == Init::Kind::kOnes ? 1 : 0);
  }
  randomise(single, Rng(2));
  copy_values(wide, single);
  expect_close(single.find("a.bias")->value, wide.find("a.bias")->value, Tolerance::absolute(0), "copied");
}

}  // namespace
}  // namespace fovea::harness
