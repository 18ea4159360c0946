#include "fovea/info.h"

#include "attention/registry.h"
#include "heads/classifier.h"
#include "image/dataset.h"
#include "kernels/kernel_table.h"

namespace fovea {

std::vector<ModelListing> list_models() {
  std::vector<ModelListing> out;
  for (const ModelPreset& p : model_presets()) {
    const Classifier classifier(p.config);
    const InputConfig& input = p.config.input;
    out.push_back({p.config.name, p.summary, p.config.attention, classifier.params().count(), input.height, input.width,
                   1e-9 * classifier.flops(1, input.height, input.width)});
  }
  return out;
}

std::vector<AttentionListing> list_attentions() {
  std::vector<AttentionListing> out;
  for (const AttentionKind& k : attention_kinds()) {
    AttentionListing& a = out.emplace_back();
    a.name = k.name;
    a.summary = k.summary;
    a.paper = k.paper;
    a.cost = k.cost;
    for (const auto& o : k.options) a.options.push_back({o.name, o.default_value, o.help});
  }
  return out;
}

std::vector<DatasetListing> list_datasets() {
  std::vector<DatasetListing> out;
  for (const InstalledDataset& d : installed_datasets())
    out.push_back({d.name, d.installed ? d.summary : fmt::format("{} (install the package {})", d.summary, d.package), d.path.string(), d.installed});
  return out;
}

std::vector<KernelListing> list_kernels() {
  const auto summary = [](std::string_view name) -> std::string {
    if (name == "reference") return "plain loops in f64: the oracle of the tests, slow";
    if (name == "cpu.baseline") return "f32, SSSE3: any x86-64 processor of the last fifteen years";
    if (name == "cpu.avx2") return "f32, AVX2 and FMA";
    if (name == "cpu.avx512") return "f32, AVX-512 (F, BW, CD, DQ, VL)";
    return "f32";
  };
  const std::string_view chosen = kernel_table("auto").name;
  std::vector<KernelListing> out;
  for (const std::string_view name : kernel_table_names())
    if (kernel_table(name).dtype != DType::kDual) out.push_back({std::string(name), summary(name), name == chosen});
  return out;
}

std::string version() { return FOVEA_VERSION; }

}  // namespace fovea
