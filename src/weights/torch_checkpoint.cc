#include "weights/torch_checkpoint.h"

#include <algorithm>
#include <array>
#include <unordered_set>
#include <utility>

#include "core/check.h"
#include "weights/wrapper_prefix.h"

namespace fovea {

namespace {

using Kind = PickleValue::Kind;

constexpr int kMaxDepth = 64;
constexpr int64_t kMaxSteps = int64_t{1} << 21;

// Where a checkpoint keeps the weights, by preference.
constexpr std::array<std::string_view, 10> kEntries{"state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model_state",
                                                    "model",          "net",       "module",     "teacher",          "student"};
// Entries that hold a network for training, of which the model is the backbone.
constexpr std::array<std::string_view, 2> kDistilled{"teacher", "student"};
constexpr std::string_view kBackbone = "backbone.";
constexpr std::array<std::string_view, 3> kModuleParts{"_parameters", "_buffers", "_modules"};

class CheckpointReader {
 public:
  CheckpointReader(const std::string& path, const Pickle& pickle, TorchTensors::Storages storages)
      : path_(path), pickle_(pickle), tensors_(path, pickle, std::move(storages)) {}

  WeightFile run(std::string container) {
    PickleValue root = pickle_.root;
    collect_settings(root);
    std::string entry, last;
    while (const PickleValue* inner = wrapped(root, entry, last)) {
      root = *inner;
      collect_settings(root);
    }
    visit(root, "", 0);
    require(!found_.empty(), "'{}' holds no tensors that can be read{}; save model.state_dict() instead", path_, what_it_is(root));
    if (std::ranges::find(kDistilled, last) != kDistilled.end()) keep_backbone(entry);
    if (!entry.empty()) metadata_["torch.entry"] = entry;
    if (!not_read_.empty()) metadata_["torch.not_read"] = fmt::format("{}", fmt::join(not_read_, ", "));
    return WeightFile(path_, std::move(container), std::move(found_), std::move(metadata_), tensors_.take_memory());
  }

 private:
  // Counts every value looked at: shared parts can make a small pickle describe a huge tree.
  void step(int depth) {
    require(depth <= kMaxDepth, "'{}': its content is nested more than {} levels deep", path_, kMaxDepth);
    require(++steps_ <= kMaxSteps, "'{}': its content has more than {} values", path_, kMaxSteps);
  }

  std::string what_it_is(const PickleValue& root) const {
    if (root.kind != Kind::kCall) return "";
    PickleValue head = pickle_[root].head;
    // The legacy format gives a class as ("module", class, file, source).
    if (head.kind == Kind::kPersistent)
      if (const PickleValue id = pickle_[head].args; id.kind == Kind::kTuple && pickle_[id].items.size() > 1) head = pickle_[id].items[1];
    return fmt::format(" (its content is a pickled {})", printable(pickle_.global_name(head)));
  }

  // A dict, or an object of a class derived from one: keys and values alternate.
  std::span<const PickleValue> pairs(const PickleValue& v) const {
    if (v.kind != Kind::kDict && v.kind != Kind::kCall) return {};
    const auto& items = pickle_[v].items;
    return {items.data(), items.size() / 2 * 2};
  }

  const PickleValue* lookup(const PickleValue& v, std::string_view key) const {
    const PickleValue* found = nullptr;
    const auto p = pairs(v);
    for (size_t i = 0; i < p.size(); i += 2)
      if (p[i].str() == key) found = &p[i + 1];  // the last one wins, as in Python
    return found;
  }

  // The dict behind an attribute of a pickled module.
  const PickleValue* attribute(const PickleValue& v, std::string_view key) const {
    return v.kind == Kind::kCall && pickle_[v].state.kind == Kind::kDict ? lookup(pickle_[v].state, key) : nullptr;
  }

  bool holds_tensor(const PickleValue& v, int depth) {
    step(depth);
    if (tensors_.find(v)) return true;
    const auto p = pairs(v);
    for (size_t i = 0; i < p.size(); i += 2)
      if (holds_tensor(p[i + 1], depth + 1)) return true;
    for (std::string_view part : kModuleParts)
      if (const PickleValue* inner = attribute(v, part); inner != nullptr && holds_tensor(*inner, depth + 1)) return true;
    return false;
  }

  // The entry of `root` that holds the weights, whose name becomes `last` and goes to the end of `entry`; nullptr when root itself does.
  const PickleValue* wrapped(const PickleValue& root, std::string& entry, std::string& last) {
    const PickleValue* chosen = nullptr;
    for (std::string_view key : kEntries) {
      const PickleValue* inner = lookup(root, key);
      if (inner == nullptr || tensors_.find(*inner) || !holds_tensor(*inner, 0)) continue;
      const std::string name = join(entry, key);
      if (chosen != nullptr) {
        not_read_.push_back(name);
        continue;
      }
      step(static_cast<int>(std::ranges::count(entry, '.')));  // a cycle of wrappers ends here
      chosen = inner;
      last = key;
    }
    if (chosen != nullptr) entry = join(entry, last);
    return chosen;
  }

  // Only the tensors whose names start with `prefix`, without it.
  void keep_under(std::string_view prefix) {
    std::erase_if(found_, [&](const WeightTensor& t) { return !t.name.starts_with(prefix); });
    for (WeightTensor& t : found_) t.name.erase(0, prefix.size());
  }

  void keep_backbone(std::string& entry) {
    keep_under(wrapper_prefix(found_));
    if (std::ranges::none_of(found_, [](const WeightTensor& t) { return t.name.starts_with(kBackbone); })) return;
    keep_under(kBackbone);
    entry = join(entry, kBackbone.substr(0, kBackbone.size() - 1));
  }

  void collect_settings(const PickleValue& root) {
    constexpr size_t kLongest = 4096;
    const auto p = pairs(root);
    for (size_t i = 0; i < p.size(); i += 2) {
      if (p[i].kind != Kind::kText || p[i].length > kLongest) continue;
      const PickleValue& v = p[i + 1];
      std::string& text = metadata_[fmt::format("torch.{}", p[i].str())];
      if (v.kind == Kind::kInt) text = fmt::format("{}", v.integer);
      else if (v.kind == Kind::kBool) text = v.integer != 0 ? "True" : "False";
      else if (v.kind == Kind::kFloat) text = fmt::format("{}", v.real);
      else if (v.kind == Kind::kText && v.length <= kLongest) text = std::string(v.str());
      else metadata_.erase(fmt::format("torch.{}", p[i].str()));
    }
  }

  static std::string join(const std::string& prefix, std::string_view key) {
    return prefix.empty() ? std::string(key) : fmt::format("{}.{}", prefix, key);
  }

  // Collects the tensors below v under dotted names.
  void visit(const PickleValue& v, const std::string& name, int depth) {
    step(depth);
    if (const auto rebuild = tensors_.find(v)) return found_.push_back(tensors_.read(name, *rebuild));
    const auto p = pairs(v);
    std::unordered_set<std::string_view> seen;
    for (size_t i = 0; i < p.size(); i += 2) {
      if (p[i].kind == Kind::kInt) visit(p[i + 1], join(name, std::to_string(p[i].integer)), depth + 1);
      if (p[i].kind != Kind::kText) continue;
      require(seen.insert(p[i].str()).second, "'{}' names {} twice; the file is broken", path_, printable(join(name, p[i].str())));
      visit(p[i + 1], join(name, p[i].str()), depth + 1);
    }
    if (v.kind == Kind::kTuple || v.kind == Kind::kList)
      for (size_t i = 0; i < pickle_[v].items.size(); ++i) visit(pickle_[v].items[i], join(name, std::to_string(i)), depth + 1);
    for (std::string_view part : kModuleParts)
      if (const PickleValue* inner = attribute(v, part)) visit(*inner, name, depth + 1);
  }

  const std::string& path_;
  const Pickle& pickle_;
  int64_t steps_ = 0;
  TorchTensors tensors_;
  std::vector<WeightTensor> found_;
  std::vector<std::string> not_read_;
  WeightFile::Metadata metadata_;
};

}  // namespace

WeightFile read_torch_checkpoint(const std::string& path, std::string container, const Pickle& pickle, TorchTensors::Storages storages) {
  return CheckpointReader(path, pickle, std::move(storages)).run(std::move(container));
}

}  // namespace fovea
