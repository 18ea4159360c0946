#include "weights/torch_legacy.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>
#include <string>
#include <unordered_map>

#include "core/check.h"
#include "weights/pickle.h"
#include "weights/torch_checkpoint.h"

namespace fovea {

namespace {

using namespace std::string_view_literals;
using Kind = PickleValue::Kind;

constexpr int64_t kProtocolVersion = 1001;
constexpr size_t kCountBytes = 8;

constexpr size_t kTarBlock = 512;
constexpr int kTarEntries = 32;  // more than any such checkpoint has

const PickleValue* entry_of(const Pickle& pickle, std::string_view key) {
  if (pickle.root.kind != Kind::kDict) return nullptr;
  const auto& items = pickle[pickle.root].items;
  for (size_t i = 0; i + 1 < items.size(); i += 2)
    if (items[i].str() == key) return &items[i + 1];
  return nullptr;
}

// The elements' size of every storage that the content refers to, by key; the first mention counts, as in PyTorch.
std::unordered_map<std::string_view, size_t> element_sizes(const Pickle& content) {
  std::unordered_map<std::string_view, size_t> sizes;
  for (const PickleValue& id : content.persistent_ids) {
    if (id.kind != Kind::kTuple) continue;
    const auto& parts = content[id].items;
    if (parts.size() < 3 || parts[0].str() != "storage" || parts[1].kind != Kind::kGlobal) continue;
    if (const auto size = torch_storage_element_size(content[parts[1]].args.str())) sizes.emplace(parts[2].str(), *size);
  }
  return sizes;
}

class LegacyReader {
 public:
  explicit LegacyReader(const FileBytes& file) : file_(file) {}

  WeightFile run() {
    next_pickle("the magic number");
    const Pickle version = next_pickle("the version");
    require(version.root.kind == Kind::kInt && version.root.integer == kProtocolVersion,
            "'{}' is in PyTorch's legacy format but not in its version {}; load it in PyTorch and torch.save it again", file_.path, kProtocolVersion);
    const Pickle machine = next_pickle("the facts about the machine");
    if (const PickleValue* little = entry_of(machine, "little_endian"))
      require(little->kind != Kind::kBool || little->integer != 0, "'{}' was written on a big-endian machine; only little endian is supported",
              file_.path);
    const Pickle content = next_pickle("the content");
    const Pickle keys = next_pickle("the list of storages");
    require(keys.root.kind == Kind::kList, "'{}' is broken: no list of storages follows its content", file_.path);
    locate(content, keys);
    return read_torch_checkpoint(file_.path, "PyTorch legacy", content, [this](const std::string& key) {
      const auto at = storages_.find(key);
      require(at != storages_.end(), "'{}' is broken: its list of storages lacks {}", file_.path, printable(key));
      return at->second;
    });
  }

 private:
  Pickle next_pickle(std::string_view part) {
    Pickle pickle = parse_pickle(file_.bytes.subspan(at_), fmt::format("'{}', {} at byte {}", file_.path, part, at_));
    at_ += pickle.bytes;
    return pickle;
  }

  // Finds where each storage lies.
  void locate(const Pickle& content, const Pickle& keys) {
    const auto sizes = element_sizes(content);
    for (const PickleValue& key : keys[keys.root].items) {
      const std::string name(key.str());
      const auto size = sizes.find(key.str());
      require(size != sizes.end(), "'{}' is broken: its content does not say of which type the storage {} is", file_.path, printable(name));
      const size_t left = file_.bytes.size() - at_;
      require(left >= kCountBytes, "'{}' is cut short: it ends before the storage {}", file_.path, printable(name));
      uint64_t count = 0;
      std::memcpy(&count, file_.bytes.data() + at_, kCountBytes);
      require(count <= (left - kCountBytes) / size->second, "'{}' is cut short: the storage {} should have {} elements of {} bytes, but only {} bytes follow",
              file_.path, printable(name), count, size->second, left - kCountBytes);
      const auto bytes = file_.bytes.subspan(at_ + kCountBytes, count * size->second);
      const bool is_new = storages_.emplace(name, FilePart{bytes, file_.owner, file_.mapped}).second;
      require(is_new, "'{}' is broken: it holds two storages named {}", file_.path, printable(name));
      at_ += kCountBytes + bytes.size();
    }
  }

  const FileBytes& file_;
  size_t at_ = 0;
  std::unordered_map<std::string, FilePart> storages_;
};

}  // namespace

bool looks_like_torch_legacy(std::string_view bytes) {
  constexpr std::string_view kText = "L119547037146038801333356L\n"sv;  // protocols 0 and 1
  constexpr std::string_view kBinary = "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"sv;
  if (bytes.starts_with(kText)) return true;
  if (bytes.size() < 2 || bytes[0] != '\x80') return false;
  bytes.remove_prefix(2);
  if (bytes.starts_with('\x95')) bytes.remove_prefix(std::min<size_t>(bytes.size(), 9));  // a frame and its length
  return bytes.starts_with(kBinary);
}

bool looks_like_torch_tar(std::string_view bytes) {
  bool storages = false, pickle = false;
  size_t at = 0;
  for (int entry = 0; entry < kTarEntries && at + kTarBlock <= bytes.size(); ++entry) {
    const std::string_view header = bytes.substr(at, kTarBlock);
    if (header.substr(257, 5) != "ustar") break;
    std::string_view name = header.substr(0, 100), digits = header.substr(124, 11);
    name = name.substr(0, name.find('\0'));
    storages = storages || name == "storages";
    pickle = pickle || name == "pickle";
    size_t size = 0;
    std::from_chars(digits.data(), digits.data() + digits.size(), size, 8);
    at += kTarBlock + (size + kTarBlock - 1) / kTarBlock * kTarBlock;  // eleven octal digits: no overflow
  }
  return storages && pickle;
}

WeightFile read_torch_legacy(const FileBytes& file) { return LegacyReader(file).run(); }

}  // namespace fovea
