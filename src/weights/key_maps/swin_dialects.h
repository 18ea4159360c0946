// What the dialects of Swin and Swin V2 share: recognition, the order of merged patches, and the buffers that files hold.
#pragma once

#include <string>

#include "weights/key_maps/key_maps.h"

namespace fovea {

// What a home's code does with maps of all sizes, which no file tells (attention/window.h has the rules).
struct SwinManners {
  std::string_view window_rule = "timm";
  std::string_view dense_rule = "mmdet";      // of backbones for detection and segmentation, which have a norm for each stage
  std::string_view resampling = "geometric";  // of bias tables
  std::string_view position_resampling = "none";  // of absolute positions (1, N, C), where there are any; maps (1, C, H, W) of them are resampled
  double merge_norm_epsilon = 0;              // of the norms between blocks, whatever that of the others; 0: the same
  bool drops_rest = false;                    // of pixels beyond the last whole patch
  bool fixed_windows = false;                 // windows and shifts stay those of the size that the model is built for
};

// Recognises either version by its tensors, to which `rules` give our names.
std::optional<RecognisedModel> recognise_swin(const WeightFile& file, std::span<const KeyRule> rules, const SwinManners& manners);

// Four neighbours joined as mmcv's unfold has them, channel by channel and row by row, in our order: block by block (0,0), (1,0),
// (0,1), (1,1), and the way back. For the merge's weight (outputs, 4 C) and for its norm (4 C).
WeightTensor from_unfold_order(const WeightTensor& t, const RecognisedModel& model);
WeightTensor to_unfold_order(const WeightTensor& t, const RecognisedModel& model);

// Absolute positions kept as a map (1, C, H, W), or (1, N, C) as it stands; and the way back.
WeightTensor from_position_map(const WeightTensor& t, const RecognisedModel& model);
WeightTensor to_position_map(const WeightTensor& t, const RecognisedModel& model);

// relative_position_index and, in version 2, relative_coords_table of every block; `attention` names its folder ("layers.0.blocks.1.attn.").
using AttentionName = std::string (*)(int64_t stage, int64_t block);
std::vector<ConstantTensor> window_constants(const RecognisedModel& model, AttentionName attention, bool flat_index);

}  // namespace fovea
