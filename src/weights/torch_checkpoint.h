// What torch.save pickles, whichever container holds it: finds the weights among whatever else a checkpoint keeps.
#pragma once

#include <string>

#include "weights/pickle.h"
#include "weights/torch_tensor.h"
#include "weights/weight_file.h"

namespace fovea {

// Reads the tensors of a state dict, whatever holds it: an OrderedDict, nested dicts (names are joined by dots), a pickled
// module, an entry such as 'model' or 'state_dict' beside optimizer state and settings. Where a file holds several sets, averaged
// weights win as in timm (timm/models/_helpers.py, load_state_dict: 'state_dict_ema', 'model_ema', 'state_dict', 'model'), and a teacher
// wins over its student; of these two only the 'backbone.' is read where they have one (DINO). Metadata says what was done: "torch.entry"
// is the entry read, "torch.not_read" lists other sets of weights. Plain settings beside the tensors (epoch, arch) become metadata
// "torch.<key>". Classes and functions in the pickle are never imported or called.
// Throws Error when the pickle holds no tensors, one name twice, or a tensor that cannot be read (torch_tensor.h).
WeightFile read_torch_checkpoint(const std::string& path, std::string container, const Pickle& pickle, TorchTensors::Storages storages);

}  // namespace fovea
