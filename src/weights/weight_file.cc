#include "weights/weight_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "core/check.h"
#include "weights/mapped_file.h"

namespace fovea {

namespace {

constexpr int64_t kLongest = int64_t{1} << 31;  // dimension of a tensor without elements

// Walks the rows (last dimension) of a tensor: take(first element, stride, count, elements before).
template <class Take>
void for_rows(const WeightTensor& t, Take&& take) {
  const int64_t n = t.elements();
  if (n == 0) return;
  if (t.strides.empty() || t.shape.rank() == 0) return take(t.data, 1, n, 0);

  const Shape& grid = t.grid.rank() > 0 ? t.grid : t.shape;
  const int outer = grid.rank() - 1;
  const int64_t row = grid.last(), row_stride = t.strides.back();
  std::array<int64_t, Shape::kMaxRank> index{};
  int64_t offset = 0;
  for (int64_t done = 0; done < n; done += row) {
    take(t.data + offset * static_cast<int64_t>(size_of(t.type)), row_stride, row, done);
    for (int d = outer - 1; d >= 0; --d) {
      const auto u = static_cast<size_t>(d);
      offset += t.strides[u];
      if (++index[u] < grid[d]) break;
      offset -= index[u] * t.strides[u];
      index[u] = 0;
    }
  }
}

template <class To>
void read_elements(const WeightTensor& t, To* out) {
  for_rows(t, [&](const std::byte* from, int64_t stride, int64_t count, int64_t before) { convert_elements(t.type, from, stride, count, out + before); });
}

}  // namespace

void WeightTensor::copy(std::byte* out) const {
  const auto size = static_cast<int64_t>(size_of(type));
  for_rows(*this, [&](const std::byte* from, int64_t stride, int64_t count, int64_t before) {
    std::byte* to = out + before * size;
    if (stride == 1) {
      std::memcpy(to, from, static_cast<size_t>(count * size));
      return;
    }
    for (int64_t i = 0; i < count; ++i) std::memcpy(to + i * size, from + i * stride * size, static_cast<size_t>(size));
  });
}

void WeightTensor::read(float* out) const { read_elements(*this, out); }
void WeightTensor::read(double* out) const { read_elements(*this, out); }

void WeightTensor::read(int64_t begin, int64_t end, float* out) const {
  convert_elements(type, data + begin * static_cast<int64_t>(size_of(type)), 1, end - begin, out);
}
void WeightTensor::read(int64_t begin, int64_t end, double* out) const {
  convert_elements(type, data + begin * static_cast<int64_t>(size_of(type)), 1, end - begin, out);
}

void WeightTensor::release() const {
  if (!mapped || elements() == 0) return;
  int64_t reach = elements();
  if (!strides.empty()) {
    const Shape& dims = grid.rank() > 0 ? grid : shape;
    reach = 1;
    for (size_t d = 0; d < strides.size(); ++d) reach += (dims[static_cast<int>(d)] - 1) * strides[d];
  }
  release_pages(data, static_cast<size_t>(reach) * size_of(type));
}

struct WeightFile::Contents {
  std::string path, container;
  std::vector<WeightTensor> tensors;
  Metadata metadata;
  std::shared_ptr<const void> memory;
  std::unordered_map<std::string_view, size_t> index;  // keys view the names in `tensors`
};

WeightFile::WeightFile(std::string path, std::string container, std::vector<WeightTensor> tensors, Metadata metadata,
                       std::shared_ptr<const void> memory) {
  auto c = std::make_shared<Contents>();
  c->path = std::move(path);
  c->container = std::move(container);
  c->tensors = std::move(tensors);
  c->metadata = std::move(metadata);
  c->memory = std::move(memory);
  c->index.reserve(c->tensors.size());
  for (size_t i = 0; i < c->tensors.size(); ++i) {
    const bool is_new = c->index.emplace(c->tensors[i].name, i).second;
    require(is_new, "'{}' holds two tensors named {}; the file is broken", c->path, printable(c->tensors[i].name));
    // Of a tensor with elements the file's size bounds the dimensions; what follows may compute with those of any.
    const Shape& shape = c->tensors[i].shape;
    require(std::ranges::none_of(shape.dims(), [](int64_t d) { return d > kLongest; }) || shape.elements() > 0,
            "'{}': {} of shape {} has no elements, and a dimension beyond any tensor's; the file is broken", c->path, printable(c->tensors[i].name), shape);
  }
  contents_ = std::move(c);
}

const std::string& WeightFile::path() const {
  static const std::string kNone;
  return contents_ ? contents_->path : kNone;
}

const std::string& WeightFile::container() const {
  static const std::string kNone;
  return contents_ ? contents_->container : kNone;
}

const WeightFile::Metadata& WeightFile::metadata() const {
  static const Metadata kNone;
  return contents_ ? contents_->metadata : kNone;
}

std::span<const WeightTensor> WeightFile::tensors() const {
  return contents_ ? std::span<const WeightTensor>(contents_->tensors) : std::span<const WeightTensor>();
}

const WeightTensor* WeightFile::find(std::string_view name) const {
  if (!contents_) return nullptr;
  const auto it = contents_->index.find(name);
  return it == contents_->index.end() ? nullptr : &contents_->tensors[it->second];
}

const WeightTensor& WeightFile::at(std::string_view name) const {
  const WeightTensor* t = find(name);
  require(t != nullptr, "'{}' has no tensor named {}", path(), printable(name));
  return *t;
}

WeightFile WeightFile::under(std::string_view prefix) const {
  std::vector<WeightTensor> chosen;
  for (const WeightTensor& t : tensors()) {
    if (!t.name.starts_with(prefix)) continue;
    chosen.push_back(t);
    chosen.back().name.erase(0, prefix.size());
  }
  return WeightFile(path(), container(), std::move(chosen), metadata(), contents_);
}

std::string printable(std::string_view name) {
  constexpr size_t kLongest = 120;
  std::string out = "'";
  for (char c : name.substr(0, kLongest)) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  return out + (name.size() > kLongest ? "...'" : "'");
}

}  // namespace fovea
