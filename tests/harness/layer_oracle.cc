#include "harness/layer_oracle.h"

#include <algorithm>
#include <cmath>

#include "core/convert.h"
#include "harness/tables.h"

namespace fovea::harness {

namespace {

// Parameter gradients start here, so that a backward that writes instead of adding is found out. A power of two: adding
// and subtracting it costs only the last bits.
constexpr double kGradientStart = 0.125;

constexpr uint64_t kParamTag = 1, kInputTag = 2, kOutputTag = 3, kDirectionTag = 4, kTrainingTag = 5;

// Fills memory that the next takes will get with NaN (in every floating type).
void poison(Arena& arena) {
  ArenaScope scope(arena);
  constexpr size_t kBytes = size_t{4} << 20;
  std::memset(arena.take(kBytes), 0xff, kBytes);
}
void poison(const Tensor& t) {
  if (t.bytes() != 0) std::memset(t.data, 0xff, t.bytes());
}

std::vector<ConstTensor> const_views(const std::vector<HostTensor>& tensors) { return {tensors.begin(), tensors.end()}; }
std::vector<Tensor> views(const std::vector<HostTensor>& tensors) { return {tensors.begin(), tensors.end()}; }

void set_mode(Context& ctx, const OracleOptions& options) {
  if (options.training) ctx.set_training(true, Rng(options.seed).fork(kTrainingTag));
}

std::unique_ptr<LayerUnderTest> make_layer(const LayerFactory& make, DType dtype, ParamStore::Gradients gradients,
                                           const OracleOptions& options) {
  auto layer = make();
  layer->params().allocate(dtype, gradients);
  randomise(layer->params(), Rng(options.seed).fork(kParamTag));
  return layer;
}

std::vector<HostTensor> make_inputs(const LayerUnderTest& layer, DType dtype, const OracleOptions& options) {
  const Rng rng = Rng(options.seed).fork(kInputTag);
  std::vector<HostTensor> inputs;
  for (size_t i = 0; i < layer.input_shapes().size(); ++i) inputs.push_back(layer.make_input(i, rng.fork(i), dtype));
  return inputs;
}

std::vector<HostTensor> make_outputs(const LayerUnderTest& layer, DType dtype) {
  std::vector<HostTensor> outputs;
  for (const Shape& s : layer.output_shapes()) {
    outputs.emplace_back(s, dtype);
    poison(outputs.back());
  }
  return outputs;
}

std::vector<HostTensor> make_doutputs(const LayerUnderTest& layer, DType dtype, const OracleOptions& options) {
  const Rng rng = Rng(options.seed).fork(kOutputTag);
  const auto shapes = layer.output_shapes();
  std::vector<HostTensor> doutputs;
  for (size_t i = 0; i < shapes.size(); ++i)
    doutputs.push_back(layer.output_differentiable(i) ? random_tensor(shapes[i], rng.fork(i), dtype)
                                                      : HostTensor(shapes[i], dtype));
  return doutputs;
}

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Backward with the parameters' gradients started at kGradientStart; the gradients of inputs, then of parameters.
std::vector<LayerRun::Gradient> run_backward(LayerUnderTest& layer, const std::vector<HostTensor>& doutputs, Tape& tape,
                                             Context& ctx) {
  const DType dtype = layer.params().params().empty() ? ctx.dtype() : layer.params().dtype();
  for (const Param& p : layer.params().params())
    if (!p.buffer) fill(p.grad, kGradientStart);
  std::vector<HostTensor> owned;
  std::vector<Tensor> dinputs;
  const auto shapes = layer.input_shapes();
  for (size_t i = 0; i < shapes.size(); ++i) {
    owned.emplace_back(shapes[i], dtype);
    poison(owned.back());
    dinputs.push_back(layer.input_differentiable(i) ? Tensor(owned.back()) : Tensor());
  }
  poison(ctx.scratch());
  layer.backward(const_views(doutputs), dinputs, tape, ctx);

  std::vector<LayerRun::Gradient> gradients;
  for (size_t i = 0; i < shapes.size(); ++i)
    if (layer.input_differentiable(i)) gradients.push_back({fmt::format("input {}", i), std::move(owned[i])});
  for (const Param& p : layer.params().params()) {
    if (p.buffer) continue;
    gradients.push_back({p.name, copy_of(p.grad)});
    const Tensor& g = gradients.back().value;
    for (int64_t i = 0; i < g.elements(); ++i) store_scalar(g, i, load_scalar(g, i) - kGradientStart);
  }
  return gradients;
}

// The forward on dual numbers, kept so that many directions can be tried.
class DualForward {
 public:
  DualForward(const LayerFactory& make, const OracleOptions& options)
      : ctx_(kernel_table("reference.dual"), DType::kDual, 1),
        layer_(make_layer(make, DType::kDual, ParamStore::Gradients::kNo, options)),
        inputs_(make_inputs(*layer_, DType::kDual, options)) {
    set_mode(ctx_, options);
    for (size_t i = 0; i < inputs_.size(); ++i)
      if (layer_->input_differentiable(i)) blocks_.push_back(inputs_[i]);
    for (const Param& p : layer_->params().params())
      if (!p.buffer) blocks_.push_back(p.value);
  }

  // Inputs and parameters in the order of LayerRun::gradients.
  const std::vector<Tensor>& blocks() const { return blocks_; }

  // The outputs' derivatives along the direction that is set in the blocks' dual parts.
  std::vector<HostTensor> run() {
    std::vector<HostTensor> outputs = make_outputs(*layer_, DType::kDual);
    layer_->params().drop_packed();
    poison(ctx_.scratch());
    poison(tape_.arena());
    layer_->forward(const_views(inputs_), views(outputs), &tape_, ctx_);
    tape_.clear();
    return outputs;
  }

 private:
  Context ctx_;
  Tape tape_;
  std::unique_ptr<LayerUnderTest> layer_;
  std::vector<HostTensor> inputs_;
  std::vector<Tensor> blocks_;
};

void check_zero_declarations(const LayerRun& run, const OracleOptions& options, double bound,
                             std::vector<std::string>& problems) {
  double largest = 0;
  for (const auto& g : run.gradients)
    for (int64_t i = 0; i < g.value.elements(); ++i) largest = std::max(largest, std::abs(load_scalar(g.value, i)));
  for (const std::string& name : options.zero_gradients)
    if (std::none_of(run.gradients.begin(), run.gradients.end(), [&](const auto& g) { return g.name == name; }))
      problems.push_back(fmt::format("'{}' is declared to have no gradient, but there is no such input or parameter", name));
  for (const auto& g : run.gradients) {
    if (g.value.elements() == 0) {
      problems.push_back(fmt::format("'{}' has no elements: nothing is tested", g.name));
      continue;
    }
    double own = 0;
    for (int64_t i = 0; i < g.value.elements(); ++i) {
      const double x = load_scalar(g.value, i);
      own = std::isfinite(x) ? std::max(own, std::abs(x)) : INFINITY;
    }
    if (!std::isfinite(own)) {
      problems.push_back(fmt::format("the gradient of '{}' is not finite or was not written", g.name));
    } else if (contains(options.zero_gradients, g.name)) {
      if (own > bound) problems.push_back(fmt::format("the gradient of '{}' should be zero but reaches {}", g.name, own));
    } else if (own <= 1e-14 * largest || own == 0) {
      problems.push_back(fmt::format("the gradient of '{}' is zero everywhere, which is not declared", g.name));
    }
  }
}

}  // namespace

LayerRun run_layer(const LayerFactory& make, const KernelTable& table, int threads, const OracleOptions& options) {
  Context ctx(table, table.dtype, threads);
  set_mode(ctx, options);
  LayerRun run;
  run.layer = make_layer(make, table.dtype, ParamStore::Gradients::kYes, options);
  run.inputs = make_inputs(*run.layer, table.dtype, options);
  run.doutputs = make_doutputs(*run.layer, table.dtype, options);
  run.outputs = make_outputs(*run.layer, table.dtype);
  run.inference_outputs = make_outputs(*run.layer, table.dtype);
  const std::vector<HostTensor> inputs_before = make_inputs(*run.layer, table.dtype, options);
  const HostTensor values_before = copy_of(run.layer->params().values());

  Tape tape;
  poison(ctx.scratch());
  poison(tape.arena());
  size_t scratch_before = ctx.scratch().used();
  {
    ArenaScope scope(ctx.scratch());  // without a tape activations live in the scratch
    run.layer->forward(const_views(run.inputs), views(run.inference_outputs), nullptr, ctx);
  }
  poison(ctx.scratch());
  run.layer->forward(const_views(run.inputs), views(run.outputs), &tape, ctx);
  if (ctx.scratch().used() != scratch_before) run.problems.push_back("the recording forward keeps scratch memory");
  scratch_before = ctx.scratch().used();
  run.gradients = run_backward(*run.layer, run.doutputs, tape, ctx);
  if (ctx.scratch().used() != scratch_before) run.problems.push_back("the backward keeps scratch memory");
  if (!tape.empty()) run.problems.push_back(fmt::format("the backward leaves {} records on the tape", tape.size()));

  for (size_t i = 0; i < run.inputs.size(); ++i)
    if (run.inputs[i].elements() != 0 && !compare_bits(run.inputs[i], inputs_before[i]).empty())
      run.problems.push_back(fmt::format("input {} was changed", i));
  if (values_before.elements() != 0 && !compare_bits(run.layer->params().values(), values_before).empty())
    run.problems.push_back("a forward or backward changed a parameter");
  return run;
}

std::vector<std::string> check_adjoint(const LayerFactory& make, const OracleOptions& options) {
  const LayerRun run = run_layer(make, kernel_table("reference"), 1, options);
  std::vector<std::string> problems = run.problems;
  if (!options.training) {
    for (size_t i = 0; i < run.outputs.size(); ++i)
      if (const auto fault = compare(run.inference_outputs[i], run.outputs[i], Tolerance::relative(1e-12)); !fault.empty())
        problems.push_back(fmt::format("output {} of the inference forward: {}", i, fault));
  }
  check_zero_declarations(run, options, 1e-9, problems);

  DualForward dual(make, options);
  check(dual.blocks().size() == run.gradients.size(), "the layer differs from one construction to the next");
  const Rng rng = Rng(options.seed).fork(kDirectionTag);
  for (size_t block = 0; block < run.gradients.size(); ++block) {
    const auto& [name, gradient] = run.gradients[block];
    Dual* x = dual.blocks()[block].as<Dual>();
    const Rng direction = rng.fork(block);
    double expected = 0, actual = 0, magnitude = 0;
    for (int64_t i = 0; i < gradient.elements(); ++i) {
      x[i].d = direction.normal(static_cast<uint64_t>(i));
      const double term = load_scalar(gradient, i) * x[i].d;
      actual += term;
      magnitude += std::abs(term);
    }
    const std::vector<HostTensor> derivatives = dual.run();
    for (size_t o = 0; o < derivatives.size(); ++o) {
      if (!run.layer->output_differentiable(o)) continue;
      const Dual* d = derivatives[o].as<Dual>();
      for (int64_t i = 0; i < derivatives[o].elements(); ++i) {
        const double term = load_scalar(run.doutputs[o], i) * d[i].d;
        expected += term;
        magnitude += std::abs(term);
      }
    }
    for (int64_t i = 0; i < gradient.elements(); ++i) x[i].d = 0;
    const double floor = contains(options.zero_gradients, name) ? 1e-9 : 0;
    if (!(std::abs(actual - expected) <= options.tolerance * magnitude + floor))
      problems.push_back(fmt::format("the gradient of '{}' is wrong: <dy, J u> = {:.12g} but <J^T dy, u> = {:.12g} (terms sum to {:.3g})",
                                     name, expected, actual, magnitude));
  }
  return problems;
}

std::vector<std::string> check_jacobian(const LayerFactory& make, const OracleOptions& options) {
  std::vector<std::string> problems;
  Context ctx(kernel_table("reference"), DType::kF64, 1);
  set_mode(ctx, options);
  auto layer = make_layer(make, DType::kF64, ParamStore::Gradients::kYes, options);
  const std::vector<HostTensor> inputs = make_inputs(*layer, DType::kF64, options);
  std::vector<HostTensor> doutputs;
  for (const Shape& s : layer->output_shapes()) doutputs.emplace_back(s, DType::kF64);

  // Rows by backward: rows[block][output element][block element].
  std::vector<std::vector<double>> by_backward;
  std::vector<std::string> names;
  Tape tape;
  int64_t output_elements = 0;
  for (size_t o = 0; o < doutputs.size(); ++o) {
    if (!layer->output_differentiable(o)) continue;
    for (int64_t e = 0; e < doutputs[o].elements(); ++e, ++output_elements) {
      std::vector<HostTensor> outputs = make_outputs(*layer, DType::kF64);
      poison(tape.arena());
      layer->forward(const_views(inputs), views(outputs), &tape, ctx);
      doutputs[o].as<double>()[e] = 1;
      const auto gradients = run_backward(*layer, doutputs, tape, ctx);
      doutputs[o].as<double>()[e] = 0;
      tape.clear();
      by_backward.resize(gradients.size());
      names.resize(gradients.size());
      for (size_t b = 0; b < gradients.size(); ++b) {
        names[b] = gradients[b].name;
        const double* g = gradients[b].value.as<double>();
        by_backward[b].insert(by_backward[b].end(), g, g + gradients[b].value.elements());
      }
    }
  }
  if (output_elements == 0) return {"there is no differentiable output element: nothing is tested"};

  DualForward dual(make, options);
  for (size_t b = 0; b < dual.blocks().size(); ++b) {
    const int64_t n = dual.blocks()[b].elements();
    std::vector<double> by_forward(static_cast<size_t>(output_elements * n));
    for (int64_t i = 0; i < n; ++i) {
      Dual* x = dual.blocks()[b].as<Dual>() + i;
      x->d = 1;
      const std::vector<HostTensor> derivatives = dual.run();
      x->d = 0;
      int64_t row = 0;
      for (size_t o = 0; o < derivatives.size(); ++o) {
        if (!layer->output_differentiable(o)) continue;
        for (int64_t e = 0; e < derivatives[o].elements(); ++e, ++row)
          by_forward[static_cast<size_t>(row * n + i)] = derivatives[o].as<Dual>()[e].d;
      }
    }
    const std::string fault = contains(options.zero_gradients, names[b])
                                  ? compare_zero(view(by_backward[b]), 1e-9)
                                  : compare(view(by_backward[b]), view(by_forward), Tolerance::relative(options.tolerance));
    if (!fault.empty()) problems.push_back(fmt::format("the Jacobian of '{}' (output, element): {}", names[b], fault));
  }
  return problems;
}

std::vector<std::string> check_like_reference(const LayerFactory& make, const KernelTable& table,
                                              const TableTolerance& tolerance, const OracleOptions& options) {
  const LayerRun expected = run_layer(make, kernel_table("reference"), 1, options);
  const LayerRun actual = run_layer(make, table, 1, options);
  std::vector<std::string> problems = actual.problems;
  check_zero_declarations(expected, options, 1e-9, problems);
  const auto note = [&](const std::string& what, const std::string& fault) {
    if (!fault.empty()) problems.push_back(fmt::format("{} on {}: {}", what, table.name, fault));
  };
  for (size_t i = 0; i < expected.outputs.size(); ++i) {
    note(fmt::format("output {}", i), compare(actual.outputs[i], expected.outputs[i], Tolerance::relative(tolerance.output)));
    note(fmt::format("output {} of the inference forward", i),
         compare(actual.inference_outputs[i], expected.inference_outputs[i], Tolerance::relative(tolerance.output)));
  }
  for (size_t i = 0; i < expected.gradients.size(); ++i) {
    const auto& [name, gradient] = expected.gradients[i];
    note(fmt::format("the gradient of '{}'", name),
         contains(options.zero_gradients, name)
             ? compare_zero(actual.gradients[i].value, tolerance.zero_gradient)
             : compare(actual.gradients[i].value, gradient, Tolerance::relative(tolerance.gradient)));
  }
  return problems;
}

std::vector<std::string> check_threads(const LayerFactory& make, const KernelTable& table, const OracleOptions& options) {
  const LayerRun one = run_layer(make, table, 1, options);
  std::vector<std::string> problems = one.problems;
  for (const int threads : {2, 3, 5}) {
    const LayerRun many = run_layer(make, table, threads, options);
    const auto note = [&](const std::string& what, const std::string& fault) {
      if (!fault.empty()) problems.push_back(fmt::format("{} on {} with {} threads: {}", what, table.name, threads, fault));
    };
    for (size_t i = 0; i < one.outputs.size(); ++i) {
      note(fmt::format("output {}", i), compare_bits(many.outputs[i], one.outputs[i]));
      note(fmt::format("output {} of the inference forward", i),
           compare_bits(many.inference_outputs[i], one.inference_outputs[i]));
    }
    for (size_t i = 0; i < one.gradients.size(); ++i)
      note(fmt::format("the gradient of '{}'", one.gradients[i].name),
           compare_bits(many.gradients[i].value, one.gradients[i].value));
  }
  return problems;
}

}  // namespace fovea::harness
