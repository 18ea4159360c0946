// What the gradient oracle runs: anything with a forward and a backward, from one kernel to a whole model.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/context.h"
#include "core/param_store.h"
#include "harness/host_tensor.h"

namespace fovea::harness {

// A subclass builds its layer in the constructor over params(), which the oracle allocates and fills afterwards.
class LayerUnderTest {
 public:
  virtual ~LayerUnderTest() = default;

  ParamStore& params() { return params_; }

  virtual std::vector<Shape> input_shapes() const = 0;
  virtual std::vector<Shape> output_shapes() const = 0;
  virtual bool input_differentiable(size_t) const { return true; }   // otherwise its dinput is an empty tensor
  virtual bool output_differentiable(size_t) const { return true; }  // otherwise its doutput is zeros
  // The default is N(0, 1). The same numbers for every dtype.
  virtual HostTensor make_input(size_t i, const Rng& rng, DType dtype) const {
    return random_tensor(input_shapes()[i], rng, dtype);
  }

  // tape == nullptr: inference. Outputs are written.
  virtual void forward(std::span<const ConstTensor> inputs, std::span<const Tensor> outputs, Tape* tape, Context& ctx) = 0;
  // dinputs are written, Param::grad is added to.
  virtual void backward(std::span<const ConstTensor> doutputs, std::span<const Tensor> dinputs, Tape& tape, Context& ctx) = 0;

 private:
  ParamStore params_;
};

using LayerFactory = std::function<std::unique_ptr<LayerUnderTest>()>;

// An operation without an object of its own, such as a kernel, as a layer without parameters. The backward gets the
// forward's inputs and outputs.
struct Operation {
  struct Argument {
    Shape shape;
    bool differentiable = true;
    std::function<HostTensor(const Rng&, DType)> make = nullptr;  // null: N(0, 1)
  };
  struct Result {
    Shape shape;
    bool differentiable = true;
  };
  std::vector<Argument> inputs;
  std::vector<Result> outputs;
  std::function<void(std::span<const ConstTensor> inputs, std::span<const Tensor> outputs, Context&)> forward;
  std::function<void(std::span<const ConstTensor> inputs, std::span<const ConstTensor> outputs,
                     std::span<const ConstTensor> doutputs, std::span<const Tensor> dinputs, Context&)>
      backward;
};

LayerFactory layer_of(const Operation& operation);

}  // namespace fovea::harness
