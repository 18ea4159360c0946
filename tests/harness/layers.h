// The product's layers as the gradient oracle sees them: a builder makes the layer over the oracle's parameter store.
#pragma once

#include "blocks/transformer_block.h"
#include "harness/layer_under_test.h"

namespace fovea::harness {

// A layer from three functions. Object is anything movable that the build function returns.
template <class Object>
class BuiltLayer : public LayerUnderTest {
 public:
  using Inputs = std::span<const ConstTensor>;
  using Outputs = std::span<const Tensor>;
  struct Parts {
    std::vector<Shape> inputs, outputs;
    std::function<std::unique_ptr<Object>(ParamStore&)> build;
    std::function<void(Object&, Inputs, Outputs, Tape*, Context&)> forward;
    std::function<void(Object&, Inputs, Outputs, Tape&, Context&)> backward;  // doutputs, dinputs
  };
  explicit BuiltLayer(const Parts& parts) : parts_(parts), object_(parts.build(params())) {}
  std::vector<Shape> input_shapes() const override { return parts_.inputs; }
  std::vector<Shape> output_shapes() const override { return parts_.outputs; }
  void forward(Inputs in, Outputs out, Tape* tape, Context& ctx) override { parts_.forward(*object_, in, out, tape, ctx); }
  void backward(Inputs dout, Outputs din, Tape& tape, Context& ctx) override { parts_.backward(*object_, dout, din, tape, ctx); }

 private:
  Parts parts_;
  std::unique_ptr<Object> object_;
};

template <class Object>
LayerFactory built(typename BuiltLayer<Object>::Parts parts) {
  return [parts = std::move(parts)] { return std::make_unique<BuiltLayer<Object>>(parts); };
}

inline AttentionConfig attention_config(int64_t dim, int64_t heads, int64_t max_tokens = 0) {
  AttentionConfig c;
  c.dim = dim;
  c.heads = heads;
  c.max_tokens = max_tokens;
  return c;
}

// What is wrong with a SPEC, or "".
inline std::string spec_error(const std::string& spec) {
  try {
    (void)parse_attention_stages(spec);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

// x -> y of an attention on a grid; unless the configuration says otherwise it is built for two tokens more.
inline LayerFactory attention_layer(const AttentionSpec& spec, const AttentionConfig& config, const TokenGrid& grid,
                                    const std::function<void(AttentionInputs&)>& adjust = {}) {
  const Shape shape{grid.batch, grid.tokens(), config.dim};
  AttentionConfig sized = config;
  if (sized.max_tokens == 0) sized.max_tokens = grid.tokens() + 2;
  return built<Attention>({{shape},
                           {shape},
                           [=](ParamStore& p) { return make_attention(spec, Scope(p) / "attn", sized); },
                           [=](Attention& a, auto in, auto out, Tape* tape, Context& ctx) {
                             AttentionInputs inputs;
                             inputs.x = in[0];
                             inputs.grid = grid;
                             if (adjust) adjust(inputs);
                             a.forward(inputs, out[0], tape, ctx);
                           },
                           [](Attention& a, auto dout, auto din, Tape& tape, Context& ctx) {
                             a.backward(dout[0], {din[0], {}, {}}, tape, ctx);
                           }});
}

inline LayerFactory block_layer(const BlockConfig& config, const TokenGrid& grid) {
  const Shape shape{grid.batch, grid.tokens(), config.heads.dim};
  return built<TransformerBlock>({{shape},
                                  {shape},
                                  [=](ParamStore& p) { return std::make_unique<TransformerBlock>(Scope(p), config); },
                                  [=](TransformerBlock& b, auto in, auto out, Tape* tape, Context& ctx) {
                                    AttentionInputs inputs;
                                    inputs.x = in[0];
                                    inputs.grid = grid;
                                    b.forward(inputs, out[0], tape, ctx);
                                  },
                                  [](TransformerBlock& b, auto dout, auto din, Tape& tape, Context& ctx) {
                                    std::memcpy(din[0].data, dout[0].data, din[0].bytes());
                                    b.backward(din[0], tape, ctx);
                                  }});
}

}  // namespace fovea::harness
