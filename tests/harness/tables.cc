#include "harness/tables.h"

#include <functional>

#include "core/convert.h"

namespace fovea::harness {

namespace {

std::vector<const KernelTable*> tables_where(const std::function<bool(DType)>& wanted) {
  std::vector<const KernelTable*> tables;
  for (const std::string_view name : kernel_table_names()) {
    const KernelTable& t = kernel_table(name);
    if (wanted(t.dtype)) tables.push_back(&t);
  }
  return tables;
}

}  // namespace

std::vector<const KernelTable*> f32_tables() {
  return tables_where([](DType t) { return t == DType::kF32; });
}

std::vector<const KernelTable*> real_tables() {
  return tables_where([](DType t) { return t != DType::kDual; });
}

void copy_values(const ParamStore& from, ParamStore& to) {
  check(from.params().size() == to.params().size(), "{} parameters are copied to {}", from.params().size(),
        to.params().size());
  to.drop_packed();
  for (const Param& p : from.params()) {
    Param* q = to.find(p.name);
    check(q != nullptr && q->shape == p.shape, "parameter {} of shape {} has no counterpart", p.name, p.shape);
    convert(p.value, q->value);
  }
}

void randomise(ParamStore& store, const Rng& rng, double noise) {
  store.initialise(rng);
  ParamStore offsets;  // draws by name, as the store itself does
  for (const Param& p : store.params()) offsets.add(p.name + "+", p.shape, Init::normal(noise), Decay::kNo);
  offsets.allocate(DType::kF32, ParamStore::Gradients::kNo);
  offsets.initialise(rng);
  for (Param& p : store.params()) {
    const Param* offset = offsets.find(p.name + "+");
    for (int64_t i = 0; i < p.value.elements(); ++i) {
      const double moved = load_scalar(p.value, i) + load_scalar(offset->value, i);
      store_scalar(p.value, i, static_cast<double>(static_cast<float>(moved)));
    }
  }
}

}  // namespace fovea::harness
