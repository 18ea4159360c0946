#include "image/dataset_hold_out.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/rng.h"

namespace fovea {
namespace {

constexpr uint64_t kHoldOutStream = 0x484f4c44;

class Subset : public Dataset {
 public:
  Subset(DatasetPtr base, std::vector<int64_t> indices) : base_(std::move(base)), indices_(std::move(indices)) {}
  const std::vector<std::string>& class_names() const override { return base_->class_names(); }
  int64_t size() const override { return static_cast<int64_t>(indices_.size()); }
  int32_t label(int64_t i) const override { return base_->label(at(i)); }
  std::string name(int64_t i) const override { return base_->name(at(i)); }
  Image read(int64_t i) const override { return base_->read(at(i)); }
  std::string describe() const override { return with_separators(size()) + " of " + base_->describe(); }

 private:
  int64_t at(int64_t i) const { return indices_.at(static_cast<size_t>(i)); }
  DatasetPtr base_;
  std::vector<int64_t> indices_;
};

class Joined : public Dataset {
 public:
  explicit Joined(std::vector<DatasetPtr> parts) : parts_(std::move(parts)) {}
  const std::vector<std::string>& class_names() const override { return parts_[0]->class_names(); }
  int64_t size() const override {
    int64_t n = 0;
    for (const DatasetPtr& part : parts_) n += part->size();
    return n;
  }
  int32_t label(int64_t i) const override {
    const Dataset& part = find(i);
    return part.label(i);
  }
  std::string name(int64_t i) const override {
    const Dataset& part = find(i);
    return part.name(i);
  }
  Image read(int64_t i) const override {
    const Dataset& part = find(i);
    return part.read(i);
  }
  std::string describe() const override {
    std::string text;
    for (const DatasetPtr& part : parts_) text += (text.empty() ? "" : " and ") + part->describe();
    return text;
  }

 private:
  const Dataset& find(int64_t& i) const {  // i becomes the index within the part
    size_t p = 0;
    while (p + 1 < parts_.size() && i >= parts_[p]->size()) i -= parts_[p++]->size();
    return *parts_[p];
  }
  std::vector<DatasetPtr> parts_;
};

// How many of each class to take: in proportion, the largest remainders first.
std::vector<int64_t> quotas(const std::vector<int64_t>& counts, int64_t wanted, int64_t total) {
  std::vector<int64_t> quota(counts.size());
  std::vector<std::pair<double, size_t>> remainders;
  int64_t sum = 0;
  for (size_t c = 0; c < counts.size(); ++c) {
    if (counts[c] < 2) continue;
    const double share = static_cast<double>(counts[c]) * static_cast<double>(wanted) / static_cast<double>(total);
    quota[c] = std::clamp<int64_t>(static_cast<int64_t>(share), 1, counts[c] - 1);
    remainders.emplace_back(static_cast<double>(quota[c]) - share, c);
    sum += quota[c];
  }
  std::sort(remainders.begin(), remainders.end());
  for (bool more = true; sum < wanted && more;) {
    more = false;
    for (size_t k = 0; k < remainders.size() && sum < wanted; ++k) {
      const size_t c = remainders[k].second;
      if (quota[c] + 1 >= counts[c]) continue;
      ++quota[c];
      ++sum;
      more = true;
    }
  }
  return quota;
}

}  // namespace

std::string with_separators(int64_t n) {
  std::string text = std::to_string(n);
  for (auto at = static_cast<std::ptrdiff_t>(text.size()) - 3; at > 0; at -= 3) text.insert(static_cast<size_t>(at), ",");
  return text;
}

DatasetPtr subset(DatasetPtr base, std::vector<int64_t> indices) {
  for (const int64_t i : indices) check(i >= 0 && i < base->size(), "image {} of {} in a subset", i, base->size());
  return std::make_shared<Subset>(std::move(base), std::move(indices));
}

DatasetPtr joined(std::vector<DatasetPtr> parts) {
  check(!parts.empty(), "nothing to join");
  return parts.size() == 1 ? parts[0] : std::make_shared<Joined>(std::move(parts));
}

HeldOut hold_out(const DatasetPtr& all, int64_t images, uint64_t seed) {
  const int64_t total = all->size();
  const std::vector<std::string>& names = all->class_names();
  std::vector<std::vector<int64_t>> of_class(names.size());
  for (int64_t i = 0; i < total; ++i) of_class[static_cast<size_t>(all->label(i))].push_back(i);
  std::vector<int64_t> counts;
  for (const auto& own : of_class) counts.push_back(static_cast<int64_t>(own.size()));
  const std::vector<int64_t> quota = quotas(counts, images > 0 ? images : (total + 5) / 10, total);

  HeldOut result;
  std::vector<bool> held(static_cast<size_t>(total));
  for (size_t c = 0; c < of_class.size(); ++c) {
    Rng rng = Rng(seed).fork(kHoldOutStream).fork(c);
    std::vector<int64_t>& own = of_class[c];
    for (size_t k = 0; k < static_cast<size_t>(quota[c]); ++k) {
      std::swap(own[k], own[k + rng.next_below(own.size() - k)]);
      held[static_cast<size_t>(own[k])] = true;
    }
    if (counts[c] == 1)
      result.notes.push_back(fmt::format("class '{}' has one image only, which stays in training", names[c]));
  }
  std::vector<int64_t> train, val;
  for (int64_t i = 0; i < total; ++i) (held[static_cast<size_t>(i)] ? val : train).push_back(i);
  require(!val.empty(), "no class of {} has two images, so none can be held out for validation; add images or a val folder",
          all->describe());
  result.notes.insert(result.notes.begin(),
                      fmt::format("{} of the {} training images are held out for validation (stratified by class, seed {})",
                                  with_separators(static_cast<int64_t>(val.size())), with_separators(total), seed));
  result.train = subset(all, std::move(train));
  result.val = subset(all, std::move(val));
  return result;
}

}  // namespace fovea
