#include "image/dataset.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <set>

#include "core/check.h"
#include "core/text.h"
#include "image/dataset_hold_out.h"
#include "image/dataset_idx.h"
#include "image/dataset_tree.h"

namespace fovea {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kFashionHeldOut = 5000, kFashionTrain = 60000;

const std::vector<std::string> kFashionNames{"T-shirt/top", "Trouser", "Pullover", "Dress",   "Coat",
                                             "Sandal",      "Shirt",   "Sneaker",  "Bag",     "Ankle boot"};

// What there is of a data set.
struct Parts {
  DatasetPtr train, val, test;
  bool divided = false;      // the data itself has parts
  int64_t held_out = 0;      // images for validation; 0: a tenth
  std::string test_problem;  // why `test` is null although there is something of that name
  std::vector<std::string> notes;
};

class FileDataset : public Dataset {
 public:
  FileDataset(std::shared_ptr<const FileTree> tree, std::string folder, std::vector<std::string> class_names)
      : tree_(std::move(tree)), folder_(std::move(folder)), class_names_(std::move(class_names)) {}
  void add(size_t file, int32_t label) {
    files_.push_back(file);
    labels_.push_back(label);
  }
  const std::vector<std::string>& class_names() const override { return class_names_; }
  int64_t size() const override { return static_cast<int64_t>(files_.size()); }
  int32_t label(int64_t i) const override { return labels_.at(static_cast<size_t>(i)); }
  std::string name(int64_t i) const override { return tree_->shown(tree_->files()[files_.at(static_cast<size_t>(i))]); }
  Image read(int64_t i) const override { return tree_->read(files_.at(static_cast<size_t>(i))); }
  std::string describe() const override {
    return fmt::format("{} images of {} classes in {}", with_separators(size()), class_names_.size(), tree_->shown(folder_));
  }

 private:
  std::shared_ptr<const FileTree> tree_;
  std::string folder_;
  std::vector<std::string> class_names_;
  std::vector<size_t> files_;
  std::vector<int32_t> labels_;
};

int64_t images_directly_in(const FileTree& tree, const std::string& folder) {
  const auto [begin, end] = tree.files_below(folder);
  const size_t prefix = folder.empty() ? 0 : folder.size() + 1;
  return std::count_if(tree.files().begin() + static_cast<std::ptrdiff_t>(begin),
                       tree.files().begin() + static_cast<std::ptrdiff_t>(end), [prefix](const std::string& file) {
                         return file.find('/', prefix) == std::string::npos && has_image_extension(file);
                       });
}

// The class folders in `folder`.
DatasetPtr class_folders(const std::shared_ptr<const FileTree>& tree, const std::string& folder,
                         std::vector<std::string>& notes) {
  const std::string shown = tree->shown(folder);
  const std::vector<std::string> names = tree->folders_in(folder);
  const int64_t loose = images_directly_in(*tree, folder);
  require(!names.empty() || loose == 0, "{} has images directly inside; move them into one folder for each class ({}/CLASS)",
          shown, shown);
  require(!names.empty(), "{} has no class folders; put the images of each class into a folder of its own ({}/CLASS)",
          shown, shown);
  require(names.size() > 1, "{} has one class only ('{}'); a classifier needs at least two class folders", shown, names[0]);
  auto data = std::make_shared<FileDataset>(tree, folder, names);
  for (size_t c = 0; c < names.size(); ++c) {
    const std::string own = folder.empty() ? names[c] : folder + "/" + names[c];
    const auto [begin, end] = tree->files_below(own);
    const int64_t before = data->size();
    for (size_t f = begin; f < end; ++f)
      if (has_image_extension(tree->files()[f])) data->add(f, static_cast<int32_t>(c));
    require(data->size() > before, "the class folder {} has no images; add some or remove the folder", tree->shown(own));
  }
  if (loose > 0)
    notes.push_back(fmt::format("{} images beside the class folders of {} are left aside", with_separators(loose), shown));
  return data;
}

std::string quoted_list(const std::vector<std::string>& names) {
  constexpr size_t kShown = 5;
  std::string text;
  for (size_t i = 0; i < names.size() && i < kShown; ++i) text += (i ? ", '" : "'") + names[i] + "'";
  return names.size() > kShown ? text + ", ..." : text;
}

void require_same_classes(const FileTree& tree, const std::string& a, const Dataset& first, const std::string& b,
                          const Dataset& second) {
  const std::vector<std::string>& x = first.class_names();
  const std::vector<std::string>& y = second.class_names();
  const auto only = [](const std::vector<std::string>& in, const std::vector<std::string>& out) {
    std::vector<std::string> names;
    std::set_difference(in.begin(), in.end(), out.begin(), out.end(), std::back_inserter(names));
    return names;
  };
  const auto missing = only(x, y), extra = only(y, x);
  require(missing.empty(), "{} has no folder for the class {} of {}; both need the same classes", tree.shown(b),
          quoted_list(missing), tree.shown(a));
  require(extra.empty(), "{} has the class {}, which {} has not; both need the same classes", tree.shown(b),
          quoted_list(extra), tree.shown(a));
}

Parts open_class_folders(const std::shared_ptr<const FileTree>& tree) {
  Parts parts;
  const std::vector<std::string> names = tree->folders_in("");
  const auto find = [&names](std::initializer_list<std::string_view> wanted) -> std::string {
    for (const std::string_view name : wanted)
      if (std::find(names.begin(), names.end(), name) != names.end()) return std::string(name);
    return "";
  };
  const std::string train = find({"train"}), val = find({"val", "validation", "valid"}), test = find({"test"});
  const size_t found = size_t{!train.empty()} + size_t{!val.empty()} + size_t{!test.empty()};
  parts.divided = !train.empty() || (found > 0 && found == names.size());
  if (!parts.divided) {
    parts.train = class_folders(tree, "", parts.notes);
    return parts;
  }
  if (!train.empty()) parts.train = class_folders(tree, train, parts.notes);
  if (!val.empty()) parts.val = class_folders(tree, val, parts.notes);
  if (!test.empty()) {
    if (tree->folders_in(test).empty()) {  // pictures to classify, without labels
      parts.test_problem = fmt::format("{} has no class folders, so its images have no labels", tree->shown(test));
      parts.notes.push_back(parts.test_problem);
    } else {
      parts.test = class_folders(tree, test, parts.notes);
    }
  }
  const auto& [first, first_name] = parts.train ? std::pair{parts.train, train} : std::pair{parts.val, val};
  if (first && parts.val) require_same_classes(*tree, first_name, *first, val, *parts.val);
  if (first && parts.test) require_same_classes(*tree, first_name, *first, test, *parts.test);
  return parts;
}

// The file "PART-images-idx3-ubyte" and its other spellings; "" when there is none.
std::string find_idx(const FileTree& tree, const std::string& part, const std::string& what, char rank) {
  for (const char* dash : {"-", "."})
    for (const char* end : {"", ".gz"}) {
      const std::string name = fmt::format("{}-{}{}idx{}-ubyte{}", part, what, dash, rank, end);
      if (std::binary_search(tree.files().begin(), tree.files().end(), name)) return name;
    }
  return "";
}

bool read_idx_part(const FileTree& tree, const std::string& part, IdxPart& out) {
  const std::string images = find_idx(tree, part, "images", '3'), labels = find_idx(tree, part, "labels", '1');
  if (images.empty() && labels.empty()) return false;
  require(!images.empty(), "{} has no images beside it; put {}-images-idx3-ubyte.gz there", tree.shown(labels), part);
  require(!labels.empty(), "{} has no labels beside it; put {}-labels-idx1-ubyte.gz there", tree.shown(images), part);
  const auto read = [&tree](const std::string& name) {
    const auto at = std::lower_bound(tree.files().begin(), tree.files().end(), name) - tree.files().begin();
    return parse_idx(tree.bytes(static_cast<size_t>(at)), tree.shown(name));
  };
  out.images_name = tree.shown(images);
  out.labels_name = tree.shown(labels);
  out.labels = read(labels);
  out.images = read(images);
  check_idx_part(out);
  return true;
}

bool is_idx(const FileTree& tree) {
  for (const char* part : {"train", "t10k"})
    if (!find_idx(tree, part, "images", '3').empty() || !find_idx(tree, part, "labels", '1').empty()) return true;
  return false;
}

Parts open_idx(const FileTree& tree) {
  IdxPart train, test;
  const bool has_train = read_idx_part(tree, "train", train), has_test = read_idx_part(tree, "t10k", test);
  int classes = 0;
  for (const IdxPart* part : {&train, &test}) {
    const std::vector<uint8_t>& labels = part->labels.values;
    if (labels.empty()) continue;
    const auto [low, high] = std::minmax_element(labels.begin(), labels.end());
    require(*low != *high, "{} has one class only ({}); a classifier needs at least two", part->labels_name, int{*low});
    classes = std::max(classes, *high + 1);
  }
  std::error_code error;
  std::string place = fs::weakly_canonical(tree.root(), error).filename().string();
  for (char& c : place) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  const bool fashion = classes <= 10 && place.find("fashion") != std::string::npos;
  std::vector<std::string> names = fashion ? kFashionNames : std::vector<std::string>();
  if (!fashion)
    for (int c = 0; c < std::max(classes, 10); ++c) names.push_back(std::to_string(c));
  Parts parts;
  parts.divided = true;
  if (fashion && has_train && train.images.dims[0] == kFashionTrain) parts.held_out = kFashionHeldOut;
  if (has_train) parts.train = idx_dataset(std::move(train), names, tree.root());
  if (has_test) parts.test = idx_dataset(std::move(test), names, tree.root());
  return parts;
}

bool ends_with(const std::string& text, std::string_view end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

std::shared_ptr<const FileTree> open_tree(const std::string& data) {
  require(!data.empty(), "no data is named; give a folder of class folders or the name of an installed data set");
  std::error_code error;
  if (!fs::exists(data, error)) {
    std::vector<std::string> names;
    for (const InstalledDataset& d : installed_datasets()) {
      if (d.name == data) return open_folder_tree(installed_dataset_path(data));
      names.push_back(d.name);
    }
    fail("there is no file, folder or installed data set '{}'{}; give a folder with one folder of images for each class",
         data, did_you_mean(data, names));
  }
  if (fs::is_directory(data, error)) return open_folder_tree(data);
  require(ends_with(data, ".tar") || ends_with(data, ".tar.gz") || ends_with(data, ".tgz"),
          "{} is neither a folder nor a .tar or .tar.gz archive; give a folder with one folder of images for each class",
          data);
  return open_archive_tree(data);
}

// A folder that holds nothing but one archive stands for it.
std::shared_ptr<const FileTree> open_tree_or_only_archive(const std::string& data) {
  std::error_code error;
  if (fs::is_directory(data, error)) {
    std::vector<std::string> seen;
    for (fs::directory_iterator it(data, error), end; !error && it != end && seen.size() < 2; it.increment(error))
      if (it->path().filename().string()[0] != '.') seen.push_back(it->path().string());
    if (seen.size() == 1 && fs::is_regular_file(seen[0], error) &&
        (ends_with(seen[0], ".tar") || ends_with(seen[0], ".tar.gz") || ends_with(seen[0], ".tgz")))
      return open_archive_tree(seen[0]);
  }
  return open_tree(data);
}

Parts open_parts(const std::string& data) {
  const std::shared_ptr<const FileTree> tree = open_tree_or_only_archive(data);
  Parts parts = is_idx(*tree) ? open_idx(*tree) : open_class_folders(tree);
  parts.notes.insert(parts.notes.begin(), tree->notes().begin(), tree->notes().end());
  return parts;
}

void hold_out_if_needed(Parts& parts, uint64_t seed) {
  if (parts.val || !parts.train) return;
  HeldOut held = hold_out(parts.train, parts.held_out, seed);
  parts.train = held.train;
  parts.val = held.val;
  parts.notes.insert(parts.notes.end(), held.notes.begin(), held.notes.end());
}

}  // namespace

std::vector<InstalledDataset> installed_datasets(const fs::path& root) {
  std::vector<InstalledDataset> list{{"fashion-mnist",
                                      "70,000 grey pictures of clothes, 28x28 pixels, 10 classes (60,000 train, 10,000 test)",
                                      "dataset-fashion-mnist", root / "fashion-mnist", false}};
  std::error_code error;
  for (InstalledDataset& d : list) d.installed = fs::is_directory(d.path, error);
  return list;
}

fs::path installed_dataset_path(const std::string& name, const fs::path& root) {
  std::vector<std::string> names;
  for (const InstalledDataset& d : installed_datasets(root)) {
    names.push_back(d.name);
    if (d.name != name) continue;
    require(d.installed, "the data set '{}' is not installed in {}; install the package {}", name, d.path.string(), d.package);
    return d.path;
  }
  fail("there is no data set of the name '{}'{}", name, did_you_mean(name, names));
}

DataSplits open_data(const std::string& data, uint64_t seed) {
  Parts parts = open_parts(data);
  require(parts.train != nullptr, "{} has nothing to train on; add a train part beside {}", data,
          parts.val ? "val" : "test");
  hold_out_if_needed(parts, seed);
  return {parts.train, parts.val, parts.test, std::move(parts.notes)};
}

DataSplit open_split(const std::string& data, const std::string& split, uint64_t seed) {
  require(split.empty() || split == "train" || split == "val" || split == "test" || split == "all",
          "there is no split '{}'; use train, val, test or all", split);
  Parts parts = open_parts(data);
  std::string part = split;
  if (part.empty()) part = parts.test ? "test" : parts.divided ? "val" : "all";
  DataSplit result{part, nullptr, {}};
  if (part == "all") {
    std::vector<DatasetPtr> every;
    for (const DatasetPtr& p : {parts.train, parts.val, parts.test})
      if (p) every.push_back(p);
    require(!every.empty(), "{} has no labelled images; {}", data, parts.test_problem);
    result.dataset = joined(std::move(every));
  } else if (part == "test") {
    result.dataset = parts.test;
  } else {
    hold_out_if_needed(parts, seed);
    result.dataset = part == "val" ? parts.val : parts.train;
  }
  require(result.dataset != nullptr, "{} has no {} part{}{}; choose another with --split", data, part,
          part == "test" && !parts.test_problem.empty() ? ": " : "", part == "test" ? parts.test_problem : "");
  result.notes = std::move(parts.notes);
  return result;
}

}  // namespace fovea
