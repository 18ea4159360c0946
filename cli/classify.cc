// fovea classify MODEL FILE|DIR ...
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "options.h"
#include "progress.h"

namespace fovea::cli {

namespace {

using Json = nlohmann::ordered_json;

struct ClassifyArguments {
  Common common;
  SizeAndSettings shape;
  std::string model, csv, dtype = "auto";
  std::vector<std::string> inputs;
  int topk = 5;
  bool json = false;
};

std::string csv_cell(const std::string& text) {
  if (text.find_first_of(",\"\n\r") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

void write_csv(const std::string& path, const std::vector<Session::Answer>& answers) {
  std::FILE* f = std::fopen(path.c_str(), "w");
  if (!f) throw Error(fmt::format("--csv {}: the file cannot be written; name another one", path));
  std::string text = "file,rank,class,index,probability,error\n";
  for (const Session::Answer& a : answers) {
    if (!a.error.empty()) text += fmt::format("{},,,,,{}\n", csv_cell(a.file.string()), csv_cell(a.error));
    int rank = 0;
    for (const Prediction& p : a.top)
      text += fmt::format("{},{},{},{},{:.6f},\n", csv_cell(a.file.string()), ++rank, csv_cell(p.name), p.index, p.probability);
  }
  const bool written = std::fwrite(text.data(), 1, text.size(), f) == text.size();
  if (std::fclose(f) != 0 || !written) throw Error(fmt::format("--csv {}: the file could not be written; is the disk full?", path));
}

void print_json(const std::vector<Session::Answer>& answers) {
  Json list = Json::array();
  for (const Session::Answer& a : answers) {
    Json top = Json::array();
    for (const Prediction& p : a.top) top.push_back({{"class", p.name}, {"index", p.index}, {"probability", p.probability}});
    Json entry = {{"file", a.file.string()}, {"top", top}};
    if (!a.error.empty()) entry["error"] = a.error;
    list.push_back(entry);
  }
  // File names need not be UTF-8.
  fmt::print("{}\n", list.dump(2, ' ', false, Json::error_handler_t::replace));
}

void print_text(const std::vector<Session::Answer>& answers) {
  for (const Session::Answer& a : answers) {
    if (!a.error.empty()) {
      note(a.error);
      continue;
    }
    fmt::print("{}\n", a.file.string());
    for (const Prediction& p : a.top) fmt::print("  {:6.2f} %  {}\n", 100 * p.probability, p.name);
  }
}

int run(const ClassifyArguments& o) {
  require_kernels(o.common);
  LoadOptions load;
  load.set = o.shape.settings();
  std::tie(load.height, load.width) = o.shape.height_width();
  load.kernels = o.common.execution.kernels;
  load.dtype = o.dtype;
  load.seed = o.common.seed;
  std::vector<std::filesystem::path> files;
  for (const std::string& input : o.inputs) {
    const auto found = list_images(input);
    if (found.empty()) note(fmt::format("there are no image files in '{}'", input));
    files.insert(files.end(), found.begin(), found.end());
  }
  if (files.empty()) throw Error("there is nothing to classify; name image files or folders that hold some");
  const Model model = Model::load(o.model, load);
  const ModelInfo info = model.info();
  note_assumed(info);
  if (info.source.starts_with("preset")) note(fmt::format("{} has random weights: its answers mean nothing; name a weights file or a run", info.name));

  Session session(model, o.common.execution);
  std::vector<Session::Answer> answers;
  ProgressBar bar("classifying", "images");
  constexpr size_t kStep = 64;
  for (size_t begin = 0; begin < files.size(); begin += kStep) {
    const std::vector<std::filesystem::path> part(files.begin() + static_cast<int64_t>(begin),
                                                  files.begin() + static_cast<int64_t>(std::min(files.size(), begin + kStep)));
    for (Session::Answer& a : session.classify(part, o.topk)) answers.push_back(std::move(a));
    bar.show(static_cast<int64_t>(answers.size()), static_cast<int64_t>(files.size()));
  }
  bar.finish();

  if (!o.csv.empty()) write_csv(o.csv, answers);
  if (o.json)
    print_json(answers);
  else
    print_text(answers);
  size_t broken = 0;
  for (const Session::Answer& a : answers) broken += !a.error.empty();
  if (broken == answers.size())
    throw Error(broken == 1 ? fmt::format("nothing could be classified: {}", answers.front().error)
                            : fmt::format("nothing could be classified: none of the {} files is a readable image", broken));
  if (broken > 0) note(fmt::format("{} of {} files could not be read", broken, answers.size()));
  return 0;
}

}  // namespace

Verb add_classify(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("classify", "Say what images show");
  verb->footer("Example:\n  fovea classify runs/fashion examples/images --topk 3");
  const auto o = std::make_shared<ClassifyArguments>();
  verb->add_option("MODEL", o->model, "a run directory, a weights file or a preset")->required();
  verb->add_option("FILE", o->inputs, "images, or folders of them")->required();
  verb->add_option("--topk", o->topk, "classes for each image")->check(CLI::Range(1, 1000000))->capture_default_str();
  verb->add_option("--csv", o->csv, "also write the answers to this file");
  verb->add_flag("--json", o->json, "one JSON document on stdout");
  add_dtype(*verb, o->dtype);
  add_size(*verb, o->shape);
  add_set(*verb, o->shape);
  add_common(*verb, o->common);
  return {verb, [o] { return run(*o); }};
}

}  // namespace fovea::cli
