// fovea convert IN OUT
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "options.h"

namespace fovea::cli {

namespace {

using Json = nlohmann::ordered_json;

struct ConvertArguments {
  Common common;
  SizeAndSettings shape;
  ConvertOptions convert;
  std::string in, out;
  bool json = false;
};

int run(ConvertArguments& o) {
  require_kernels(o.common);
  o.convert.set = o.shape.settings();
  std::tie(o.convert.height, o.convert.width) = o.shape.height_width();
  o.convert.seed = o.common.seed;
  const Conversion c = convert(o.in, o.out, o.convert);
  ModelInfo assumed;
  assumed.source = c.source;
  assumed.assumed = c.assumed;
  assumed.left_out = c.left_out;
  note_assumed(assumed);
  if (c.source.starts_with("preset")) note(fmt::format("{} has random weights; name a weights file or a run", o.in));
  if (o.json) {
    const Json j = {{"in", c.source}, {"in_dtype", c.from_dtype}, {"out", c.out}, {"dtype", c.dtype}, {"dialect", c.dialect},
                    {"parameters", c.parameters}, {"bytes", c.bytes}, {"change", c.change}, {"beside", c.beside}};
    fmt::print("{}\n", j.dump(2, ' ', false, Json::error_handler_t::replace));
    return 0;
  }
  fmt::print("{}: {} parameters in {}, {:.1f} MB, under {}'s names\n", c.out, count_text(c.parameters), c.dtype, 1e-6 * static_cast<double>(c.bytes), c.dialect);
  if (!c.beside.empty()) fmt::print("{}: what {} asks for beside it\n", c.beside, c.dialect);
  if (c.change > 0) fmt::print("the weights of matrix products changed by {:.2g} % (root mean square) from {}\n", 100 * c.change, c.from_dtype);
  return 0;
}

}  // namespace

Verb add_convert(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("convert", "Write a model's weights in another type, or under another code base's names");
  verb->footer("Example:\n  fovea convert runs/fashion fashion-int8.safetensors --dtype int8\n"
               "  fovea eval runs/fashion fashion-mnist --against fashion-int8.safetensors\n"
               "  fovea convert vit_small_patch16_224 hf/model.safetensors --to huggingface");
  const auto o = std::make_shared<ConvertArguments>();
  verb->add_option("IN", o->in, "a run directory, a weights file or a preset")->required();
  verb->add_option("OUT", o->out, "the safetensors file to write; what is there is replaced once the new one is complete")->required();
  verb->add_option("--dtype", o->convert.dtype, "of the weights: f32, f16, bf16, or int8 with a scale for each output; auto: as IN has them")->capture_default_str();
  verb->add_option("--to", o->convert.to, "names and layout: fovea (timm's names, the configuration in the metadata), or timm, torchvision, huggingface, microsoft, ... as the model's family has them")->capture_default_str();
  verb->add_flag("--json", o->json, "one JSON document on stdout");
  add_size(*verb, o->shape);
  add_set(*verb, o->shape);
  add_common(*verb, o->common);
  return {verb, [o] { return run(*o); }};
}

}  // namespace fovea::cli
