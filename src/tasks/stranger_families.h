// What each family of models reads off a file's facts, and how its configuration is stated as facts; see stranger_config.h,
// which does what they share.
#pragma once

#include <functional>

#include "fovea/model.h"
#include "models/config.h"
#include "weights/key_map.h"

namespace fovea {

// What a family's code sees.
struct Stranger {
  const WeightFile& file;
  const RecognisedModel& model;
  const Settings& settings;
};

// Says that a setting is assumed, unless it is among the user's.
using Assume = std::function<void(std::string_view key, const std::string& value)>;

// The preset with the longest name, or other name, in the file's name or in a configuration beside it whose shape is that of the
// weights, or nullptr.
const ModelConfig* preset_in_name(const std::string& path, const ModelConfig& like);

// The architecture; `config` has what all families share.
void set_vit(ModelConfig& config, const Stranger& stranger);
void set_swin(ModelConfig& config, const Stranger& stranger);
void set_cswin(ModelConfig& config, const Stranger& stranger);

// What depends on the size of the images, which is known now, and what to say of it; `preset`: see above.
void finish_vit(ModelConfig& config, const Stranger& stranger, const ModelConfig* preset, const Assume& assume);
void finish_swin(ModelConfig& config, const Stranger& stranger, const ModelConfig* preset, const Assume& assume);
void finish_cswin(ModelConfig& config, const Stranger& stranger, const ModelConfig* preset, const Assume& assume);

// The side of the images that a hierarchical model's windows were made for, where nothing else tells it.
int64_t customary_side(const ModelConfig& config, const RecognisedModel& model);

void add_vit_facts(const ModelConfig& config, RecognisedModel& model);
void add_swin_facts(const ModelConfig& config, RecognisedModel& model);
void add_cswin_facts(const ModelConfig& config, RecognisedModel& model);

}  // namespace fovea
