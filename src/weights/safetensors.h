// safetensors (https://github.com/huggingface/safetensors, "Format"): an 8-byte little-endian header length, a JSON header
// {"name": {"dtype", "shape", "data_offsets": [begin, end)}, ..., "__metadata__": {string: string}}, then the data.
#pragma once

#include <map>
#include <span>
#include <string>

#include "core/dtype.h"
#include "core/shape.h"
#include "weights/mapped_file.h"
#include "weights/weight_file.h"

namespace fovea {

// True when the bytes begin as a safetensors file does (a length and an opening brace); the rest may still be broken.
bool looks_like_safetensors(std::span<const std::byte> bytes);

// Reads in place, strictly: tensors cover the data without gaps or overlaps, every span is as long as dtype and shape say,
// no name occurs twice. Throws Error saying what is wrong and in which tensor.
WeightFile parse_safetensors(const FileBytes& file);

struct TensorToWrite {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  const void* data = nullptr;  // contiguous; read during the call only
};

// Writes atomically (see AtomicFile): a crash or a full disk leaves what stood at `path`. The bytes depend only on the
// arguments: tensors in the given order, wider element types first so that each is aligned to its size.
// Throws Error when two names are equal, a name is not UTF-8, a dtype cannot be stored, or writing fails.
void write_safetensors(const std::string& path, std::span<const TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata);

}  // namespace fovea
