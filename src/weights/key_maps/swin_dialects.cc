#include "weights/key_maps/swin_dialects.h"

#include <charconv>
#include <cmath>

#include "core/check.h"
#include "weights/key_maps/views.h"

namespace fovea {

namespace {

// C of a merge's joined dimension 4 C.
int64_t merged_channels(const WeightTensor& t) {
  require(t.shape.rank() >= 1 && t.shape.rank() <= 2 && t.shape.last() % 4 == 0 && t.strides.empty(),
          "{} of shape {} does not join four patches", printable(t.name), t.shape);
  return t.shape.last() / 4;
}

// `strides` of the joined dimension taken apart, after those of the outputs where there are any.
WeightTensor rearranged(const WeightTensor& t, const Shape& grid, std::vector<int64_t> strides) {
  WeightTensor out = t;
  std::vector<int64_t> dims(grid.dims().begin(), grid.dims().end());
  if (t.shape.rank() == 2) {
    dims.insert(dims.begin(), t.shape[0]);
    strides.insert(strides.begin(), t.shape.last());
  }
  out.grid = Shape(dims);
  out.strides = std::move(strides);
  return out;
}

std::vector<int64_t> numbers_of(const RecognisedModel& m, const std::string& key) {
  std::vector<int64_t> out;
  const auto it = m.facts.find(key);
  const auto* text = it == m.facts.end() ? nullptr : std::get_if<std::string>(&it->second);
  for (const char* p = text ? text->data() : nullptr; text && p < text->data() + text->size();) {
    int64_t n = 0;
    const auto [end, error] = std::from_chars(p, text->data() + text->size(), n);
    if (error != std::errc()) break;
    out.push_back(n);
    p = end + 1;
  }
  return out;
}

std::vector<int64_t> position_index(int64_t window) {
  std::vector<int64_t> index;
  for (int64_t qy = 0; qy < window; ++qy)
    for (int64_t qx = 0; qx < window; ++qx)
      for (int64_t ky = 0; ky < window; ++ky)
        for (int64_t kx = 0; kx < window; ++kx) index.push_back((qy - ky + window - 1) * (2 * window - 1) + (qx - kx + window - 1));
  return index;
}

std::vector<float> coordinates(int64_t window, int64_t reference) {
  const auto place = [&](int64_t offset) {
    const double u = 8.0 * static_cast<double>(offset) / static_cast<double>(std::max<int64_t>(1, reference - 1));
    return static_cast<float>(std::copysign(std::log2(std::fabs(u) + 1) / 3, u));
  };
  std::vector<float> table;
  for (int64_t dy = 1 - window; dy < window; ++dy)
    for (int64_t dx = 1 - window; dx < window; ++dx) {
      table.push_back(place(dy));
      table.push_back(place(dx));
    }
  return table;
}

}  // namespace

// Theirs c 4 + 2 y + x, ours (2 x + y) C + c for the neighbour (row y, column x).
WeightTensor from_unfold_order(const WeightTensor& t, const RecognisedModel&) {
  return rearranged(t, Shape{2, 2, merged_channels(t)}, {1, 2, 4});
}
WeightTensor to_unfold_order(const WeightTensor& t, const RecognisedModel&) {
  const int64_t c = merged_channels(t);
  return rearranged(t, Shape{c, 2, 2}, {1, c, 2 * c});
}

WeightTensor from_position_map(const WeightTensor& t, const RecognisedModel&) {
  if (t.shape.rank() != 4) return t;
  const int64_t c = t.shape[1], h = t.shape[2], w = t.shape[3];
  WeightTensor out = t;  // which may be a view in a file, too
  out.shape = {t.shape[0], h * w, c};
  out.grid = {t.shape[0], h, w, c};
  out.strides = t.strides.empty() ? std::vector<int64_t>{c * h * w, w, 1, h * w} : std::vector<int64_t>{t.strides[0], t.strides[2], t.strides[3], t.strides[1]};
  return out;
}
WeightTensor to_position_map(const WeightTensor& t, const RecognisedModel& m) {
  const std::vector<int64_t> grid = numbers_of(m, "position_grid");
  if (m.integer("position_map") == 0 || grid.size() != 2) return t;
  const int64_t c = t.shape.last();
  return view_of(t, {1, c, grid[0], grid[1]}, {t.elements(), 1, grid[1] * c, c});
}

std::vector<ConstantTensor> window_constants(const RecognisedModel& m, AttentionName attention, bool flat_index) {
  const std::vector<int64_t> depths = numbers_of(m, "depths"), windows = numbers_of(m, "window_sizes"), references = numbers_of(m, "pretrained_windows");
  std::vector<ConstantTensor> out;
  if (windows.size() != depths.size()) return out;  // not square: such files go without
  for (size_t s = 0; s < depths.size(); ++s) {
    const int64_t w = windows[s], n = w * w, side = 2 * w - 1;
    const std::vector<int64_t> index = position_index(w);
    for (int64_t b = 0; b < depths[s]; ++b) {
      const std::string folder = attention(static_cast<int64_t>(s), b);
      out.push_back(i64_constant(folder + "relative_position_index", flat_index ? Shape{n * n} : Shape{n, n}, index));
      if (m.integer("swin_version") != 2) continue;
      const int64_t reference = s < references.size() && references[s] > 0 ? references[s] : w;
      out.push_back(f32_constant(folder + "relative_coords_table", Shape{1, side, side, 2}, coordinates(w, reference)));
    }
  }
  return out;
}

}  // namespace fovea
