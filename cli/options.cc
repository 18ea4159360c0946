#include "options.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstdio>

namespace fovea::cli {

void add_common(CLI::App& app, Common& common) {
  app.add_option("--threads", common.execution.threads, "threads; 0 takes all cores")->check(CLI::Range(0, 4096))->capture_default_str();
  app.add_option("--kernels", common.execution.kernels, "auto, reference, cpu.baseline, cpu.avx2 or cpu.avx512")->capture_default_str();
  app.add_option("--seed", common.seed, "of everything that is random")->capture_default_str();
}

void require_kernels(const Common& common) {
  std::string names = "auto";
  for (const KernelListing& k : list_kernels()) {
    if (k.name == common.execution.kernels) return;
    names += ", " + k.name;
  }
  if (common.execution.kernels != "auto")
    throw Error(fmt::format("there are no kernels '{}' on this machine; choose one of {}", common.execution.kernels, names));
}

void add_size(CLI::App& app, SizeAndSettings& options) {
  app.add_option("--size", options.size, "size of the model's input in pixels, H or HxW (default: the model's own)");
}

void add_set(CLI::App& app, SizeAndSettings& options) {
  app.add_option("--set", options.set, "key=value: changes the model's configuration (heads, pool, activation, block_norm, norm_epsilon, position_resampling, mean, std, crop, interpolation, ...: "
                                        "docs/weights.md has all keys and values); may be repeated")
      ->take_all()
      ->expected(1);
}

void add_dtype(CLI::App& app, std::string& dtype) {
  app.add_option("--dtype", dtype, "of weights and activations in matrix products: f32, bf16 or int8; auto: int8 for a file in int8, else f32")->capture_default_str();
}

std::pair<int64_t, int64_t> SizeAndSettings::height_width(int64_t longest) const {
  if (size.empty()) return {0, 0};
  int64_t value[2] = {0, 0};
  const char* at = size.data();
  const char* const end = at + size.size();
  int count = 0;
  for (; count < 2; ++count) {
    const auto [next, error] = std::from_chars(at, end, value[count]);
    if (error != std::errc() || value[count] < 1 || value[count] > longest) break;
    at = next;
    if (at == end) {
      if (count == 0) value[1] = value[0];
      return {value[0], value[1]};
    }
    if (count == 1 || *at != 'x') break;
    ++at;
  }
  throw Error(fmt::format("--size {}: expected H or HxW, such as 224 or 240x320, with sides from 1 to {}", size, longest));
}

Settings SizeAndSettings::settings() const {
  Settings out;
  for (const std::string& s : set) {
    const size_t eq = s.find('=');
    if (eq == std::string::npos || eq == 0) throw Error(fmt::format("--set {}: expected key=value, such as heads=4", s));
    out.emplace_back(s.substr(0, eq), s.substr(eq + 1));
  }
  return out;
}

void note(const std::string& text) { fmt::print(stderr, "fovea: {}\n", text); }

void note_assumed(const ModelInfo& info) {
  if (!info.left_out.empty()) note(fmt::format("'{}' holds more than the model; left out {}", info.source, fmt::join(info.left_out, ", ")));
  if (info.assumed.empty()) return;
  std::string list;
  for (const std::string& a : info.assumed) list += (list.empty() ? "" : ", ") + a;
  note(fmt::format("'{}' does not say everything; assumed {} (change with --set key=value)", info.source, list));
}

std::string count_text(int64_t n) {
  if (n >= 1000000) return fmt::format("{:.1f} M", static_cast<double>(n) * 1e-6);
  if (n >= 10000) return fmt::format("{:.1f} k", static_cast<double>(n) * 1e-3);
  return fmt::format("{}", n);
}

std::string duration_text(double seconds) {
  if (!(seconds >= 0) || seconds > 1e9) return "?";
  if (seconds < 10) return fmt::format("{:.1f} s", seconds);
  const auto s = static_cast<int64_t>(std::llround(seconds));
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{} min {} s", s / 60, s % 60);
  return fmt::format("{} h {} min", s / 3600, s % 3600 / 60);
}

namespace {

// Columns on a terminal: UTF-8 continuation bytes take none.
size_t columns(const std::string& s) {
  size_t n = 0;
  for (const char c : s) n += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return n;
}

}  // namespace

void print_table(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows, const std::string& right) {
  std::vector<size_t> width;
  for (const std::string& h : header) width.push_back(columns(h));
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], columns(row[i]));
  const auto line = [&](const std::vector<std::string>& row) {
    std::string text;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string gap(width[i] - columns(row[i]), ' ');
      const bool to_right = i < right.size() && right[i] == 'r';
      text += (i == 0 ? "" : "  ") + (to_right ? gap + row[i] : row[i] + gap);
    }
    text.erase(text.find_last_not_of(' ') + 1);
    fmt::print("{}\n", text);
  };
  line(header);
  std::vector<std::string> rule;
  for (const size_t w : width) rule.emplace_back(w, '-');
  line(rule);
  for (const auto& row : rows) line(row);
}

}  // namespace fovea::cli
