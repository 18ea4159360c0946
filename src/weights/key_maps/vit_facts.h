// What every dialect of ViT shares: the model is read off its tensors' shapes once they have our names.
#pragma once

#include "weights/key_map.h"

namespace fovea {

// Which tokens the position table has rows for, where its length leaves it open (a table without registers has 4 rows less).
enum class TableRows : uint8_t { kAll, kWithoutRegisters };

// What the names and shapes cannot tell, as the dialect's home has it.
struct VitHome {
  double norm_epsilon = 1e-6;
  std::string_view position_resampling = "antialiased";  // see cubic_rule_named
  std::string_view patch_rest = "pad";
  TableRows table = TableRows::kAll;
  std::string_view activation = "";                      // where no file beside the weights tells it; "": gelu
};

// The ViT in `file` under the names of these rules; nullopt where there is none. Facts as key_map.h lists them.
std::optional<RecognisedModel> recognise_vit(const WeightFile& file, std::span<const KeyRule> rules, std::span<const std::string_view> ignored,
                                             const VitHome& home);

// Placeholders of several prefixes: the rules with each of these before their `from`. The views last as long as the program.
std::vector<KeyRule> under_prefixes(std::span<const std::string_view> prefixes, std::span<const KeyRule> rules);

// For homes whose position tables always have a row for the class token (Dialect::refuses).
std::string needs_class_position(const RecognisedModel& model);

// Kinds: "vit"; "vit_projection" with a head without bias; "deit_distilled" with two heads; "deit" with a distillation token and one head or none.

}  // namespace fovea
