// Window attention of Swin V1, plain and shifted (W-MSA, SW-MSA) with a relative position bias (Liu et al. 2021, 2103.14030).
#pragma once

#include "attention/bias_table.h"
#include "attention/multi_head.h"
#include "attention/registry.h"

namespace fovea {

// What happens where the map is no multiple of the window, or smaller than it: three choices, which differ between the
// frameworks that checkpoints come from.
struct WindowRule {
  enum class Shrink : uint8_t { kNo, kPerAxis, kBothAxes } shrink = Shrink::kPerAxis;
  enum class ZeroShift : uint8_t { kNo, kPerAxis, kBothAxes } zero_shift = ZeroShift::kPerAxis;
  enum class Pad : uint8_t { kBeforeRoll, kAfterRoll } pad = Pad::kAfterRoll;

  static WindowRule microsoft() { return {Shrink::kBothAxes, ZeroShift::kBothAxes, Pad::kBeforeRoll}; }
  static WindowRule timm() { return {Shrink::kPerAxis, ZeroShift::kPerAxis, Pad::kAfterRoll}; }
  static WindowRule torchvision() { return {Shrink::kNo, ZeroShift::kPerAxis, Pad::kBeforeRoll}; }
  static WindowRule mmdet() { return {Shrink::kNo, ZeroShift::kNo, Pad::kBeforeRoll}; }
  static WindowRule named(const std::string& preset);  // throws Error listing the four
};

struct WindowConfig {
  int64_t window_h = 7, window_w = 7;
  int64_t shift_h = 0, shift_w = 0;
  WindowRule rule;
  bool position_bias = true;  // false: no table (the local half of Twins)
  bool pad_keys = true;       // false: windows that leave the map are smaller; true: they hold tokens of zeros as keys
  bool strict = false;        // part of a union: slots outside the map are no keys, and regions never meet
  int64_t table_h = 0, table_w = 0;  // window that the bias table is for; 0: the one above
  TableResampling resampling = TableResampling::kCrop;  // of the table, for windows of another size
};

// The window and shift that a rule leaves for a map.
struct WindowGeometry {
  int64_t window_h, window_w, shift_h, shift_w;
  int64_t padded_h, padded_w;
};
WindowGeometry window_geometry(int64_t height, int64_t width, const WindowConfig& config);

// Windows as token groups: row-major windows, row-major slots, pad slots where the window leaves the map, region labels
// where shifted windows join parts that are no neighbours (penalty -100, which checkpoints were trained with). Prefix tokens
// meet all.
TokenGroups window_groups(const TokenGrid& grid, const WindowConfig& config);

// The options of a SPEC that say which windows, and what they say for a block of a stage.
std::vector<AttentionKind::Option> window_options(const std::string& default_size);
WindowConfig window_config(const AttentionOptions& options, int64_t block);

// Who meets whom in windows, whatever place adds to a score.
class WindowsGeometry : public AttentionGeometry {
 public:
  const TokenGroups& groups(const AttentionInputs& in, Context& ctx) const override;
  std::vector<PairPattern> pattern(const TokenGrid& grid, bool causal) const override;
  double pairs(const TokenGrid& grid) const override;
  std::vector<std::string> unsupported(const TokenGrid& grid) const override;

 protected:
  WindowsGeometry(const AttentionConfig& config, const WindowConfig& window);

  const WindowConfig& window() const { return window_; }
  int64_t heads() const { return heads_; }
  // Slot pair -> row of a table of offsets, (y_i - y_j + Th - 1)(2 Tw - 1) + (x_i - x_j + Tw - 1), query minus key, for a table of
  // windows Th x Tw: a smaller window uses its central offsets. Prefix keys come last and have none.
  const std::vector<int32_t>& table_index(const TokenGrid& grid, int64_t table_h, int64_t table_w, Context& ctx) const;

 private:
  WindowConfig window_;
  int64_t heads_;
  bool cross_;
};

class WindowAttentionGeometry : public WindowsGeometry {
 public:
  // Parameter scope/relative_position_bias_table ((2 Th - 1)(2 Tw - 1), H) for the table's window Th x Tw, with position_bias.
  WindowAttentionGeometry(const Scope& scope, const AttentionConfig& config, const WindowConfig& window);

  bool has_score_bias() const override { return table_ != nullptr; }
  void score_bias(const AttentionInputs& in, const TokenGroups& groups, Tensor bias, Context& ctx) const override;
  void score_bias_backward(const AttentionInputs& in, const TokenGroups& groups, ConstTensor dbias, Context& ctx) const override;

 private:
  TableSizes table_sizes(const TokenGrid& grid) const;  // from the table's window to the one in use on this map

  Param* table_ = nullptr;
};

class WindowAttention : public MultiHeadAttention {
 public:
  WindowAttention(const Scope& scope, const AttentionConfig& config, const WindowConfig& window)
      : MultiHeadAttention(scope, config, std::make_unique<WindowAttentionGeometry>(scope, config, window)) {}
};

}  // namespace fovea
