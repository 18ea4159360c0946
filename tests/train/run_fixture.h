// A small synthetic data set and what the tests of whole runs share.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>

#include "core/check.h"
#include "core/rng.h"
#include "fovea/train.h"
#include "report/csv.h"

namespace fovea::testing_runs {

namespace fs = std::filesystem;

inline std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

inline void write_file(const fs::path& path, const std::string& bytes) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
}

// A folder of its own, removed at the end.
class Folder {
 public:
  Folder() : path_(fs::temp_directory_path() / fmt::format("fovea-{}-{}", getpid(), counter()++)) { fs::create_directories(path_); }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  fs::path operator/(const std::string& name) const { return path_ / name; }

 private:
  static int& counter() {
    static int n = 0;
    return n;
  }
  fs::path path_;
};

// 28x28 colour pictures: class c has bright stripes of its own direction and colour, with noise.
inline void make_images(const fs::path& folder, int classes, int images, uint64_t seed = 1) {
  for (int c = 0; c < classes; ++c)
    for (int i = 0; i < images; ++i) {
      Rng rng(seed, static_cast<uint64_t>(c * 1000 + i));
      std::string ppm = "P6\n28 28\n255\n";
      for (int y = 0; y < 28; ++y)
        for (int x = 0; x < 28; ++x)
          for (int k = 0; k < 3; ++k) {
            const bool bright = ((c == 0 ? x : c == 1 ? y : x + y) / 4) % 2 == 0;
            ppm += static_cast<char>((bright && k == c % 3 ? 120 : 40) + static_cast<int>(rng.next_below(60)));
          }
      write_file(folder / fmt::format("class{}", c) / fmt::format("{:03}.ppm", i), ppm);
    }
}

// Follows a run; stops it after so many steps.
class Observer : public TrainObserver {
 public:
  int64_t stop_after = -1;
  int64_t asked = 0, steps = 0;
  std::vector<TrainPlan> plans;
  std::vector<EpochMetrics> epochs;
  std::vector<std::string> messages;
  std::function<void()> at_epoch;

  void on_plan(const TrainPlan& p) override { plans.push_back(p); }
  void on_progress(const TrainProgress& p) override { steps += !p.validating; }
  void on_epoch(const EpochMetrics& m) override {
    epochs.push_back(m);
    if (at_epoch) at_epoch();
  }
  void on_message(const std::string& m) override { messages.push_back(m); }
  bool stop_requested() override { return ++asked == stop_after; }
};

// A run of a tiny model that takes no time: 16 images a step, 4 steps an epoch on make_images(folder, 3, 24).
inline TrainOptions tiny(const fs::path& data, const fs::path& out) {
  TrainOptions o;
  o.data = data.string();
  o.out = out.string();
  o.model = "swin_mini";
  o.set = {{"dim", "8"}, {"depths", "1,1"}, {"stage_heads", "1,2"}, {"dropout", "0.1"}};
  o.batch = 16;
  o.epochs = 3;
  o.lr = 3e-3;
  o.execution.threads = 1;
  return o;
}

// metrics.csv without its time columns.
inline std::vector<report::CsvRow> metrics_without_times(const fs::path& run) {
  std::vector<report::CsvRow> rows = report::parse_csv(read_file(run / "metrics.csv"));
  for (report::CsvRow& row : rows) row.resize(row.size() - 2);
  return rows;
}

// The message of the Error that f throws, or "" when it throws none.
inline std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace fovea::testing_runs
