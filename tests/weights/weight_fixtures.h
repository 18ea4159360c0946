// Files built in memory, and a folder for files that tests write.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "core/check.h"
#include "weights/mapped_file.h"
#include "weights/safetensors.h"
#include "weights/weight_file.h"

namespace fovea::testing {

// The bytes of `text` as a file; the text must outlive what is read from it.
inline FileBytes as_file(const std::string& text) {
  return {"memory", std::as_bytes(std::span<const char>(text)), nullptr};
}

// A safetensors file from a header and data.
inline std::string safetensors_bytes(const std::string& header, const std::string& data = "") {
  const uint64_t n = header.size();
  std::string out(8, '\0');
  std::memcpy(out.data(), &n, 8);
  return out + header + data;
}

inline std::vector<float> values_of(const WeightFile& file, std::string_view name) {
  std::vector<float> out(static_cast<size_t>(file.at(name).elements()));
  file.read_f32(name, out.data());
  return out;
}

// The message of the Error that `f` throws; a test failure when it throws none.
template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

// A folder that is removed with everything in it.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "fovea-weights-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = pattern;
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  std::string write(const std::string& name, const std::string& bytes) const {
    std::ofstream(*this / name, std::ios::binary) << bytes;
    return *this / name;
  }
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& e : std::filesystem::directory_iterator(path_)) out.push_back(e.path().filename().string());
    return out;
  }

 private:
  std::string path_;
};

inline std::string read_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Tensors of zeros with these names and shapes, as a file that only recognisers and key maps look at.
inline WeightFile zeros(const std::vector<std::pair<std::string, Shape>>& entries) {
  size_t most = 0;
  for (const auto& e : entries) most = std::max(most, static_cast<size_t>(e.second.elements()));
  auto memory = std::make_shared<std::vector<float>>(most);
  std::vector<WeightTensor> tensors;
  for (const auto& [name, shape] : entries)
    tensors.push_back({name, StoredType::kF32, shape, std::as_bytes(std::span(*memory)).data(), {}});
  return WeightFile("memory", "test", std::move(tensors), {}, memory);
}

}  // namespace fovea::testing
