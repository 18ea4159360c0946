// What the tensors of a Swin or Swin V2 say of it once they have our names, whichever code base they come from.
#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "weights/key_maps/swin_dialects.h"

namespace fovea {

namespace {

// The file under our names as far as renaming goes; parts of a tensor show as the first of them.
WeightFile under_our_names(const WeightFile& file, std::span<const KeyRule> rules) {
  std::vector<WeightTensor> tensors;
  for (const WeightTensor& t : file.tensors())
    for (const KeyRule& rule : rules) {
      auto name = rename_key(rule.from, rule.to, t.name);
      if (!name) continue;
      if (rule.part == 0 && rule.slice == 0) {
        tensors.push_back(t);
        tensors.back().name = *std::move(name);
      }
      break;
    }
  // Two names of one parameter are map_keys' to refuse.
  std::ranges::stable_sort(tensors, {}, &WeightTensor::name);
  tensors.erase(std::unique(tensors.begin(), tensors.end(), [](const WeightTensor& a, const WeightTensor& b) { return a.name == b.name; }), tensors.end());
  return {file.path(), file.container(), std::move(tensors), {}, nullptr};
}

// A block's window, square, as far as its tensors tell: the bias table of version 1 has (2 w - 1)^2 rows; in version 2 only
// buffers depend on it, which many files leave out.
std::optional<int64_t> window_of(const WeightFile& file, const std::string& attention) {
  const int64_t offsets = dimension(file, attention + "relative_position_bias_table", 0);
  if (const auto span = exact_root(offsets); offsets > 0 && span && *span % 2 == 1) return (*span + 1) / 2;
  const int64_t rows = dimension(file, attention + "relative_coords_table", 1), columns = dimension(file, attention + "relative_coords_table", 2);
  if (offsets == 0 && rows > 0 && rows == columns && rows % 2 == 1) return (rows + 1) / 2;
  // (n, n), or (n n) in torchvision's files, for n tokens.
  const WeightTensor* index = file.find(attention + "relative_position_index");
  if (offsets > 0 || index == nullptr || index->shape.rank() == 0) return std::nullopt;
  const auto tokens = index->shape.rank() == 1 ? exact_root(index->shape[0]) : std::optional<int64_t>(index->shape[0]);
  return tokens && *tokens > 0 ? exact_root(*tokens) : std::nullopt;
}

// What version 2 measures its offsets against, from the largest of them: t = log8(8 (w - 1) / (w' - 1) + 1).
std::optional<int64_t> pretrained_window_of(const WeightFile& file, const std::string& attention, int64_t window) {
  const std::string name = attention + "relative_coords_table";
  const WeightTensor* table = file.find(name);
  if (table == nullptr || table->shape.elements() < 1 || window < 2) return std::nullopt;
  std::vector<float> values(static_cast<size_t>(table->shape.elements()));
  file.read_f32(name, values.data());
  const double u = std::exp2(3.0 * static_cast<double>(*std::ranges::max_element(values))) - 1;
  if (!(u > 1e-3)) return std::nullopt;
  return 1 + std::llround(8.0 * static_cast<double>(window - 1) / u);
}

struct StageFacts {
  std::vector<int64_t> depths, heads, windows, pretrained;
};

std::optional<StageFacts> stages_of(const WeightFile& file, int64_t version) {
  StageFacts s;
  while (true) {
    const std::string stage = fmt::format("layers.{}.blocks.", s.depths.size()), attention = stage + "0.attn.";
    const int64_t depth = count_keys(file, stage + "{i}.attn.qkv.weight");
    if (depth == 0) break;
    const WeightTensor* per_head = file.find(attention + (version == 2 ? "logit_scale" : "relative_position_bias_table"));
    if (per_head == nullptr || per_head->shape.rank() != (version == 2 ? 3 : 2)) return std::nullopt;
    s.depths.push_back(depth);
    s.heads.push_back(per_head->shape[version == 2 ? 0 : 1]);
    const auto window = window_of(file, attention);
    if (!window) continue;
    s.windows.push_back(*window);
    if (const auto reference = version == 2 ? pretrained_window_of(file, attention, *window) : std::nullopt) s.pretrained.push_back(*reference);
  }
  if (s.depths.empty()) return std::nullopt;
  return s;
}

std::string listed_numbers(const std::vector<int64_t>& values) { return fmt::format("{}", fmt::join(values, ",")); }

}  // namespace

std::optional<RecognisedModel> recognise_swin(const WeightFile& theirs, std::span<const KeyRule> rules, const SwinManners& manners) {
  const WeightFile file = under_our_names(theirs, rules);
  const WeightTensor* patches = file.find("patch_embed.proj.weight");
  if (patches == nullptr || patches->shape.rank() != 4) return std::nullopt;
  const int64_t version = file.find("layers.0.blocks.0.attn.cpb_mlp.0.weight") != nullptr ? 2 : 1;
  const auto stages = stages_of(file, version);
  if (!stages) return std::nullopt;

  RecognisedModel m;
  m.kind = version == 2 ? "swin_v2" : "swin";
  m.facts["swin_version"] = version;
  m.facts["dim"] = patches->shape[0];
  m.facts["patch_size"] = patches->shape[2];
  m.facts["in_channels"] = patches->shape[1];
  m.facts["depths"] = listed_numbers(stages->depths);
  m.facts["num_heads"] = listed_numbers(stages->heads);
  m.facts["mlp_width"] = dimension(file, "layers.0.blocks.0.mlp.fc1.weight", 0);
  m.facts["num_classes"] = dimension(file, "head.fc.weight", 0);
  m.facts["qkv_bias"] = int64_t{file.find(fmt::format("layers.0.blocks.0.attn.{}", version == 2 ? "q_bias" : "qkv.bias")) != nullptr};
  if (const WeightTensor* positions = file.find("absolute_pos_embed")) {
    const bool map = positions->shape.rank() == 4;
    const std::optional<int64_t> side = positions->shape.rank() == 3 ? exact_root(positions->shape[1]) : std::nullopt;
    if (!map && !side) return std::nullopt;
    const int64_t height = map ? positions->shape[2] : *side, width = map ? positions->shape[3] : *side;
    m.facts["absolute_positions"] = int64_t{1};
    m.facts["position_map"] = int64_t{map};
    m.facts["position_grid"] = listed_numbers({height, width});
    m.facts["position_resampling"] = std::string(map ? "bicubic" : manners.position_resampling);
    if (height == width) m.facts["image_size"] = height * patches->shape[2];
  }
  m.facts["norm_eps"] = 1e-5;
  m.assumed.push_back("norm_eps");
  if (manners.merge_norm_epsilon > 0) m.facts["merge_norm_eps"] = manners.merge_norm_epsilon;
  const auto count = std::ssize(stages->depths);
  int64_t first_norm = 0;
  while (first_norm < count && file.find(fmt::format("norm{}.weight", first_norm)) == nullptr) ++first_norm;
  const bool pyramid = first_norm < count;
  m.facts["pyramid_norms"] = int64_t{pyramid};
  if (pyramid) m.facts["first_pyramid_norm"] = first_norm;
  m.facts["window_rule"] = std::string(pyramid ? manners.dense_rule : manners.window_rule);
  m.facts["resample"] = std::string(manners.resampling);
  m.facts["patch_rest"] = std::string(manners.drops_rest ? "drop" : "pad");
  m.facts["fixed_windows"] = int64_t{manners.fixed_windows};
  if (std::ssize(stages->windows) == count) m.facts["window_sizes"] = listed_numbers(stages->windows);
  else m.unknown.push_back("window_sizes");
  if (std::ssize(stages->pretrained) == count) m.facts["pretrained_windows"] = listed_numbers(stages->pretrained);
  if (!m.facts.contains("image_size")) m.unknown.push_back("image_size");
  m.unknown.insert(m.unknown.end(), {"mean", "std"});
  return m;
}

}  // namespace fovea
