// Fixtures of sparse regional attention (SST): window numbers, and blocks on occupied cells with dropping.
#include "parity/runners.h"

#include <map>

#include "blocks/regional_block.h"
#include "core/convert.h"

namespace fovea::parity {

namespace {

// The file's lists name x, y, z.
CellGrid cells_of(const Json& j, const std::vector<int32_t>& coordinates) {
  CellGrid g;
  const Json& shape = j.at("sparse_shape_xyz");
  g.width = shape.at(0);
  g.height = shape.at(1);
  g.depth = shape.at(2);
  g.cells = coordinates.data();
  g.count = std::ssize(coordinates) / 4;
  for (int64_t n = 0; n < g.count; ++n) g.samples = std::max<int64_t>(g.samples, coordinates[static_cast<size_t>(4 * n)] + 1);
  return g;
}

RegionConfig region_of(const Json& j) {
  RegionConfig r;
  const Json& window = j.at("window_shape");
  r.window_w = window.at(0);
  r.window_h = window.at(1);
  r.window_z = window.at(2);
  return r;
}

TokenGrid grid_of(const CellGrid& cells) {
  TokenGrid grid{1, 0, 1, cells.count};
  grid.cells = &cells;
  return grid;
}

void window_partition(CheckCase& c) {
  const std::vector<int32_t> coordinates = c.fixture.ints("in.coors");
  const CellGrid cells = cells_of(c.config, coordinates);
  RegionConfig config = region_of(c.config);
  for (const bool shifted : {false, true}) {
    config.shifted = shifted;
    Regions regions;
    find_regions(grid_of(cells), config, regions);
    const Tensor windows = c.memory(Shape{cells.count}), inside = c.memory(Shape{cells.count, 3});
    for (int64_t n = 0; n < cells.count; ++n) {
      store_scalar(windows, n, static_cast<double>(regions.window[static_cast<size_t>(n)]));
      const int64_t cell = regions.cell[static_cast<size_t>(n)];
      store_scalar(inside, 3 * n, static_cast<double>(cell / (config.window_h * config.window_w)));
      store_scalar(inside, 3 * n + 1, static_cast<double>(cell / config.window_w % config.window_h));
      store_scalar(inside, 3 * n + 2, static_cast<double>(cell % config.window_w));
    }
    c.output(fmt::format("batch_win_inds_shift{}", shifted ? 1 : 0), windows);
    c.output(fmt::format("coors_in_win_shift{}", shifted ? 1 : 0), inside);
  }
}

std::string parameter_name(std::string key) {
  const std::pair<const char*, const char*> names[] = {{"win_attn.self_attn.in_proj_weight", "attn.qkv.weight"},
                                                       {"win_attn.self_attn.in_proj_bias", "attn.qkv.bias"},
                                                       {"win_attn.self_attn.out_proj", "attn.proj"},
                                                       {"linear1", "mlp.fc1"},
                                                       {"linear2", "mlp.fc2"}};
  for (const auto& [from, to] : names)
    if (const size_t at = key.find(from); at != std::string::npos) key.replace(at, std::string(from).size(), to);
  return key;
}

void blocks(CheckCase& c) {
  const Json& j = c.config;
  const std::vector<int32_t> all = c.fixture.ints("in.coors");
  RegionalConfig regional;
  regional.region = region_of(j);
  regional.normalise = flag(j, "normalize_pos", false);
  regional.temperature = j.value("pos_temperature", 10000.0);
  std::vector<DropLevel> levels;
  for (const auto& [name, level] : j.at("drop_info").items())
    levels.push_back({level.at(0).get<int64_t>(), level.at(1).at(0).get<int64_t>(), level.at(1).at(1).get<int64_t>()});
  const std::vector<int32_t> kept = drop_cells(cells_of(j, all), regional.region, levels);
  std::vector<int32_t> coordinates;
  for (const int32_t n : kept) coordinates.insert(coordinates.end(), all.begin() + 4 * n, all.begin() + 4 * n + 4);
  const CellGrid cells = cells_of(j, coordinates);

  BlockConfig b;
  b.heads.dim = j.at("d_model");
  b.heads.heads = j.at("nhead");
  b.mlp_hidden = j.at("dim_feedforward");
  b.activation = activation_of(j.at("activation"));
  b.norm = flag(j, "post_norm", true) ? NormPlacement::kPost : NormPlacement::kPre;
  b.norm_epsilon = j.at("ln_eps");
  std::vector<std::unique_ptr<RegionalBlock>> stack;
  for (int64_t i = 0; i < j.at("num_blocks").get<int64_t>(); ++i)
    stack.push_back(std::make_unique<RegionalBlock>(Scope(c.params) / i, b, regional));
  c.load(parameter_name);

  const Tensor x = c.input("x");
  const int64_t dim = b.heads.dim;
  Tensor h = c.memory(Shape{1, cells.count, dim});
  c.ctx.kernels().gather_rows(cells.count, dim, x.data, kept.data(), h.data, c.ctx);
  AttentionInputs in;
  in.grid = grid_of(cells);
  for (const auto& block : stack) {
    in.x = h;
    h = c.memory(h.shape);
    block->forward(in, h, &c.tape, c.ctx);
  }
  c.output("y", h);
  const Tensor gradient = c.upstream("y"), dx = c.memory(x.shape);
  for (size_t i = stack.size(); i-- > 0;) stack[i]->backward(gradient.reshaped(h.shape), c.tape, c.ctx);
  c.ctx.kernels().scatter_add_rows(cells.count, dim, gradient.data, kept.data(), dx.data, c.ctx);
  c.input_gradient("x", dx);
}

}  // namespace

void add_sst_runners(Runners& r) {
  r["sst_window_partition"] = window_partition;
  r["sst_blocks"] = blocks;
}

}  // namespace fovea::parity
