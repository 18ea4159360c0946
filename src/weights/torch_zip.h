// PyTorch's zip format (torch.save since 1.6): NAME/data.pkl is a pickle, NAME/data/K are the storages it refers to.
#pragma once

#include "weights/weight_file.h"
#include "weights/zip_archive.h"

namespace fovea {

// Reads the weights as torch_checkpoint.h says. Throws Error when the archive is broken or is none that torch.save wrote.
WeightFile read_torch_zip(ZipArchive& zip);

}  // namespace fovea
