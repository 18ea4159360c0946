#include "weights/npz.h"

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/check.h"
#include "weights/npy_header.h"

namespace fovea {

namespace {

constexpr std::string_view kExtension = ".npy";

// Where the training states of JAX's ViT keep the model, and an array that each model has.
constexpr std::array<std::string_view, 3> kModels{"opt/target/", "params/", "params/img/"};
constexpr std::string_view kOfModel = "embedding/kernel.npy";

// How far apart the elements lie when the first index moves fastest.
std::vector<int64_t> fortran_strides(const std::vector<int64_t>& shape) {
  std::vector<int64_t> strides;
  int64_t step = 1;
  for (const int64_t d : shape) {
    strides.push_back(step);
    step *= d;
  }
  return strides;
}

WeightTensor array_of(const std::string& path, std::string name, const FilePart& entry) {
  const std::string what = fmt::format("'{}': array {}", path, printable(name));
  const NpyHeader header = parse_npy_header(entry.span, what);
  auto bytes = static_cast<int64_t>(size_of(header.type));
  bool overflow = false;
  for (const int64_t d : header.shape) overflow = __builtin_mul_overflow(bytes, d, &bytes) || overflow;
  const Shape shape(header.shape);
  require(!overflow, "{} has the shape {}, whose size overflows 64 bits", what, shape);
  const size_t held = entry.span.size() - header.data_begin;
  require(held == static_cast<size_t>(bytes), "{} has {} bytes of data, but shape {} of {} needs {}", what, held, shape, name_of(header.type),
          bytes);
  const bool strided = header.fortran_order && shape.rank() > 1 && bytes != 0;
  return {std::move(name), header.type, shape, entry.span.data() + header.data_begin,
          strided ? fortran_strides(header.shape) : std::vector<int64_t>(), entry.mapped};
}

}  // namespace

bool looks_like_npz(const ZipArchive& zip) {
  bool arrays = false;
  for (const std::string& name : zip.names()) {
    if (name.ends_with("data.pkl")) return false;
    arrays = arrays || name.ends_with(kExtension);
  }
  return arrays;
}

WeightFile read_npz(ZipArchive& zip) {
  auto memory = std::make_shared<std::vector<std::shared_ptr<const void>>>();
  std::vector<WeightTensor> tensors;
  std::string_view model;
  for (const std::string_view m : kModels)
    if (zip.has(fmt::format("{}{}", m, kOfModel))) model = m;
  for (const std::string& entry : zip.names()) {
    if (!entry.ends_with(kExtension) || !entry.starts_with(model)) continue;
    const FilePart bytes = zip.read(entry);
    tensors.push_back(array_of(zip.path(), entry.substr(model.size(), entry.size() - kExtension.size() - model.size()), bytes));
    memory->push_back(bytes.owner);
  }
  WeightFile::Metadata metadata;
  if (!model.empty()) metadata["npz.entry"] = model.substr(0, model.size() - 1);
  return WeightFile(zip.path(), "NumPy npz", std::move(tensors), std::move(metadata), std::move(memory));
}

}  // namespace fovea
