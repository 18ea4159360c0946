// Runs the built command line as a user would, and makes small data for it.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace fovea {

struct CliResult {
  int status = -1;
  std::string out, err;
};

// A folder of its own for each test; removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "fovea_cli_XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

inline std::string text_of_file(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

#ifdef FOVEA_CLI  // of the tests that come with the binary
// `before`: shell words in front of the call, such as "ulimit -f 8;".
inline CliResult run_cli(const std::string& arguments, const std::string& before = "") {
  const TemporaryFolder folder;
  const std::string out = folder / "out", err = folder / "err";
  const int raw = std::system(("exec >'" + out + "' 2>'" + err + "'; " + before + " '" FOVEA_CLI "' " + arguments + " </dev/null").c_str());
  return {WIFEXITED(raw) ? WEXITSTATUS(raw) : -1, text_of_file(out), text_of_file(err)};
}

#endif

// A grey ramp, lighter for each class and a little different for each image, as binary PPM.
inline void write_ppm(const std::string& path, int side, int shade) {
  std::ofstream f(path, std::ios::binary);
  f << "P6\n" << side << " " << side << "\n255\n";
  for (int y = 0; y < side; ++y)
    for (int x = 0; x < side; ++x)
      for (int c = 0; c < 3; ++c) f.put(static_cast<char>((shade + x + 2 * y + 5 * c) & 255));
}

inline void write_class_folders(const std::string& path, int classes, int images) {
  for (int c = 0; c < classes; ++c) {
    const std::string folder = path + "/class_" + std::string(1, static_cast<char>('a' + c));
    std::filesystem::create_directories(folder);
    for (int i = 0; i < images; ++i) write_ppm(folder + "/" + std::to_string(i) + ".ppm", 28, 80 * c + 3 * i);
  }
}

}  // namespace fovea
