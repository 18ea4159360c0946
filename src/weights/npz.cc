#include "weights/npz.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/check.h"
#include "weights/npy_header.h"

namespace fovea {

namespace {

constexpr std::string_view kExtension = ".npy";

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
  for (const std::string& entry : zip.names()) {
    if (!entry.ends_with(kExtension)) continue;
    const FilePart bytes = zip.read(entry);
    tensors.push_back(array_of(zip.path(), entry.substr(0, entry.size() - kExtension.size()), bytes));
    memory->push_back(bytes.owner);
  }
  return WeightFile(zip.path(), "NumPy npz", std::move(tensors), {}, std::move(memory));
}

}  // namespace fovea
