// PyTorch's format before 1.6 (torch.serialization._legacy_save): five pickles (a magic number, the format's version, facts about the
// machine, the content, the storages' keys), then each storage as a 64-bit count of elements and the elements.
#pragma once

#include <span>
#include <string_view>

#include "weights/mapped_file.h"
#include "weights/weight_file.h"

namespace fovea {

// True when the bytes begin with the format's magic number, in any protocol.
bool looks_like_torch_legacy(std::string_view bytes);

// True for the tar archives that PyTorch wrote before that (0.1).
bool looks_like_torch_tar(std::string_view bytes);

// Reads the weights as torch_checkpoint.h says; the storages stay where they lie in the file. Throws Error when the file is broken, cut
// short, or was written on a big-endian machine.
WeightFile read_torch_legacy(const FileBytes& file);

}  // namespace fovea
