#include <algorithm>
#include <functional>
#include <set>

#include "parity/check_case.h"
#include "core/convert.h"

namespace fovea::parity {

namespace {

// Ten times the float32 noise of the references (fixtures' README); double: the rounding of the stored values.
double tolerance_of(const nlohmann::json& config, const std::string& tensor, DType dtype) {
  if (dtype == DType::kF64) return 2e-7;
  const bool output = tensor.rfind("out.", 0) == 0;
  const std::string mechanism = config.at("mechanism"), name = config.value("case", "");
  if (name.find("large_logits") != std::string::npos) return output ? 1e-5 : 1.1e-4;
  // A temperature of up to 100 multiplies what the scores err.
  if (mechanism.rfind("swin_v2", 0) == 0) return output ? 4e-5 : 3.5e-4;
  if (mechanism.rfind("backbone_swin_v2", 0) == 0) return output ? 1e-4 : 5e-4;
  if (mechanism.rfind("backbone", 0) == 0) return output ? 1e-5 : 2.5e-5;
  return output ? 5e-6 : 1.5e-5;
}

constexpr double kZeroBelow = 1e-9, kZeroTolerance = 1e-6;

}  // namespace

CheckCase::CheckCase(const harness::Fixture& f, const KernelTable& table)
    : fixture(f), config(f.config), ctx(table, table.dtype, 1) {}

Tensor CheckCase::keep(harness::HostTensor tensor) {
  kept_.push_back(std::make_unique<harness::HostTensor>(std::move(tensor)));
  return *kept_.back();
}

Tensor CheckCase::input(const std::string& name) { return keep(fixture.tensor("in." + name, ctx.dtype())); }
Tensor CheckCase::upstream(const std::string& name) { return keep(fixture.tensor("gout." + name, ctx.dtype())); }
Tensor CheckCase::memory(const Shape& shape) { return keep(harness::HostTensor(shape, ctx.dtype())); }

const uint8_t* CheckCase::bytes(const std::string& name) {
  std::vector<uint8_t> b;
  for (const int32_t v : fixture.ints("in." + name)) b.push_back(v != 0);
  kept_bytes_.push_back(std::move(b));
  return kept_bytes_.back().data();
}

void CheckCase::bind(const std::string& key, const std::string& parameter, int64_t first, int64_t rows) {
  bindings_.push_back({key, parameter, 0, first, rows});
}

void CheckCase::bind_part(const std::string& key, int64_t first, const std::string& parameter) {
  bindings_.push_back({key, parameter, first, 0, -1});
}

void CheckCase::bind_rows(const std::string& key, int64_t key_first, const std::string& parameter, int64_t first, int64_t rows) {
  bindings_.push_back({key, parameter, key_first, first, rows});
}

std::pair<Tensor, Tensor> CheckCase::parameter_view(const Binding& b) {
  Param* p = params.find(b.parameter);
  require(p != nullptr, "the fixture's weight {} has no parameter {}", b.key, b.parameter);
  const int64_t rows = b.rows < 0 ? p->shape[0] - b.parameter_first : b.rows;
  return {p->value.slice(b.parameter_first, rows), p->grad.slice(b.parameter_first, rows)};
}

void CheckCase::load(const std::function<std::string(const std::string&)>& rename) {
  std::set<std::string> bound;
  for (const Binding& b : bindings_) bound.insert(b.key);
  std::set<std::string> unused;
  for (const auto& key : config.value("unused_params_zero_grad", nlohmann::json::array())) unused.insert(key.get<std::string>());
  for (const std::string& name : fixture.names("w.")) {
    const std::string key = name.substr(2), to = rename ? rename(key) : key;
    if (bound.count(key) == 0 && !(unused.count(key) != 0 && params.find(to) == nullptr)) bind(key, to);
  }
  params.allocate(ctx.dtype(), ParamStore::Gradients::kYes);
  std::set<std::string> filled;
  for (const Binding& b : bindings_) {
    const harness::HostTensor from = fixture.tensor("w." + b.key, ctx.dtype());
    const Tensor to = parameter_view(b).first;
    const Tensor part = b.key_first == 0 && from.elements() == to.elements() ? Tensor(from) : Tensor(from.slice(b.key_first, to.dim(0)));
    require(part.elements() == to.elements(), "the fixture's weight {} has shape {}, parameter {} has {}", b.key, from.shape, b.parameter,
            to.shape);
    convert(part, to);
    filled.insert(b.parameter);
  }
  for (const Param& p : params.params())
    require(p.buffer || filled.count(p.name) != 0, "the fixture has no weight for parameter {}", p.name);
}

CheckResult CheckCase::compare() {
  // Gradients of the parameters, in the fixture's layout.
  std::map<std::string, std::vector<double>> weight_gradients;
  for (const Binding& b : bindings_) {
    const std::string key = "grad.w." + b.key;
    if (!fixture.has(key)) continue;
    const Tensor g = parameter_view(b).second;
    auto& all = weight_gradients[key];
    const harness::HostTensor expected = fixture.tensor(key, DType::kF64);
    all.resize(static_cast<size_t>(expected.elements()));
    const int64_t row = expected.dim(0) == 0 ? 0 : expected.elements() / expected.dim(0);
    for (int64_t i = 0; i < g.elements(); ++i) all.at(static_cast<size_t>(b.key_first * row + i)) = load_scalar(g, i);
  }
  for (const auto& [key, values] : weight_gradients) {
    harness::HostTensor t(Shape{static_cast<int64_t>(values.size())}, ctx.dtype());
    for (size_t i = 0; i < values.size(); ++i) store_scalar(t, static_cast<int64_t>(i), values[i]);
    results_[key] = keep(std::move(t));
  }

  CheckResult result{"pass", "", "", 0, 0};
  double worst = -1;
  const auto judge = [&](const std::string& name, double error, double tolerance, const std::string& fault) {
    const double share = std::isnan(error) ? INFINITY : error / tolerance;
    if (share > worst) {
      worst = share;
      result.worst_tensor = name;
      result.worst_error = error;
      result.worst_tolerance = tolerance;
    }
    if (fault.empty()) return;
    if (result.status == "pass") result.why = name + ": " + fault;
    result.status = "fail";
  };
  for (const char* prefix : {"out.", "grad."}) {
    for (const std::string& name : fixture.names(prefix)) {
      const auto it = results_.find(name);
      if (it == results_.end()) {
        judge(name, INFINITY, 0, "the product gives no such tensor");
        continue;
      }
      const harness::HostTensor expected = fixture.tensor(name, DType::kF64);
      if (expected.elements() == 0 && it->second.elements() == 0) continue;
      const harness::HostTensor actual = harness::converted(it->second, DType::kF64);
      double largest = 0;
      for (int64_t i = 0; i < expected.elements(); ++i) largest = std::max(largest, std::fabs(load_scalar(expected, i)));
      if (largest < kZeroBelow) {
        double error = 0;
        for (int64_t i = 0; i < actual.elements(); ++i) {
          const double a = std::fabs(load_scalar(actual, i));
          error = std::isnan(a) ? a : std::max(error, a);
        }
        judge(name, error, kZeroTolerance, harness::compare_zero(actual, kZeroTolerance));
        continue;
      }
      const double tolerance = tolerance_of(config, name, ctx.dtype());
      const Tensor flat = actual.reshaped(Shape{actual.elements()});
      judge(name, actual.elements() == expected.elements() ? harness::relative_error(flat, expected.reshaped(flat.shape)) : INFINITY, tolerance,
            harness::compare(actual, expected, harness::Tolerance::relative(tolerance)));
    }
  }
  if (worst < 0) return {"fail", "", "the fixture stores nothing to compare", 0, 0};
  if (!tape.empty()) return {"fail", "", "the backward left records on the tape", 0, 0};
  return result;
}

}  // namespace fovea::parity
