// Runs fixture files of reference implementations through the product: outputs and every stored gradient.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <nlohmann/json.hpp>

#include "parity/check_case.h"

int main(int argc, char** argv) {
  CLI::App app("Runs fixture files of reference implementations: outputs and every stored gradient, one line a file.\n"
               "Exit status 1 when any fails; unsupported kinds alone give 0.\n"
               "Example: fovea_check --kernels cpu.avx2 fixtures/swin_*.safetensors");
  std::string kernels = "auto";
  bool json = false;
  std::vector<std::string> files;
  app.add_option("--kernels", kernels, "reference, cpu.baseline, cpu.avx2, cpu.avx512 or auto");
  app.add_flag("--json", json, "one JSON document on stdout");
  app.add_option("files", files, "fixture files (.safetensors)")->required();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    const int code = app.exit(e);
    return code == 0 ? 0 : 2;
  }
  try {
    const fovea::KernelTable& table = fovea::kernel_table(kernels);
    nlohmann::ordered_json document = nlohmann::ordered_json::array();
    bool failed = false;
    for (const std::string& file : files) {
      const auto r = fovea::parity::run_check(file, table);
      failed = failed || r.status == "fail";
      if (json) {
        nlohmann::ordered_json worst = nullptr;
        if (!r.worst_tensor.empty()) {
          worst = {{"tensor", r.worst_tensor}, {"error", nullptr}, {"tolerance", r.worst_tolerance}};
          if (std::isfinite(r.worst_error)) worst["error"] = r.worst_error;
        }
        document.push_back({{"file", file}, {"status", r.status}, {"worst", worst}, {"why", r.why}});
        continue;
      }
      std::string line = fmt::format("{:<11} {}", r.status, file);
      if (!r.worst_tensor.empty()) line += fmt::format("  worst {} {:.2e} of {:.1e}", r.worst_tensor, r.worst_error, r.worst_tolerance);
      if (!r.why.empty()) line += "  " + r.why;
      fmt::print("{}\n", line);
    }
    if (json) fmt::print("{}\n", document.dump(1));
    return failed ? 1 : 0;
  } catch (const fovea::Error& e) {
    fmt::print(stderr, "fovea_check: {}\n", e.what());
    return 2;
  }
}
