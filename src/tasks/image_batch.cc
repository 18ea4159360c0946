// Already normalised images in files that hold numbers.
#include <algorithm>
#include <cctype>
#include <cstring>

#include "core/check.h"
#include "fovea/model.h"
#include "weights/mapped_file.h"
#include "weights/npy_header.h"
#include "weights/weight_file.h"

namespace fovea {

namespace {

bool is_float(StoredType t) { return t == StoredType::kF32 || t == StoredType::kF64 || t == StoredType::kF16 || t == StoredType::kBF16; }

// `t` as a batch of images; `what` names it in messages.
ImageBatch batch_of(const WeightTensor& t, const std::string& what, int64_t channels) {
  const int rank = t.shape.rank();
  require(is_float(t.type), "{} holds {}; normalised images are floats", what, name_of(t.type));
  require((rank == 3 || rank == 4) && t.shape[rank - 3] == channels, "{} has the shape {}; expected [batch,] {}, height, width", what, t.shape, channels);
  ImageBatch b{rank == 4 ? t.shape[0] : 1, channels, t.shape[rank - 2], t.shape[rank - 1], {}};
  require(t.elements() > 0, "{} is empty", what);
  b.values.resize(static_cast<size_t>(t.elements()));
  t.read(b.values.data());
  return b;
}

ImageBatch from_npy(const std::string& path, int64_t channels) {
  const FileBytes file = map_file(path);
  const std::string what = fmt::format("'{}'", path);
  const NpyHeader header = parse_npy_header(file.bytes, what);
  auto bytes = static_cast<int64_t>(size_of(header.type));
  bool overflow = false;
  for (const int64_t d : header.shape) overflow = __builtin_mul_overflow(bytes, d, &bytes) || overflow;
  const size_t held = file.bytes.size() - header.data_begin;
  require(!overflow && held == static_cast<size_t>(bytes), "{} has {} bytes of data, which its shape [{}] of {} does not fit", what, held,
          fmt::join(header.shape, ", "), name_of(header.type));
  WeightTensor t{path, header.type, Shape(header.shape), file.bytes.data() + header.data_begin, {}};
  if (header.fortran_order) {
    int64_t step = 1;
    for (const int64_t d : header.shape) {
      t.strides.push_back(step);
      step *= d;
    }
  }
  return batch_of(t, what, channels);
}

ImageBatch from_safetensors(const std::string& path, int64_t channels) {
  const WeightFile file = open_weights(path);
  const WeightTensor* chosen = file.tensors().size() == 1 ? &file.tensors().front() : nullptr;
  for (const char* name : {"x", "input", "images", "pixel_values"})
    if (chosen == nullptr) chosen = file.find(name);
  require(chosen != nullptr, "'{}' holds {} tensors, and none of them is called x, input, images or pixel_values; which is the image?", path,
          file.tensors().size());
  return batch_of(*chosen, fmt::format("'{}': {}", path, printable(chosen->name)), channels);
}

ImageBatch from_bin(const std::string& path, int64_t channels, int64_t height, int64_t width) {
  const FileBytes file = map_file(path);
  const int64_t image = channels * height * width * 4, size = std::ssize(file.bytes);
  require(size > 0 && size % image == 0, "'{}' has {} bytes; images of {}x{}x{} 32-bit floats take {} each (--size says which size they have)", path, size,
          channels, height, width, image);
  ImageBatch b{size / image, channels, height, width, std::vector<float>(static_cast<size_t>(size / 4))};
  std::memcpy(b.values.data(), file.bytes.data(), static_cast<size_t>(size));
  return b;
}

std::string ending(const std::filesystem::path& file) {
  std::string e = file.extension().string();
  std::transform(e.begin(), e.end(), e.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return e;
}

}  // namespace

bool is_image_batch(const std::filesystem::path& file) {
  const std::string e = ending(file);
  return e == ".npy" || e == ".safetensors" || e == ".bin";
}

ImageBatch read_image_batch(const std::filesystem::path& file, int64_t channels, int64_t height, int64_t width) {
  const std::string path = file.string(), e = ending(file);
  if (e == ".npy") return from_npy(path, channels);
  if (e == ".safetensors") return from_safetensors(path, channels);
  require(e == ".bin", "'{}' is no .npy, .safetensors or .bin file", path);
  require(height > 0 && width > 0, "'{}' does not say how large its images are; give it as --size HxW", path);
  return from_bin(path, channels, height, width);
}

}  // namespace fovea
