// Small data sets made for one test, below a folder that goes away with it.
#pragma once

#include <archive.h>
#include <archive_entry.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

namespace fovea::testing {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "fovea_data_XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string path(const std::string& name = "") const { return name.empty() ? path_ : path_ + "/" + name; }

  void write(const std::string& name, const std::string& content) const {
    std::filesystem::create_directories(std::filesystem::path(path(name)).parent_path());
    std::ofstream(path(name), std::ios::binary) << content;
  }
  void folder(const std::string& name) const { std::filesystem::create_directories(path(name)); }

 private:
  std::string path_;
};

// A PPM of one colour.
inline std::string ppm(int width, int height, uint8_t value) {
  return "P6 " + std::to_string(width) + " " + std::to_string(height) + " 255\n" +
         std::string(static_cast<size_t>(width * height * 3), static_cast<char>(value));
}

// `count` pictures of 4x4 pixels in each class; picture i of class c has the value 40 c + i.
inline void write_classes(const TemporaryFolder& at, const std::string& folder, const std::vector<std::string>& classes,
                          int count) {
  for (size_t c = 0; c < classes.size(); ++c)
    for (int i = 0; i < count; ++i)
      at.write((folder.empty() ? "" : folder + "/") + classes[c] + "/" + std::to_string(100 + i) + ".ppm",
               ppm(4, 4, static_cast<uint8_t>(40 * c + static_cast<size_t>(i))));
}

inline std::string big_endian(uint32_t v) {
  return {static_cast<char>(v >> 24), static_cast<char>(v >> 16), static_cast<char>(v >> 8), static_cast<char>(v)};
}

inline std::string idx(const std::vector<uint32_t>& dims, const std::string& values) {
  std::string file{0, 0, 8, static_cast<char>(dims.size())};
  for (const uint32_t n : dims) file += big_endian(n);
  return file + values;
}

inline std::string gzip(const std::string& plain) {
  z_stream z{};
  deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&z, plain.size()) + 32, '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(plain.data()));
  z.avail_in = static_cast<uInt>(plain.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  deflate(&z, Z_FINISH);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}

// Images 2x2 of the value i, labels i mod classes.
inline std::pair<std::string, std::string> idx_pair(uint32_t count, uint32_t classes) {
  std::string images, labels;
  for (uint32_t i = 0; i < count; ++i) {
    images += std::string(4, static_cast<char>(i));
    labels += static_cast<char>(i % classes);
  }
  return {idx({count, 2, 2}, images), idx({count}, labels)};
}

inline void write_tar(const std::string& path, const std::vector<std::pair<std::string, std::string>>& members) {
  archive* a = archive_write_new();
  if (path.size() > 3 && path.substr(path.size() - 3) != "tar") archive_write_add_filter_gzip(a);
  archive_write_set_format_ustar(a);
  archive_write_open_filename(a, path.c_str());
  for (const auto& [name, content] : members) {
    archive_entry* entry = archive_entry_new();
    archive_entry_set_pathname(entry, name.c_str());
    archive_entry_set_size(entry, static_cast<la_int64_t>(content.size()));
    archive_entry_set_filetype(entry, name.back() == '/' ? AE_IFDIR : AE_IFREG);
    archive_entry_set_perm(entry, 0644);
    archive_write_header(a, entry);
    archive_write_data(a, content.data(), content.size());
    archive_entry_free(entry);
  }
  archive_write_free(a);
}

}  // namespace fovea::testing
