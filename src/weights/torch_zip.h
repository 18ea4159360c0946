// PyTorch's zip format (torch.save since 1.6): NAME/data.pkl is a pickle, NAME/data/K are the storages it refers to.
#pragma once

#include "weights/weight_file.h"
#include "weights/zip_archive.h"

namespace fovea {

// Reads the tensors of a state dict, whatever holds it: an OrderedDict, nested dicts (names are joined by dots), a pickled
// module, an entry such as 'model' or 'state_dict' beside optimizer state and settings. Prefixes that wrappers add to every
// name ('module.', '_orig_mod.') are dropped. Where a file holds several sets, the averaged weights win, as in timm
// (timm/models/_helpers.py, load_state_dict); the metadata key "torch.entry" says which was read. Plain settings beside the
// tensors (epoch, arch) become metadata "torch.<key>". Classes and functions in the pickle are never imported or called.
// Throws Error when the archive or pickle is broken, holds no tensors, or a tensor reaches beyond its storage.
WeightFile read_torch_zip(ZipArchive& zip);

}  // namespace fovea
