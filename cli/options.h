// What the verbs of the command line share: options, how they fail, what they print.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "fovea/fovea.h"

namespace fovea::cli {

// A verb declares its options on a subcommand of `app` and returns what runs when it was chosen: its exit status.
using Run = std::function<int()>;

struct Verb {
  CLI::App* app = nullptr;
  Run run;
};

Verb add_train(CLI::App& app);
Verb add_eval(CLI::App& app);
Verb add_classify(CLI::App& app);
Verb add_info(CLI::App& app);
Verb add_list(CLI::App& app);
Verb add_bench(CLI::App& app);
Verb add_compare(CLI::App& app);
Verb add_convert(CLI::App& app);
Verb add_features(CLI::App& app);

// Options that every verb has.
struct Common {
  ExecutionOptions execution;
  uint64_t seed = 0;
};
void add_common(CLI::App& app, Common& common);
void require_kernels(const Common& common);          // throws Error for a name that this machine has no kernels of

// --size H[xW], --set key=value ...
struct SizeAndSettings {
  std::string size;
  std::vector<std::string> set;
  static constexpr int64_t kLongestSide = 16384, kLongestSequence = int64_t{1} << 24;
  // Zeros without --size; throws Error for nonsense and for a side longer than `longest`.
  std::pair<int64_t, int64_t> height_width(int64_t longest = kLongestSide) const;
  Settings settings() const;                         // throws Error for what is not key=value
};
void add_size(CLI::App& app, SizeAndSettings& options);
void add_set(CLI::App& app, SizeAndSettings& options);
void add_dtype(CLI::App& app, std::string& dtype);

// What is assumed about a model, and other remarks, on stderr.
void note(const std::string& text);
void note_assumed(const ModelInfo& info);

std::string count_text(int64_t n);                   // 28288354 -> "28.3 M"
std::string duration_text(double seconds);           // "4 min 12 s"

// A text table on stdout: columns as wide as their widest cell, numbers to the right.
void print_table(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows, const std::string& right = "");

}  // namespace fovea::cli
