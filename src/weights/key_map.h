// Dialects: how the checkpoints of other code bases name and lay out what we call by timm's names. A dialect is a table of
// rules, read in both directions, plus a function that recognises it; adding one is one file in key_maps/ and one line in
// key_maps/dialects.cc.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "weights/key_pattern.h"
#include "weights/weight_file.h"

namespace fovea {

struct Dialect;

// What a file's names and shapes say about the model in it; the models turn it into their configuration, and a configuration
// into facts where a file is to be written.
//   kind "vit", "vit_projection" (whose head has no bias), "deit" (with a distillation token), "deit_distilled" (and two heads): patch_size, in_channels, dim, depth, attention_width (num_heads * head_dim, not always dim),
//     mlp_width, num_classes (0: no head), tokens (rows of the position table, prefix included; 0: none), prefix_tokens,
//     class_token, register_tokens, qkv_bias, qk_norm, layer_scale (each 0 or 1; a count for register_tokens), norm_eps,
//     pool ("token", "avg", "token_avg" or "map"), head_bias (0 or 1), activation (customary), parallel (attentions of a block), block_norm (where a model is written), image_size where the patch tokens form a square, num_heads (see `assumed`); distillation_token,
//     gated, pre_norm (0 or 1), last_norm ("tokens", "pooled", "none"), representation (its width), positions (0 or 1, where a model is written), prefix_positions, register_positions (0
//     or 1: the table has rows for them), position_resampling, patch_rest (of the home; see models/config.h)
//   kind "swin", "swin_v2": swin_version (1 or 2), patch_size, in_channels, dim, depths ("2,2,6,2"), num_heads ("3,6,12,24"), window_sizes
//     ("7,7,7,7"; absent when the windows are not square or, in version 2, not told by buffers), pretrained_windows (version 2,
//     likewise, where buffers tell them), mlp_width (of the first stage), num_classes, qkv_bias, pyramid_norms (0 or 1),
//     first_pyramid_norm (a stage), norm_eps, merge_norm_eps (where the home has another one between blocks); and what the home does with other sizes: window_rule, resample (attention/window.h),
//     patch_rest (models/config.h), fixed_windows (0 or 1: windows and shifts are those of the model's own size); and, where there are
//     any, absolute_positions (1), position_map (0 or 1: (1, C, H, W)), position_grid ("56,56"), position_resampling, image_size
//   kind "cswin": patch_size, in_channels, dim, depths, branches ("2,2,2,1": of each stage), num_heads (see `assumed`), mlp_width (of
//     the first stage), num_classes, qkv_bias, qk_norm, layer_scale, pyramid_norms, norm_eps; stripes are unknown
struct RecognisedModel {
  using Value = std::variant<int64_t, double, std::string>;

  std::string kind;
  const Dialect* dialect = nullptr;
  std::map<std::string, Value> facts;
  std::vector<std::string> assumed;  // keys of `facts` that are the dialect's customary value, not visible in the file
  std::vector<std::string> unknown;  // settings that the file cannot tell and that have no customary value
  std::string prefix;                // of the model's names in the file ("backbone."); what has another is no part of the model

  int64_t integer(std::string_view key, int64_t otherwise = 0) const;  // throws InternalError when it is not an integer
};

// One tensor under another name: views of tensors (possibly permuted), concatenated along the first dimension.
struct MappedTensor {
  std::string name;
  Shape shape;
  std::vector<WeightTensor> parts;
  std::optional<WeightTensor> scale = std::nullopt;  // (shape[0]) where the parts hold int8 (int8_rows.h)

  // Integers of outputs [begin, end), read to `first`, become weights.
  void scale_rows(int64_t begin, int64_t end, float* first) const;
  void scale_rows(int64_t begin, int64_t end, double* first) const;

  void read(float* out) const;   // writes shape.elements() values in row-major order
  void read(double* out) const;
};

// Another view (shape, strides, grid) of the same elements; may throw Error when the shape does not fit the model.
using ViewTransform = WeightTensor (*)(const WeightTensor&, const RecognisedModel&);
WeightTensor unchanged(const WeightTensor& t, const RecognisedModel& model);

// `from` is the dialect's name, `to` ours (patterns: key_pattern.h).
//   reading: the first rule whose `from` matches applies. Rules with the same `to` and other `part`s are concatenated (separate
//     q, k, v -> qkv). Rules with the same `from` and other `slice`s all apply, each to its share of the tensor's rows.
//   writing: the first rule whose `to` matches applies, so an older name follows the current one. Ours is cut into `parts` equal
//     shares of rows; slices that nothing fills are zeros.
struct KeyRule {
  std::string_view from, to;
  ViewTransform transform = nullptr;  // on reading; nullptr: as it stands
  int part = 0, parts = 1;
  ViewTransform inverse = nullptr;    // on writing: undoes `transform`; nullptr with a `transform`: the rule only reads
  int slice = 0, slices = 1;
};

// What a dialect stores besides parameters (indices, masks, tables of coordinates).
struct ConstantTensor {
  std::string name;
  StoredType type = StoredType::kF32;
  Shape shape;
  std::vector<std::byte> data;  // row-major
};
ConstantTensor f32_constant(std::string name, const Shape& shape, const std::vector<float>& values);
ConstantTensor i64_constant(std::string name, const Shape& shape, const std::vector<int64_t>& values);

// One kind of model that a dialect holds, and the names that tell it from the other dialects' (patterns; all are there in a
// complete file, or nearly all).
struct DialectKind {
  std::string_view kind;
  std::vector<std::string_view> signs;
};

struct Dialect {
  std::string_view name;                   // "timm", "torchvision-swin", "huggingface-vit": a home, then what it is used for
  std::vector<KeyRule> rules;
  std::vector<std::string_view> ignored;   // patterns of tensors that carry no parameters: buffers, masks
  std::optional<RecognisedModel> (*recognise)(const WeightFile&);  // leaves `dialect` and `prefix` to the caller
  std::vector<DialectKind> kinds = {};
  // Patterns of what circulating files hold beside the model (decoders, training heads): left out, and named once.
  std::vector<std::string_view> beside = {};
  // What to write besides parameters; nullptr: nothing.
  std::vector<ConstantTensor> (*constants)(const RecognisedModel&) = nullptr;
  // Why its home cannot hold such a model although there are names for its tensors; "": it can.
  std::string (*refuses)(const RecognisedModel&) = nullptr;

  bool holds(std::string_view kind) const;
};

struct MappedWeights {
  std::string path;
  std::vector<MappedTensor> tensors;     // in the file's order
  std::vector<std::string> unmatched;    // names that no rule knows
  std::vector<std::string> ignored;
  std::vector<std::string> beside = {};  // names outside of the model: of another prefix, or the dialect's `beside`

  const MappedTensor* find(std::string_view name) const;
};

std::span<const Dialect> dialects();  // the first that recognises a file reads it

// The first dialect that recognises the file, or else what lies under one prefix in it; nullopt when none does.
std::optional<RecognisedModel> recognise(const WeightFile& file);
// The same, but throws Error naming the file, some of its tensors, and the dialect that it is nearly in or all that are known.
RecognisedModel require_recognised(const WeightFile& file);
// "; the file is nearly 'timm' (swin): it has 3 of the 5 names that mark it, not 'a', 'b'" for the best of the dialects but
// `except`, when it has half of its signs at least; otherwise "".
std::string nearly(const WeightFile& file, const Dialect* except);

// Applies the dialect of `model` to the file. Throws Error when two tensors map to one name or parts are missing.
MappedWeights map_keys(const WeightFile& file, const RecognisedModel& model);

// The dialects to write a model of `kind` in, the first that can express it: one by its name, or all of the home that their names
// begin with ("huggingface" for "huggingface-vit" and "huggingface-dinov2"; "hf", "transformers", "ms" and "facebookresearch" are
// understood, too). Throws Error that lists what there is for this kind.
std::vector<const Dialect*> dialects_named(std::string_view name, std::string_view kind);
// Names and layout of `ours` in the dialect: views of their elements. Throws Error that lists what the dialect has no name for.
std::vector<MappedTensor> write_as(const Dialect& dialect, std::span<const WeightTensor> ours, const RecognisedModel& model);

// For recognisers: the number of n = 0, 1, ... for which the pattern with {i} = n is a name of the file; a dimension of a tensor,
// or `otherwise` when the tensor is absent or of lower rank.
int64_t count_keys(const WeightFile& file, std::string_view pattern);
int64_t dimension(const WeightFile& file, std::string_view name, int dim, int64_t otherwise = 0);
// n when value = n * n, else nullopt.
std::optional<int64_t> exact_root(int64_t value);
// Rows [share * rows / shares, (share + 1) * rows / shares) of a tensor. Throws Error when they do not divide.
WeightTensor rows_of(const WeightTensor& t, int share, int shares);

}  // namespace fovea
