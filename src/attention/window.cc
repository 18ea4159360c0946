#include "attention/window.h"

#include <algorithm>

namespace fovea {

namespace {

constexpr float kRegionPenalty = -100;
constexpr int32_t kPadLabel = 9;  // none of the regions

// One axis of the map: which row of the map, or none, stands at each position of the padded and rolled axis.
std::vector<int32_t> axis_rows(int64_t length, int64_t padded, int64_t shift, WindowRule::Pad pad) {
  std::vector<int32_t> rows(static_cast<size_t>(padded), -1);
  for (int64_t i = 0; i < padded; ++i) {
    const int64_t from = pad == WindowRule::Pad::kBeforeRoll ? (i + shift) % padded : i < length ? (i + shift) % length : length;
    if (from < length) rows[static_cast<size_t>(i)] = static_cast<int32_t>(from);
  }
  return rows;
}

// Region of a position of the rolled axis: 0 on [0, L - W), 1 on [L - W, L - s), 2 on [L - s, L); one region without shift.
int32_t region(int64_t i, int64_t length, int64_t window, int64_t shift) {
  if (shift == 0) return 0;
  return i < length - window ? 0 : i < length - shift ? 1 : 2;
}

// The slots of one row of a window, whose first token is row `begin`, or none is there: neighbours become one run.
template <class AddRun>
void add_window_row(int64_t begin, const int32_t* columns, int64_t count, AddRun&& add) {
  for (int64_t i = 0; i < count;) {
    Run run;
    int64_t end = i + 1;
    if (begin < 0 || columns[i] < 0) {
      while (end < count && (begin < 0 || columns[end] < 0)) ++end;
      run.source = RowSource::kPad;
    } else {
      while (end < count && columns[end] == columns[end - 1] + 1) ++end;
      run.begin = static_cast<int32_t>(begin + columns[i]);
    }
    run.count = static_cast<int32_t>(end - i);
    add(run);
    i = end;
  }
}

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

std::string config_key(const WindowConfig& c) {
  return fmt::format("{}x{} {}x{} {}{}{}{}", c.window_h, c.window_w, c.shift_h, c.shift_w, static_cast<int>(c.rule.shrink),
                     static_cast<int>(c.rule.zero_shift), static_cast<int>(c.rule.pad),
                     fmt::format("{}{}", c.pad_keys ? "" : " ragged", c.strict ? " strict" : ""));
}

}  // namespace

WindowRule WindowRule::named(const std::string& preset) {
  if (preset == "timm") return timm();
  if (preset == "microsoft") return microsoft();
  if (preset == "torchvision") return torchvision();
  if (preset == "mmdet") return mmdet();
  fail("there is no window rule '{}'; choose timm, microsoft, torchvision or mmdet", preset);
}

WindowGeometry window_geometry(int64_t height, int64_t width, const WindowConfig& c) {
  WindowGeometry g{c.window_h, c.window_w, c.shift_h, c.shift_w, 0, 0};
  const bool small_h = height <= c.window_h, small_w = width <= c.window_w;
  const int64_t shorter = std::min(height, width);
  switch (c.rule.shrink) {
    case WindowRule::Shrink::kNo: break;
    case WindowRule::Shrink::kPerAxis:
      if (small_h) g.window_h = height;
      if (small_w) g.window_w = width;
      break;
    case WindowRule::Shrink::kBothAxes:
      if (small_h || small_w) {
        g.window_h = std::min(c.window_h, shorter);
        g.window_w = std::min(c.window_w, shorter);
      }
      break;
  }
  g.padded_h = round_up(height, g.window_h);
  g.padded_w = round_up(width, g.window_w);
  // "As large as the map" is meant after padding: a window that is kept covers a padded small axis exactly.
  const bool whole_h = g.window_h >= g.padded_h, whole_w = g.window_w >= g.padded_w;
  switch (c.rule.zero_shift) {
    case WindowRule::ZeroShift::kNo: break;
    case WindowRule::ZeroShift::kPerAxis:
      if (whole_h) g.shift_h = 0;
      if (whole_w) g.shift_w = 0;
      break;
    case WindowRule::ZeroShift::kBothAxes:
      if (small_h || small_w) g.shift_h = g.shift_w = 0;
      break;
  }
  return g;
}

namespace {

// The map as windows see it: rows and columns of the padded and rolled map, and their regions.
struct WindowMap {
  WindowGeometry w;
  std::vector<int32_t> rows, columns;

  WindowMap(const TokenGrid& grid, const WindowConfig& config)
      : w(window_geometry(grid.height, grid.width, config)),
        rows(axis_rows(grid.height, w.padded_h, w.shift_h, config.rule.pad)),
        columns(axis_rows(grid.width, w.padded_w, w.shift_w, config.rule.pad)) {}

  bool shifted() const { return w.shift_h != 0 || w.shift_w != 0; }
  bool inside(int64_t y, int64_t x) const { return rows[static_cast<size_t>(y)] >= 0 && columns[static_cast<size_t>(x)] >= 0; }
  int32_t region_of(int64_t y, int64_t x) const {
    return 3 * region(y, w.padded_h, w.window_h, w.shift_h) + region(x, w.padded_w, w.window_w, w.shift_w);
  }
  // f(top, left) for each window, row-major.
  template <class F>
  void for_each_window(F&& f) const {
    for (int64_t top = 0; top < w.padded_h; top += w.window_h)
      for (int64_t left = 0; left < w.padded_w; left += w.window_w) f(top, left);
  }
  // f(y, x) for each slot of a window, row-major.
  template <class F>
  void for_each_slot(int64_t top, int64_t left, F&& f) const {
    for (int64_t y = top; y < top + w.window_h; ++y)
      for (int64_t x = left; x < left + w.window_w; ++x) f(y, x);
  }
};

}  // namespace

TokenGroups window_groups(const TokenGrid& grid, const WindowConfig& config) {
  const WindowMap map(grid, config);
  const bool labelled = map.shifted() || (config.strict && (map.w.padded_h != grid.height || map.w.padded_w != grid.width));
  TokenGroups g;
  add_prefix_queries(g, grid.prefix, grid.tokens(), labelled);
  map.for_each_window([&](int64_t top, int64_t left) {
    g.begin_group();
    const auto add_slots = [&](auto&& add) {
      const auto wanted = [&](const Run& run) {
        if (config.pad_keys || run.source != RowSource::kPad) add(run);
      };
      for (int64_t y = top; y < top + map.w.window_h; ++y) {
        const int32_t row = map.rows[static_cast<size_t>(y)];
        add_window_row(row < 0 ? -1 : grid.prefix + row * grid.width, map.columns.data() + left, map.w.window_w, wanted);
      }
    };
    add_slots([&](const Run& run) { g.add_query_run(run); });
    add_slots([&](const Run& run) { g.add_key_run(run); });
    add_prefix_keys(g, grid.prefix);
    g.end_group();
    if (!labelled) return;
    map.for_each_slot(top, left, [&](int64_t y, int64_t x) {
      if (!config.pad_keys && !map.inside(y, x)) return;
      const int32_t label = config.strict && !map.inside(y, x) ? kPadLabel : map.region_of(y, x);
      g.query_labels.push_back(label);
      g.key_labels.push_back(label);
    });
    g.key_labels.insert(g.key_labels.end(), static_cast<size_t>(grid.prefix), kAnyLabel);
  });
  if (!config.strict) g.only_rule().region_penalty = kRegionPenalty;
  g.keys_disjoint = grid.prefix == 0;
  g.finish();
  return g;
}

WindowsGeometry::WindowsGeometry(const AttentionConfig& config, const WindowConfig& window)
    : window_(window), heads_(config.heads), cross_(config.cross) {
  require(window.window_h > 0 && window.window_w > 0, "a {}x{} window has no tokens", window.window_h, window.window_w);
  require(window.pad_keys || !window.position_bias, "windows without padding have no place for a position bias by slot");
}

std::vector<std::string> WindowsGeometry::unsupported(const TokenGrid& grid) const {
  std::vector<std::string> reasons;
  if (cross_) reasons.push_back("windows have no second input");
  if (grid.batch > 0 && (grid.height == 0 || grid.width == 0)) reasons.push_back("the map is empty");
  return reasons;
}

const TokenGroups& WindowsGeometry::groups(const AttentionInputs& in, Context& ctx) const {
  require(!in.causal, "window attention on a map has no causal order");
  return ctx.cached<TokenGroups>(
      fmt::format("window {} {}x{} {}", in.grid.prefix, in.grid.height, in.grid.width, config_key(window_)),
      [&] { return window_groups(in.grid, window_); });
}

std::vector<PairPattern> WindowsGeometry::pattern(const TokenGrid& grid, bool causal) const {
  check(window_.strict && !causal, "only strict windows without a causal order are a plain pattern");
  const WindowMap map(grid, window_);
  std::vector<int32_t> labels(static_cast<size_t>(grid.tokens()), -1);
  int32_t window = 0;
  map.for_each_window([&](int64_t top, int64_t left) {
    map.for_each_slot(top, left, [&](int64_t y, int64_t x) {
      if (!map.inside(y, x)) return;
      const int64_t row = grid.prefix + map.rows[static_cast<size_t>(y)] * grid.width + map.columns[static_cast<size_t>(x)];
      labels[static_cast<size_t>(row)] = 9 * window + map.region_of(y, x);
    });
    ++window;
  });
  PairPattern pattern;
  pattern.terms.push_back(PairTerm::partition(std::move(labels)));
  add_prefix_terms(pattern, grid.prefix, grid.tokens());
  return {pattern};
}

double WindowsGeometry::pairs(const TokenGrid& grid) const {
  const WindowGeometry w = window_geometry(grid.height, grid.width, window_);
  const auto map = static_cast<double>(grid.height * grid.width), prefix = static_cast<double>(grid.prefix);
  return map * (static_cast<double>(w.window_h * w.window_w) + prefix) + prefix * (map + prefix);
}

const std::vector<int32_t>& WindowsGeometry::table_index(const TokenGrid& grid, int64_t table_h, int64_t table_w, Context& ctx) const {
  const WindowGeometry w = window_geometry(grid.height, grid.width, window_);
  return ctx.cached<std::vector<int32_t>>(
      fmt::format("window index {} {}x{} {}x{}", grid.prefix, w.window_h, w.window_w, table_h, table_w), [&] {
        std::vector<int32_t> index;
        for (int64_t qy = 0; qy < w.window_h; ++qy)
          for (int64_t qx = 0; qx < w.window_w; ++qx) {
            for (int64_t ky = 0; ky < w.window_h; ++ky)
              for (int64_t kx = 0; kx < w.window_w; ++kx)
                index.push_back(static_cast<int32_t>((qy - ky + table_h - 1) * (2 * table_w - 1) + (qx - kx + table_w - 1)));
            index.insert(index.end(), static_cast<size_t>(grid.prefix), -1);
          }
        return index;
      });
}

WindowAttentionGeometry::WindowAttentionGeometry(const Scope& scope, const AttentionConfig& config, const WindowConfig& w)
    : WindowsGeometry(config, w) {
  require((w.table_h > 0) == (w.table_w > 0), "a table's window has both sides, got {}x{}", w.table_h, w.table_w);
  const int64_t table_h = w.table_h > 0 ? w.table_h : w.window_h, table_w = w.table_w > 0 ? w.table_w : w.window_w;
  require(w.resampling != TableResampling::kCrop || (w.window_h <= table_h && w.window_w <= table_w),
          "a bias table for windows of {}x{} has no rows for all offsets in windows of {}x{}; choose resample=bicubic or geometric", table_h,
          table_w, w.window_h, w.window_w);
  if (w.position_bias)
    table_ = scope.param("relative_position_bias_table", Shape{(2 * table_h - 1) * (2 * table_w - 1), heads()},
                         Init::truncated_normal(0.02), Decay::kNo);
}

TableSizes WindowAttentionGeometry::table_sizes(const TokenGrid& grid) const {
  const WindowConfig& c = window();
  const WindowGeometry w = window_geometry(grid.height, grid.width, c);
  return {c.table_h > 0 ? c.table_h : c.window_h, c.table_w > 0 ? c.table_w : c.window_w, w.window_h, w.window_w};
}

void WindowAttentionGeometry::score_bias(const AttentionInputs& in, const TokenGroups&, Tensor bias, Context& ctx) const {
  ArenaScope scope(ctx.scratch());
  const TableSizes s = table_sizes(in.grid);
  const bool own = s.equal() || window().resampling == TableResampling::kCrop;
  ConstTensor table = table_->value;
  if (!own) {
    const Tensor resampled = ctx.scratch().take(Shape{s.to_rows(), heads()}, ctx.dtype());
    resample_bias_table(s, window().resampling, table, resampled, ctx);
    table = resampled;
  }
  const auto& index = own ? table_index(in.grid, s.from_h, s.from_w, ctx) : table_index(in.grid, s.to_h, s.to_w, ctx);
  ctx.kernels().table_bias(static_cast<int64_t>(index.size()), heads(), table.data, index.data(), bias.data, ctx);
}

void WindowAttentionGeometry::score_bias_backward(const AttentionInputs& in, const TokenGroups&, ConstTensor dbias, Context& ctx) const {
  ArenaScope scope(ctx.scratch());
  const TableSizes s = table_sizes(in.grid);
  if (s.equal() || window().resampling == TableResampling::kCrop) {
    const auto& index = table_index(in.grid, s.from_h, s.from_w, ctx);
    ctx.kernels().table_bias_backward(static_cast<int64_t>(index.size()), heads(), dbias.data, index.data(), table_->grad.data, ctx);
    return;
  }
  const auto& index = table_index(in.grid, s.to_h, s.to_w, ctx);
  const Tensor dtable = ctx.scratch().take(Shape{s.to_rows(), heads()}, ctx.dtype());
  dtable.zero();
  ctx.kernels().table_bias_backward(static_cast<int64_t>(index.size()), heads(), dbias.data, index.data(), dtable.data, ctx);
  resample_bias_table_backward(s, window().resampling, dtable, table_->grad, ctx);
}

std::vector<AttentionKind::Option> window_options(const std::string& default_size) {
  return {{"size", default_size, "window, H or HxW, in tokens"},
          {"rule", "timm", "what happens at odd and small maps: timm, microsoft, torchvision or mmdet"},
          {"shrink", "rule", "shrink the window to a smaller map: no, axis or both; rule: as the rule says"},
          {"zero_shift", "rule", "do not shift where the window covers the map: no, axis or both; rule: as the rule says"},
          {"pad", "rule", "pad the map before or after the shift: before, after; rule: as the rule says"},
          {"shift", "half", "by which every second block moves its windows: half a window, or none"}};
}

WindowConfig window_config(const AttentionOptions& o, int64_t block) {
  WindowConfig w;
  std::tie(w.window_h, w.window_w) = o.size("size");
  if (o.choice("shift", {"half", "none"}) == "half" && block % 2 == 1) {
    w.shift_h = w.window_h / 2;
    w.shift_w = w.window_w / 2;
  }
  w.rule = WindowRule::named(o.text("rule"));
  const std::string shrink = o.choice("shrink", {"rule", "no", "axis", "both"});
  if (shrink == "no") w.rule.shrink = WindowRule::Shrink::kNo;
  if (shrink == "axis") w.rule.shrink = WindowRule::Shrink::kPerAxis;
  if (shrink == "both") w.rule.shrink = WindowRule::Shrink::kBothAxes;
  const std::string zero = o.choice("zero_shift", {"rule", "no", "axis", "both"});
  if (zero == "no") w.rule.zero_shift = WindowRule::ZeroShift::kNo;
  if (zero == "axis") w.rule.zero_shift = WindowRule::ZeroShift::kPerAxis;
  if (zero == "both") w.rule.zero_shift = WindowRule::ZeroShift::kBothAxes;
  const std::string pad = o.choice("pad", {"rule", "before", "after"});
  if (pad == "before") w.rule.pad = WindowRule::Pad::kBeforeRoll;
  if (pad == "after") w.rule.pad = WindowRule::Pad::kAfterRoll;
  return w;
}

AttentionKind window_attention_kind() {
  AttentionKind k;
  k.name = "window";
  k.summary = "tokens meet inside windows, which are shifted by half in every second block (Swin)";
  k.paper = "Liu et al. 2021, arXiv:2103.14030";
  k.cost = "O(N n C + N C^2), n tokens a window";
  k.options = window_options("7");
  k.options.push_back({"bias", "table", "table: a learned bias by relative position; none (the local half of Twins)"});
  k.options.push_back({"pretrained_window", "0", "window, H or HxW, that the bias table is for; 0: the one in use"});
  k.options.push_back({"resample", "crop", "the bias table for windows of another size than its own: crop (offsets keep their rows), bicubic (Microsoft, mmdet), geometric (timm)"});
  k.options.push_back({"edge", "pad", "windows that leave the map: pad holds tokens of zeros as keys, smaller leaves them out (with bias=none)"});
  k.traits.prefix = true;
  k.make_geometry = [](const Scope& scope, const AttentionConfig& config, const AttentionOptions& o,
                       GeometryUse use) -> std::unique_ptr<const AttentionGeometry> {
    WindowConfig w = window_config(o, config.block);
    w.strict = use == GeometryUse::kUnionPart;
    w.position_bias = o.choice("bias", {"table", "none"}) == "table";
    if (o.text("pretrained_window") != "0") std::tie(w.table_h, w.table_w) = o.size("pretrained_window");
    const std::string resample = o.choice("resample", {"crop", "bicubic", "geometric"});
    if (resample == "bicubic") w.resampling = TableResampling::kBicubic;
    if (resample == "geometric") w.resampling = TableResampling::kGeometric;
    w.pad_keys = o.choice("edge", {"pad", "smaller"}) == "pad";
    return std::make_unique<WindowAttentionGeometry>(scope, config, w);
  };
  return k;
}

}  // namespace fovea
