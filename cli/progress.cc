#include "progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "options.h"

namespace fovea::cli {

namespace {

constexpr double kTerminalSeconds = 0.2, kPlainSeconds = 30;
constexpr int64_t kBarWidth = 24;

}  // namespace

ProgressBar::ProgressBar(std::string what, std::string unit)
    : what_(std::move(what)), unit_(std::move(unit)), terminal_(isatty(STDERR_FILENO) == 1), start_(Clock::now()), last_(start_) {}

bool ProgressBar::due(bool last) {
  const auto now = Clock::now();
  const double since = std::chrono::duration<double>(now - last_).count();
  // Short work needs no progress at all.
  if (terminal_ ? since < kTerminalSeconds && !(last && drawn_) : since < kPlainSeconds) return false;
  last_ = now;
  return true;
}

void ProgressBar::show(int64_t done, int64_t total) {
  const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  const double left = rate > 0 ? static_cast<double>(total - done) / rate : 0;
  show(done, total, fmt::format("{}/{} {}  {:.0f}/s  {} left", done, total, unit_, rate, duration_text(left)));
}

void ProgressBar::show(int64_t done, int64_t total, const std::string& text) {
  if (!due(done >= total)) return;
  const int64_t filled = total > 0 ? std::clamp<int64_t>(done * kBarWidth / total, 0, kBarWidth) : 0;
  if (terminal_) {
    fmt::print(stderr, "\r\033[K{} [{}{}] {}", what_, std::string(static_cast<size_t>(filled), '#'),
               std::string(static_cast<size_t>(kBarWidth - filled), '.'), text);
    drawn_ = true;
  } else {
    fmt::print(stderr, "{} {}\n", what_, text);
  }
  std::fflush(stderr);
}

void ProgressBar::finish() {
  if (drawn_) fmt::print(stderr, "\r\033[K");
  drawn_ = false;
}

}  // namespace fovea::cli
