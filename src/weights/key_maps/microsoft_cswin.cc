// The official CSWin layout, whose names are ours; what remains is to read the model off its shapes.
#include "core/check.h"
#include "weights/key_maps/key_maps.h"

namespace fovea {

namespace {

// Heads a stage, as published for the three widths of the first stage; the shapes do not show them.
std::string customary_heads(int64_t dim) {
  switch (dim) {
    case 64: return "2,4,8,16";
    case 96: return "4,8,16,32";
    case 144: return "6,12,24,24";
    default: return "";
  }
}

std::optional<RecognisedModel> recognise_cswin(const WeightFile& file) {
  const WeightTensor* stem = file.find("stage1_conv_embed.0.weight");
  if (stem == nullptr || stem->shape.rank() != 4) return std::nullopt;
  std::vector<int64_t> depths, branches;
  while (true) {
    const std::string stage = fmt::format("stage{}.", depths.size() + 1);
    const int64_t depth = count_keys(file, stage + "{i}.qkv.weight");
    if (depth == 0) break;
    depths.push_back(depth);
    branches.push_back(file.find(stage + "0.attns.1.get_v.weight") != nullptr ? 2 : 1);
  }
  if (depths.empty()) return std::nullopt;

  RecognisedModel m;
  m.kind = "cswin";
  m.facts["dim"] = stem->shape[0];
  m.facts["in_channels"] = stem->shape[1];
  m.facts["patch_size"] = int64_t{4};
  m.facts["depths"] = fmt::format("{}", fmt::join(depths, ","));
  m.facts["branches"] = fmt::format("{}", fmt::join(branches, ","));
  m.facts["mlp_width"] = dimension(file, "stage1.0.mlp.fc1.weight", 0);
  m.facts["num_classes"] = dimension(file, "head.weight", 0);
  m.facts["qkv_bias"] = int64_t{file.find("stage1.0.qkv.bias") != nullptr};
  m.facts["qk_norm"] = int64_t{file.find("stage1.0.q_norm.weight") != nullptr};
  m.facts["layer_scale"] = int64_t{file.find("stage1.0.ls1.gamma") != nullptr};
  m.facts["pyramid_norms"] = int64_t{file.find("norm1.weight") != nullptr};
  m.facts["norm_eps"] = 1e-5;
  m.assumed.push_back("norm_eps");
  if (const std::string heads = customary_heads(stem->shape[0]); !heads.empty() && depths.size() == 4) {
    m.facts["num_heads"] = heads;
    m.assumed.push_back("num_heads");
  } else {
    m.unknown.push_back("num_heads");
  }
  m.unknown.insert(m.unknown.end(), {"stripes", "image_size", "mean", "std"});
  return m;
}

}  // namespace

Dialect microsoft_cswin_dialect() {
  return {"microsoft-cswin", {{"{*}", "{*}"}}, {}, recognise_cswin,
          {{"cswin", {"stage1_conv_embed.0.weight", "stage1.{i}.qkv.weight", "stage1.{i}.attns.0.get_v.weight", "merge1.conv.weight"}}}};
}

}  // namespace fovea
