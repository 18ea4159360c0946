#include <algorithm>
#include <array>
#include <filesystem>
#include <string_view>
#include <system_error>

#include "core/check.h"
#include "weights/mapped_file.h"
#include "weights/npz.h"
#include "weights/safetensors.h"
#include "weights/shard_index.h"
#include "weights/sharded.h"
#include "weights/torch_legacy.h"
#include "weights/torch_zip.h"
#include "weights/weight_file.h"
#include "weights/wrapper_prefix.h"
#include "weights/zip_archive.h"

namespace fovea {

namespace {

using namespace std::string_view_literals;

struct Magic {
  size_t at;
  std::string_view bytes;
  std::string_view what;  // "is ...": what it looks like and what to do
};

constexpr std::string_view kPickle = "a Python pickle that torch.save did not write, which is not read; save the weights as safetensors";
constexpr std::string_view kTorchTar = "a checkpoint in the tar format of PyTorch 0.1, which is not read; load it in PyTorch 1 and torch.save it again";
constexpr std::string_view kOnnx = "an ONNX model; fovea needs the weights it was exported from (.safetensors, .pt)";
constexpr std::string_view kPage = "a web page; the download went wrong";
constexpr std::string_view kImage = "an image, not a weights file";

constexpr std::array kMagics{
    Magic{0, "\x80\x02"sv, kPickle},
    Magic{0, "\x80\x03"sv, kPickle},
    Magic{0, "\x80\x04"sv, kPickle},
    Magic{0, "\x80\x05"sv, kPickle},
    Magic{0, "\x89HDF\r\n\x1a\n"sv, "an HDF5 file (Keras), which is not supported; convert the weights to safetensors"},
    Magic{0, "GGUF"sv, "a GGUF file, which is not supported; use the checkpoint it was converted from"},
    Magic{0, "lmgg"sv, "a ggml file, which is not supported; use the checkpoint it was converted from"},
    Magic{0, "\x93NUMPY"sv, "a single NumPy array (.npy), not a set of named tensors (.npz)"},
    Magic{4, "TFL3"sv, "a TensorFlow Lite model, which is not supported"},
    Magic{0, "\x1f\x8b"sv, "compressed with gzip; unpack it first"},
    Magic{0, "\xfd" "7zXZ"sv, "compressed with xz; unpack it first"},
    Magic{0, "\x28\xb5\x2f\xfd"sv, "compressed with zstd; unpack it first"},
    Magic{257, "ustar"sv, "a tar archive; unpack it first"},
    Magic{0, "version https://git-lfs"sv, "a git-lfs pointer, not the weights themselves; run 'git lfs pull' or download the file"},
    Magic{0, "<?xml"sv, "an XML file (OpenVINO IR?), not weights"},
    Magic{0, "<!DOCTYPE"sv, kPage},
    Magic{0, "<!doctype"sv, kPage},
    Magic{0, "<html"sv, kPage},
    Magic{0, "\x89PNG"sv, kImage},
    Magic{0, "\xff\xd8\xff"sv, kImage},
};

// ONNX has no magic number: a protobuf that opens with a small ir_version (field 1) and a text in field 2 or a graph.
bool looks_like_onnx(std::string_view b) {
  return b.size() > 4 && b[0] == 0x08 && b[1] > 0 && b[1] < 32 && (b[2] == 0x12 || b[2] == 0x1a || b[2] == 0x3a);
}

}  // namespace

namespace {

WeightFile read_container(const FileBytes& file) {
  const std::string& path = file.path;
  require(!file.bytes.empty(), "'{}' is empty", path);
  const std::string_view bytes(reinterpret_cast<const char*>(file.bytes.data()), file.bytes.size());
  if (bytes.starts_with("PK\x03\x04"sv) || bytes.starts_with("PK\x05\x06"sv)) {
    ZipArchive zip(file);
    return looks_like_npz(zip) ? read_npz(zip) : read_torch_zip(zip);
  }
  if (looks_like_safetensors(file.bytes)) return parse_safetensors(file);
  if (looks_like_torch_legacy(bytes)) return read_torch_legacy(file);
  require(!looks_like_torch_tar(bytes), "'{}' is {}", path, kTorchTar);
  for (const Magic& m : kMagics)
    require(!bytes.substr(std::min(m.at, bytes.size())).starts_with(m.bytes), "'{}' is {}", path, m.what);
  require(!looks_like_onnx(bytes), "'{}' looks like {}", path, kOnnx);
  // A name that promises safetensors deserves the reason why it is none.
  if (path.ends_with(".safetensors")) return parse_safetensors(file);
  fail("'{}' is no weights file that fovea knows (safetensors, what torch.save writes, NumPy .npz)", path);
}

}  // namespace

WeightFile open_weights(const std::string& given) {
  std::string path = given;
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    const auto inside = weights_in_folder(path);
    require(inside.has_value(), "'{}' is a directory without model.safetensors, pytorch_model.bin or an index (*.index.json); name the weights file inside it",
            path);
    path = *inside;
  }
  if (const auto index = index_of_shard(path)) path = *index;
  const FileBytes bytes = map_file(path);
  const std::string_view text(reinterpret_cast<const char*>(bytes.bytes.data()), bytes.bytes.size());
  const WeightFile file = looks_like_shard_index(text) ? read_shards(bytes, read_container) : read_container(bytes);
  const std::string prefix = wrapper_prefix(file.tensors());
  return prefix.empty() ? file : file.under(prefix);
}

}  // namespace fovea
