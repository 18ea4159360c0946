// Labelled pictures for training and evaluation: folders and archives of class folders, IDX files (MNIST's format), and the
// data sets that packages install.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "image/image.h"

namespace fovea {

// A list of labelled pictures. Constant after opening; any number of threads may read.
class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual const std::vector<std::string>& class_names() const = 0;  // sorted, or the format's own order
  virtual int64_t size() const = 0;
  virtual int32_t label(int64_t i) const = 0;   // index into class_names()
  virtual std::string name(int64_t i) const = 0;  // for messages: the path, or "file, image i"
  virtual Image read(int64_t i) const = 0;      // RGB from image files, grey from IDX; throws Error for a broken picture
  virtual std::string describe() const = 0;     // "5,000 images of 10 classes in DATA"
};

using DatasetPtr = std::shared_ptr<const Dataset>;

// The pictures `indices` of `base`, in that order.
DatasetPtr subset(DatasetPtr base, std::vector<int64_t> indices);

// What training uses. Never empty: train, val. `test` is there to be named, not to be looked at; null where there is none.
struct DataSplits {
  DatasetPtr train, val, test;
  std::vector<std::string> notes;  // sentences for the user: what was held out, what was left aside
};

// Opens `data`: a folder of class folders with or without train/, val/ (validation/, valid/) and test/; a folder of IDX
// files (train-images-idx3-ubyte, t10k-labels-idx1-ubyte, ..., with or without .gz); a .tar, .tar.gz or .tgz of either; or
// the name of an installed data set. Image files are told by extension; hidden files are ignored; folders within a class
// belong to it. Without a validation part one is held out of train, stratified by class and chosen by `seed` alone: 5,000
// images of Fashion-MNIST, else a tenth, of each class at least one.
// Throws Error when the data cannot be used, saying what, where and what to do.
DataSplits open_data(const std::string& data, uint64_t seed);

// What evaluation uses.
struct DataSplit {
  std::string split;  // the part that was opened: train, val, test or all
  DatasetPtr dataset;
  std::vector<std::string> notes;
};

// One part of `data`: "train" and "val" as open_data gives them for the same seed, "test", or "all". "": test, else val,
// else the whole folder when it has no parts. Throws Error as open_data does, and when there is no such part.
DataSplit open_split(const std::string& data, const std::string& split, uint64_t seed);

// Data sets that open_data knows by name.
struct InstalledDataset {
  std::string name, summary, package;
  std::filesystem::path path;
  bool installed = false;
};
std::vector<InstalledDataset> installed_datasets(const std::filesystem::path& root = "/usr/share/datasets");

// The folder of an installed data set. Throws Error that names the package to install.
std::filesystem::path installed_dataset_path(const std::string& name,
                                             const std::filesystem::path& root = "/usr/share/datasets");

}  // namespace fovea
