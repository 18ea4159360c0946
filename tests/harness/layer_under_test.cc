#include "harness/layer_under_test.h"

namespace fovea::harness {

namespace {

class OperationLayer : public LayerUnderTest {
 public:
  explicit OperationLayer(const Operation& operation) : operation_(operation) {}

  std::vector<Shape> input_shapes() const override {
    std::vector<Shape> shapes;
    for (const auto& a : operation_.inputs) shapes.push_back(a.shape);
    return shapes;
  }
  std::vector<Shape> output_shapes() const override {
    std::vector<Shape> shapes;
    for (const auto& r : operation_.outputs) shapes.push_back(r.shape);
    return shapes;
  }
  bool input_differentiable(size_t i) const override { return operation_.inputs[i].differentiable; }
  bool output_differentiable(size_t i) const override { return operation_.outputs[i].differentiable; }
  HostTensor make_input(size_t i, const Rng& rng, DType dtype) const override {
    const auto& make = operation_.inputs[i].make;
    return make ? make(rng, dtype) : LayerUnderTest::make_input(i, rng, dtype);
  }
  void forward(std::span<const ConstTensor> inputs, std::span<const Tensor> outputs, Tape* tape, Context& ctx) override {
    operation_.forward(inputs, outputs, ctx);
    if (!tape) return;
    inputs_.assign(inputs.begin(), inputs.end());
    outputs_.assign(outputs.begin(), outputs.end());
  }
  void backward(std::span<const ConstTensor> doutputs, std::span<const Tensor> dinputs, Tape&, Context& ctx) override {
    operation_.backward(inputs_, outputs_, doutputs, dinputs, ctx);
  }

 private:
  Operation operation_;
  std::vector<ConstTensor> inputs_, outputs_;
};

}  // namespace

LayerFactory layer_of(const Operation& operation) {
  return [operation] { return std::make_unique<OperationLayer>(operation); };
}

}  // namespace fovea::harness
