// Progress on stderr: a bar with rate and time left on a terminal, a plain line now and then elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace fovea::cli {

class ProgressBar {
 public:
  ProgressBar(std::string what, std::string unit);
  ~ProgressBar() { finish(); }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // Shows at most a few times a second (a terminal) or twice a minute.
  void show(int64_t done, int64_t total);
  // The same with the caller's own words behind the bar.
  void show(int64_t done, int64_t total, const std::string& text);
  void finish();  // clears the bar's line, so that other text may follow

 private:
  using Clock = std::chrono::steady_clock;
  bool due(bool last);

  std::string what_, unit_;
  bool terminal_ = false, drawn_ = false;
  Clock::time_point start_, last_;
};

}  // namespace fovea::cli
