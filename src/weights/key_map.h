// Dialects: how the checkpoints of other code bases name and lay out what we call by timm's names. A dialect is a table of
// rules plus a function that recognises it; adding one is one file in key_maps/ and one line in dialects().
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "weights/weight_file.h"

namespace fovea {

struct Dialect;

// What a file's names and shapes say about the model in it; the models turn it into their configuration.
//   kind "vit", "deit_distilled": patch_size, in_channels, dim, depth, attention_width (num_heads * head_dim, not always dim),
//     mlp_width, num_classes (0: no head), tokens (rows of the position table, prefix included; 0: none), prefix_tokens,
//     class_token, register_tokens, qkv_bias, qk_norm, layer_scale (each 0 or 1; a count for register_tokens), norm_eps,
//     pool ("token" or "avg"), image_size where the patch tokens form a square, num_heads (see `assumed`)
//   kind "swin": swin_version (1 or 2), patch_size, in_channels, dim, depths ("2,2,6,2"), num_heads ("3,6,12,24"), window_sizes
//     ("7,7,7,7"; absent when the windows are not square or, in version 2, not told by buffers), pretrained_windows (version 2,
//     likewise, where buffers tell them), mlp_width (of the first stage), num_classes, qkv_bias, norm_eps
//   kind "cswin": patch_size, in_channels, dim, depths, branches ("2,2,2,1": of each stage), num_heads (see `assumed`), mlp_width (of
//     the first stage), num_classes, qkv_bias, qk_norm, layer_scale, pyramid_norms, norm_eps; stripes are unknown
struct RecognisedModel {
  using Value = std::variant<int64_t, double, std::string>;

  std::string kind;
  const Dialect* dialect = nullptr;
  std::map<std::string, Value> facts;
  std::vector<std::string> assumed;  // keys of `facts` that are the dialect's customary value, not visible in the file
  std::vector<std::string> unknown;  // settings that the file cannot tell and that have no customary value

  int64_t integer(std::string_view key, int64_t otherwise = 0) const;  // throws InternalError when it is not an integer
};

// One tensor under our name: views of the file's tensors (possibly permuted), concatenated along the first dimension.
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

// Another view (shape and strides) of the same elements; may throw Error when the shape does not fit the model.
using ViewTransform = WeightTensor (*)(const WeightTensor&, const RecognisedModel&);

// Patterns are names with placeholders: {i} stands for a number, {*} for any text. `to` repeats the placeholders; {i+1} and
// {i-1} shift a number. Rules with the same result and other `part`s are concatenated (separate q, k, v -> qkv).
struct KeyRule {
  std::string_view from, to;
  ViewTransform transform = nullptr;
  int part = 0, parts = 1;
};

struct Dialect {
  std::string_view name;
  std::vector<KeyRule> rules;              // the first that matches applies
  std::vector<std::string_view> ignored;   // patterns of tensors that carry no parameters: buffers, masks
  std::optional<RecognisedModel> (*recognise)(const WeightFile&);  // leaves `dialect` to the caller
};

struct MappedWeights {
  std::string path;
  std::vector<MappedTensor> tensors;     // in the file's order
  std::vector<std::string> unmatched;    // names that no rule knows
  std::vector<std::string> ignored;

  const MappedTensor* find(std::string_view name) const;
};

std::span<const Dialect> dialects();

// The first dialect that recognises the file, or nullopt.
std::optional<RecognisedModel> recognise(const WeightFile& file);
// The same, but throws Error naming the file, some of its tensors and the dialects known when none does.
RecognisedModel require_recognised(const WeightFile& file);

// Applies the dialect of `model` to the file. Throws Error when two tensors map to one name or parts are missing.
MappedWeights map_keys(const WeightFile& file, const RecognisedModel& model);

// For recognisers: the placeholders' values when `name` matches `pattern`; the number of n = 0, 1, ... for which the pattern
// with {i} = n is a name of the file; a dimension of a tensor, or `otherwise` when the tensor is absent or of lower rank.
std::optional<std::vector<std::string_view>> match_key(std::string_view pattern, std::string_view name);
int64_t count_keys(const WeightFile& file, std::string_view pattern);
int64_t dimension(const WeightFile& file, std::string_view name, int dim, int64_t otherwise = 0);
// n when value = n * n, else nullopt.
std::optional<int64_t> exact_root(int64_t value);

}  // namespace fovea
