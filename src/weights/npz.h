// NumPy's .npz archives (numpy.savez, numpy.savez_compressed), which hold the ViT checkpoints that JAX wrote: a zip with one
// NAME.npy for each array.
#pragma once

#include "weights/weight_file.h"
#include "weights/zip_archive.h"

namespace fovea {

// True when the archive holds arrays and is not what torch.save writes.
bool looks_like_npz(const ZipArchive& zip);

// Every array under its name, in the archive's order; entries that are no arrays are passed over. Of a training state only the model is read
// (what lies under opt/target/, params/ or params/img/, as in timm/models/vision_transformer.py), and metadata "npz.entry" says so. Arrays in Fortran order become strided
// views. Throws Error naming the array whose header, size or element type is wrong (npy_header.h).
WeightFile read_npz(ZipArchive& zip);

}  // namespace fovea
