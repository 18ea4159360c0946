// fovea list models | attentions | datasets | kernels
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "options.h"

namespace fovea::cli {

namespace {

using Json = nlohmann::ordered_json;

struct ListArguments {
  Common common;
  std::string what;
  bool json = false;
};

void print(const Json& j) { fmt::print("{}\n", j.dump(2)); }

void models(bool json) {
  Json list = Json::array();
  std::vector<std::vector<std::string>> rows;
  for (const ModelListing& m : list_models()) {
    list.push_back({{"name", m.name}, {"summary", m.summary}, {"attention", m.attention}, {"parameters", m.parameters},
                    {"size", {m.height, m.width}}, {"gflop", m.gflop}});
    rows.push_back({m.name, fmt::format("{:.1f}", static_cast<double>(m.parameters) * 1e-6), fmt::format("{}x{}", m.height, m.width),
                    fmt::format("{:.2f}", m.gflop), m.summary, m.attention});
  }
  if (json) return print(list);
  print_table({"model", "M parameters", "input", "GFLOP", "", "attention"}, rows, "lrrrll");
}

void attentions(bool json) {
  Json list = Json::array();
  for (const AttentionListing& a : list_attentions()) {
    Json options = Json::array();
    for (const auto& o : a.options) options.push_back({{"name", o.name}, {"default", o.default_value}, {"help", o.help}});
    list.push_back({{"name", a.name}, {"summary", a.summary}, {"paper", a.paper}, {"cost", a.cost}, {"options", options}});
    if (json) continue;
    fmt::print("{}\n  {}\n  cost   {}\n  paper  {}\n", a.name, a.summary, a.cost, a.paper);
    for (const auto& o : a.options) fmt::print("  :{:<24} {}\n", fmt::format("{}={}", o.name, o.default_value), o.help);
    fmt::print("\n");
  }
  if (json) return print(list);
  fmt::print(
      "ListArguments follow the name, as in window:size=7:rule=timm. Combinations, from the tightest binding to the loosest:\n"
      "  A+B     one softmax over the union of their keys\n"
      "  A@2,B   parallel heads: shares of the heads by weight (default 1)\n"
      "  A/B/C   one for each stage, the last one repeats\n");
}

void datasets(bool json) {
  Json list = Json::array();
  std::vector<std::vector<std::string>> rows;
  for (const DatasetListing& d : list_datasets()) {
    list.push_back({{"name", d.name}, {"summary", d.summary}, {"path", d.path}, {"installed", d.installed}});
    rows.push_back({d.name, d.installed ? "yes" : "no", d.path, d.summary});
  }
  if (json) return print(list);
  print_table({"data set", "installed", "folder", ""}, rows);
  fmt::print("\nAny folder of class folders, folder of IDX files, or .tar.gz of either serves as well.\n");
}

void kernels(bool json) {
  Json list = Json::array();
  std::vector<std::vector<std::string>> rows;
  for (const KernelListing& k : list_kernels()) {
    list.push_back({{"name", k.name}, {"summary", k.summary}, {"chosen", k.chosen}});
    rows.push_back({k.name, k.chosen ? "auto" : "", k.summary});
  }
  if (json) return print(list);
  print_table({"kernels", "", ""}, rows);
}

int run(const ListArguments& o) {
  require_kernels(o.common);
  if (o.what == "models") models(o.json);
  if (o.what == "attentions") attentions(o.json);
  if (o.what == "datasets") datasets(o.json);
  if (o.what == "kernels") kernels(o.json);
  return 0;
}

}  // namespace

Verb add_list(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("list", "List the models, attentions, data sets or kernels there are");
  verb->footer("Example:\n  fovea list models");
  const auto o = std::make_shared<ListArguments>();
  verb->add_option("WHAT", o->what, "models, attentions, datasets or kernels")
      ->required()
      ->check(CLI::IsMember({"models", "attentions", "datasets", "kernels"}));
  verb->add_flag("--json", o->json, "one JSON document on stdout");
  add_common(*verb, o->common);
  return {verb, [o] { return run(*o); }};
}

}  // namespace fovea::cli
