// A file of named tensors, whatever its container: what `open_weights` gives and what the key maps read.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/shape.h"
#include "weights/stored_type.h"

namespace fovea {

// A named view of elements inside a WeightFile's memory. `strides` counts elements; empty means contiguous row-major.
struct WeightTensor {
  std::string name;
  StoredType type = StoredType::kF32;
  Shape shape;
  const std::byte* data = nullptr;  // the first element; may be unaligned
  std::vector<int64_t> strides;
  bool mapped = false;  // data lies in a mapping of the file, whose pages may be given back (release)
  // What `strides` belong to where a permutation needs more dimensions than `shape` has, such as (out, 2, 2, in) read as
  // (out, 4 in): the same elements in the same order. Rank 0: `shape` itself.
  Shape grid = {};

  int64_t elements() const { return shape.elements(); }
  void read(float* out) const;   // writes elements() values in row-major order
  void read(double* out) const;
  // Elements [begin, end) of a contiguous tensor.
  void read(int64_t begin, int64_t end, float* out) const;
  void read(int64_t begin, int64_t end, double* out) const;
  void copy(std::byte* out) const;  // the elements as they are stored, row-major
  void release() const;          // nobody needs the elements soon: memory that mirrors the file may go
};

// Cheap to copy: copies share the memory (a read-only mapping of the file, or buffers read from it). The file must not be
// cut short by others while it is mapped.
class WeightFile {
 public:
  using Metadata = std::map<std::string, std::string>;

  WeightFile() = default;
  // Throws Error when two tensors have the same name. `memory` keeps the tensors' data alive.
  WeightFile(std::string path, std::string container, std::vector<WeightTensor> tensors, Metadata metadata,
             std::shared_ptr<const void> memory);

  const std::string& path() const;
  const std::string& container() const;             // "safetensors", "PyTorch zip", "PyTorch legacy", "NumPy npz", "safetensors in 3 files"
  const Metadata& metadata() const;                 // free text that the file carries
  std::span<const WeightTensor> tensors() const;    // in the file's order
  const WeightTensor* find(std::string_view name) const;  // nullptr when absent
  const WeightTensor& at(std::string_view name) const;    // throws Error when absent

  void read_f32(std::string_view name, float* out) const { at(name).read(out); }
  void read_f64(std::string_view name, double* out) const { at(name).read(out); }

  // The tensors whose names start with `prefix`, without it; the same metadata.
  WeightFile under(std::string_view prefix) const;

 private:
  struct Contents;
  std::shared_ptr<const Contents> contents_;
};

// Opens a weights file, the index of a sharded checkpoint, one of its shards beside the index, or a folder that holds one of these
// (sharded.h); the container is recognised by content, never by the file's name. What wrappers put before all names is dropped
// (wrapper_prefix.h).
// Throws Error when the file cannot be read, is broken, or is of a kind that is not supported (and says which).
WeightFile open_weights(const std::string& path);

// A name from a file made fit for an error message: in quotes, shortened, control characters replaced.
std::string printable(std::string_view name);

}  // namespace fovea
