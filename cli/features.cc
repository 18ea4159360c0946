// fovea features MODEL FILE ... --out F
#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "options.h"
#include "progress.h"

namespace fovea::cli {

namespace {

using Json = nlohmann::ordered_json;

struct FeaturesArguments {
  Common common;
  SizeAndSettings shape;
  std::string model, out, dtype = "auto";
  std::vector<std::string> inputs;
  bool json = false;
};

// Adds images of the same size.
void append(ImageBatch& to, const ImageBatch& from, const std::string& file) {
  if (to.batch == 0) {
    to = from;
    return;
  }
  if (from.height != to.height || from.width != to.width)
    throw Error(fmt::format("'{}' holds images of {}x{}, and the files before it of {}x{}; features of one size go into one file", file, from.height,
                            from.width, to.height, to.width));
  to.batch += from.batch;
  to.values.insert(to.values.end(), from.values.begin(), from.values.end());
}

void append(Features& to, Features&& from) {
  if (to.batch == 0) {
    to = std::move(from);
    return;
  }
  const auto join = [](std::vector<float>& a, const std::vector<float>& b) { a.insert(a.end(), b.begin(), b.end()); };
  to.batch += from.batch;
  join(to.tokens, from.tokens);
  for (size_t i = 0; i < to.pyramid.size(); ++i) join(to.pyramid[i].values, from.pyramid[i].values);
  join(to.logits, from.logits);
}

std::vector<std::vector<int64_t>> shapes_of(const Features& f) {
  std::vector<std::vector<int64_t>> out = {{f.batch, f.prefix_tokens + f.height * f.width, f.channels}};
  for (const Features::Stage& s : f.pyramid) out.push_back({f.batch, s.channels, s.height, s.width});
  return out;
}

void print(const FeaturesArguments& o, const Features& f) {
  const auto shapes = shapes_of(f);
  if (o.json) {
    Json stages = Json::array();
    for (size_t i = 0; i < f.pyramid.size(); ++i) stages.push_back({{"shape", shapes[i + 1]}, {"stride", f.pyramid[i].stride}});
    const Json j = {{"out", o.out}, {"images", f.batch}, {"tokens", shapes[0]}, {"prefix_tokens", f.prefix_tokens}, {"grid", {f.height, f.width}},
                    {"stride", f.stride}, {"pyramid", stages}, {"classes", f.classes}};
    fmt::print("{}\n", j.dump(2, ' ', false, Json::error_handler_t::replace));
    return;
  }
  fmt::print("{}: tokens [{}] of a map of {}x{}, a token for each {}x{} pixels{}\n", o.out, fmt::join(shapes[0], ", "), f.height, f.width, f.stride,
             f.stride, f.prefix_tokens > 0 ? fmt::format("; the first {} of {} are no part of it", f.prefix_tokens, shapes[0][1]) : "");
  for (size_t i = 0; i < f.pyramid.size(); ++i) fmt::print("  stage{} [{}], {}x{} pixels\n", i + 1, fmt::join(shapes[i + 1], ", "), f.pyramid[i].stride, f.pyramid[i].stride);
}

int run(const FeaturesArguments& o) {
  require_kernels(o.common);
  if (!o.out.ends_with(".npz") && !o.out.ends_with(".safetensors"))
    throw Error(fmt::format("--out {}: features are written as NAME.npz or NAME.safetensors", o.out));
  LoadOptions load;
  load.set = o.shape.settings();
  std::tie(load.height, load.width) = o.shape.height_width();
  load.kernels = o.common.execution.kernels;
  load.dtype = o.dtype;
  load.seed = o.common.seed;
  std::vector<std::filesystem::path> images, batches;
  for (const std::string& input : o.inputs) {
    if (is_image_batch(input)) {
      batches.emplace_back(input);
      continue;
    }
    const auto found = list_images(input);
    if (found.empty()) note(fmt::format("there are no image files in '{}'", input));
    images.insert(images.end(), found.begin(), found.end());
  }
  if (images.empty() && batches.empty()) throw Error("there is nothing to look at; name images, folders that hold some, or files of normalised images");
  if (!images.empty() && !batches.empty())
    throw Error(fmt::format("'{}' is an image and '{}' holds normalised ones; features of one kind go into one file", images[0].string(), batches[0].string()));

  const Model model = Model::load(o.model, load);
  const ModelInfo info = model.info();
  note_assumed(info);
  if (info.source.starts_with("preset")) note(fmt::format("{} has random weights: its features mean nothing; name a weights file or a run", info.name));
  Session session(model, o.common.execution);
  Features features;
  std::vector<std::string> files;
  if (!batches.empty()) {
    ImageBatch all;
    for (const auto& b : batches) {
      const ImageBatch part = read_image_batch(b, info.channels, load.height, load.width);
      for (int64_t i = 0; i < part.batch; ++i) files.push_back(part.batch == 1 ? b.string() : fmt::format("{}[{}]", b.string(), i));
      append(all, part, b.string());
    }
    if (load.height > 0 && (all.height != load.height || all.width != load.width))
      throw Error(fmt::format("'{}' holds images of {}x{}, not of the {}x{} that --size asks for; they are not resized", batches[0].string(), all.height,
                              all.width, load.height, load.width));
    features = session.features(all.values.data(), all.batch, all.height, all.width);
  } else {
    ProgressBar bar("features", "images");
    constexpr size_t kStep = 16;
    for (size_t begin = 0; begin < images.size(); begin += kStep) {
      const std::vector<std::filesystem::path> part(images.begin() + static_cast<int64_t>(begin),
                                                    images.begin() + static_cast<int64_t>(std::min(images.size(), begin + kStep)));
      append(features, session.features(part));
      for (const auto& p : part) files.push_back(p.string());
      bar.show(static_cast<int64_t>(files.size()), static_cast<int64_t>(images.size()));
    }
    bar.finish();
  }
  save_features(features, o.out, files, info.name);
  print(o, features);
  return 0;
}

}  // namespace

Verb add_features(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("features", "Write what a backbone makes of images: its tokens and the maps of its stages");
  verb->footer("Example:\n  fovea features runs/fashion examples/images --out features.npz\n"
               "  python3 -c \"import numpy; print(numpy.load('features.npz')['tokens'].shape)\"");
  const auto o = std::make_shared<FeaturesArguments>();
  verb->add_option("MODEL", o->model, "a run directory, a weights file or a preset")->required();
  verb->add_option("FILE", o->inputs,
                   "images, folders of them, or files of normalised 32-bit floats shaped [batch,] channels, height, width: .npy, .safetensors, or .bin with --size")
      ->required();
  verb->add_option("--out", o->out, "the .npz or .safetensors file to write")->required();
  verb->add_flag("--json", o->json, "what was written, as one JSON document on stdout");
  add_dtype(*verb, o->dtype);
  add_size(*verb, o->shape);
  add_set(*verb, o->shape);
  add_common(*verb, o->common);
  return {verb, [o] { return run(*o); }};
}

}  // namespace fovea::cli
