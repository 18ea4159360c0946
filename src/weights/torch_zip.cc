#include "weights/torch_zip.h"

#include <string>
#include <string_view>

#include "core/check.h"
#include "weights/pickle.h"
#include "weights/torch_checkpoint.h"

namespace fovea {

WeightFile read_torch_zip(ZipArchive& zip) {
  const std::string& path = zip.path();
  std::string folder;
  bool found = false;
  for (const std::string& name : zip.names()) {
    if (!name.ends_with("data.pkl")) continue;
    const std::string before = name.substr(0, name.size() - std::string_view("data.pkl").size());
    if (before.empty() || before.find('/') == before.size() - 1) {
      folder = before;
      found = true;
      break;
    }
  }
  require(found, "'{}' is a zip archive, but neither what torch.save writes (no data.pkl in it) nor a NumPy .npz (no .npy)", path);
  require(!zip.has(folder + "constants.pkl"), "'{}' is a TorchScript program; save its state_dict() with torch.save instead", path);
  if (zip.has(folder + "byteorder")) {
    const FilePart order = zip.read(folder + "byteorder");
    const std::string_view text(reinterpret_cast<const char*>(order.span.data()), order.span.size());
    require(text == "little", "'{}' has the byte order {}; only little is supported", path, printable(text));
  }
  const FilePart stream = zip.read(folder + "data.pkl");
  const Pickle pickle = parse_pickle(stream.span, fmt::format("'{}'", path));
  return read_torch_checkpoint(path, "PyTorch zip", pickle, [&](const std::string& key) { return zip.read(fmt::format("{}data/{}", folder, key)); });
}

}  // namespace fovea
