// fovea info FILE|RUN|PRESET
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "options.h"

namespace fovea::cli {

namespace {

using Json = nlohmann::ordered_json;

struct InfoArguments {
  Common common;
  SizeAndSettings shape;
  std::string model;
  bool json = false;
};

Json object(const std::vector<std::pair<std::string, std::string>>& pairs) {
  Json j = Json::object();
  for (const auto& [key, value] : pairs) j[key] = value;
  return j;
}

void print_json(const ModelInfo& i) {
  const Json j = {{"name", i.name}, {"family", i.family}, {"source", i.source}, {"dialect", i.dialect}, {"container", i.container}, {"dtype", i.dtype}, {"attention", i.attention},
                  {"parameters", i.parameters}, {"classes", i.classes}, {"class_names", i.class_names}, {"channels", i.channels},
                  {"size", {i.height, i.width}}, {"gflop", i.gflop}, {"architecture", object(i.architecture)},
                  {"preprocessing", object(i.preprocessing)}, {"metadata", object(i.metadata)}, {"assumed", i.assumed}, {"left_out", i.left_out}};
  fmt::print("{}\n", j.dump(2, ' ', false, Json::error_handler_t::replace));
}

// Values of a file's metadata can be long texts.
std::string shortened(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 32) c = ' ';
  if (text.size() > 100) text = text.substr(0, 97) + "...";
  return text;
}

void print_text(const ModelInfo& i) {
  const auto line = [](std::string_view key, const std::string& value) { fmt::print("{:<16} {}\n", key, value); };
  line("name", i.name);
  line("source", i.source);
  line("dialect", i.dialect);
  if (!i.container.empty()) line("container", i.container);
  line("dtype", i.dtype);
  line("family", i.family);
  line("attention", i.attention);
  line("parameters", fmt::format("{} ({})", i.parameters, count_text(i.parameters)));
  line("input", fmt::format("{} channel{}, {}x{} pixels", i.channels, i.channels == 1 ? "" : "s", i.height, i.width));
  line("cost", fmt::format("{:.3f} GFLOP an image", i.gflop));
  std::string names;
  for (size_t c = 0; c < i.class_names.size() && c < 12; ++c) names += (c == 0 ? ": " : "; ") + i.class_names[c];
  if (i.class_names.size() > 12) names += "; ...";
  line("classes", i.classes == 0 ? "none: the model has no classification head, only features" : fmt::format("{}{}", i.classes, names));
  fmt::print("\narchitecture\n");
  for (const auto& [key, value] : i.architecture) line("  " + key, value);
  fmt::print("\npreprocessing\n");
  for (const auto& [key, value] : i.preprocessing) line("  " + key, value);
  if (!i.metadata.empty()) fmt::print("\nmetadata\n");
  for (const auto& [key, value] : i.metadata) line("  " + shortened(key), shortened(value));
  if (!i.left_out.empty()) fmt::print("\nleft out, because it is no part of the model\n");
  for (const std::string& t : i.left_out) fmt::print("  {}\n", t);
  if (!i.assumed.empty()) fmt::print("\nassumed, because the file does not say (change with --set key=value)\n");
  for (const std::string& a : i.assumed) fmt::print("  {}\n", a);
}

int run(const InfoArguments& o) {
  require_kernels(o.common);
  LoadOptions load;
  load.set = o.shape.settings();
  std::tie(load.height, load.width) = o.shape.height_width();
  load.kernels = o.common.execution.kernels;
  load.seed = o.common.seed;
  const ModelInfo info = Model::describe(o.model, load);
  if (o.json)
    print_json(info);
  else
    print_text(info);
  return 0;
}

}  // namespace

Verb add_info(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("info", "Say what a weights file, a run or a preset is");
  verb->footer("Example:\n  fovea info swin_tiny_patch4_window7_224 --size 320x256");
  const auto o = std::make_shared<InfoArguments>();
  verb->add_option("MODEL", o->model, "a weights file, a run directory or a preset")->required();
  verb->add_flag("--json", o->json, "one JSON document on stdout");
  add_size(*verb, o->shape);
  add_set(*verb, o->shape);
  add_common(*verb, o->common);
  return {verb, [o] { return run(*o); }};
}

}  // namespace fovea::cli
