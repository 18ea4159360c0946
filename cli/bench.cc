// fovea bench machine | gemm | attention SPEC | model M
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "options.h"

namespace fovea::cli {

namespace {

using Json = nlohmann::ordered_json;

struct BenchArguments {
  Common common;
  SizeAndSettings shape;
  BenchOptions bench;
  std::string what, subject;
  bool json = false, backward = false, train = false;
};

void print_machine(const MachineBench& m, bool json) {
  if (json) {
    const Json j = {{"threads", m.threads}, {"f32_gflops", m.f32_gflops}, {"bf16_gflops", m.bf16_gflops}, {"int8_gops", m.int8_gops},
                    {"memory_gbs", m.memory_gbs}, {"isa", m.isa}};
    fmt::print("{}\n", j.dump(2));
    return;
  }
  fmt::print("{} with {} thread{}\n", m.isa, m.threads, m.threads == 1 ? "" : "s");
  fmt::print("f32     {:8.1f} GFLOP/s\n", m.f32_gflops);
  fmt::print("bf16    {:8.1f} GFLOP/s{}\n", m.bf16_gflops, m.bf16_gflops == 0 ? " (no such instructions)" : "");
  fmt::print("int8    {:8.1f} GOP/s{}\n", m.int8_gops, m.int8_gops == 0 ? " (no such instructions)" : "");
  fmt::print("memory  {:8.1f} GB/s\n", m.memory_gbs);
}

void print_gemm(const GemmBench& g, bool json) {
  const bool rounds = g.geomean_percent_from_floats > 0;
  if (json) {
    Json rows = Json::array();
    for (const auto& r : g.rows) rows.push_back({{"m", r.m}, {"k", r.k}, {"n", r.n}, {"gflops", r.gflops}, {"percent_of_peak", r.percent_of_peak}});
    Json j = {{"threads", g.threads}, {"dtype", g.dtype}, {"kernels", g.kernels}, {"geomean_percent_of_peak", g.geomean_percent_of_peak}};
    if (rounds) {
      for (size_t i = 0; i < g.rows.size(); ++i) rows[i]["percent_from_floats"] = g.rows[i].percent_from_floats;
      j["geomean_percent_from_floats"] = g.geomean_percent_from_floats;
    }
    j["rows"] = rows;
    fmt::print("{}\n", j.dump(2));
    return;
  }
  std::vector<std::vector<std::string>> rows;
  for (const auto& r : g.rows)
    rows.push_back({fmt::format("{}", r.m), fmt::format("{}", r.k), fmt::format("{}", r.n), fmt::format("{:.1f}", r.gflops),
                    fmt::format("{:.1f}", r.percent_of_peak), rounds ? fmt::format("{:.1f}", r.percent_from_floats) : ""});
  print_table({"m", "k", "n", "GFLOP/s", "% of peak", rounds ? "rounding floats" : ""}, rows, "rrrrrr");
  fmt::print("\n{}, {}, {} thread{}: {:.1f} % of the measured peak (geometric mean)", g.kernels, g.dtype, g.threads,
             g.threads == 1 ? "" : "s", g.geomean_percent_of_peak);
  if (rounds) fmt::print(", {:.1f} % with the rounding of its rows", g.geomean_percent_from_floats);
  fmt::print("\n");
}

void print_result(const BenchResult& r, bool json) {
  if (json) {
    const Json j = {{"name", r.name}, {"batch", r.batch}, {"size", {r.height, r.width}}, {"tokens", r.tokens}, {"threads", r.threads},
                    {"dtype", r.dtype}, {"kernels", r.kernels}, {"pass", r.pass}, {"runs", r.runs}, {"ms_median", r.ms_median},
                    {"ms_min", r.ms_min}, {"ms_per_image", r.ms_per_image}, {"images_per_s", r.images_per_s}, {"gflop", r.gflop},
                    {"gflops", r.gflops}, {"peak_gflops", r.peak_gflops}, {"percent_of_peak", r.percent_of_peak}, {"peak_memory_mib", r.peak_memory_mib}, {"load_ms", r.load_ms}};
    fmt::print("{}\n", j.dump(2));
    return;
  }
  fmt::print("{}, {}\n", r.name, r.pass);
  fmt::print("batch {}, {}x{}, {} tokens, {} thread{}, {}, {}\n", r.batch, r.height, r.width, r.tokens, r.threads, r.threads == 1 ? "" : "s",
             r.dtype, r.kernels);
  fmt::print("{:10.3f} ms median of {} runs ({:.3f} ms the fastest), {:.3f} ms an image, {:.1f} images/s\n", r.ms_median, r.runs, r.ms_min,
             r.ms_per_image, r.images_per_s);
  fmt::print("{:10.3f} GFLOP, {:.1f} GFLOP/s, {:.1f} % of the measured peak\n", r.gflop, r.gflops, r.percent_of_peak);
  fmt::print("{:10.1f} MiB peak memory of the process\n", r.peak_memory_mib);
  if (r.load_ms > 0) fmt::print("{:10.1f} ms to load the model\n", r.load_ms);
}

int run(BenchArguments& o) {
  require_kernels(o.common);
  const auto require_subject = [&](const char* example) {
    if (o.subject.empty()) throw Error(fmt::format("bench {} needs a name, as in: fovea bench {}", o.what, example));
  };
  o.bench.execution = o.common.execution;
  std::tie(o.bench.height, o.bench.width) = o.shape.height_width(o.what == "attention" ? SizeAndSettings::kLongestSequence : SizeAndSettings::kLongestSide);
  o.bench.set = o.shape.settings();
  if (o.backward && o.train) throw Error("--backward and --train exclude each other; name one");
  if (o.backward) o.bench.pass = BenchOptions::Pass::kBackward;
  if (o.train) o.bench.pass = BenchOptions::Pass::kTrain;
  if (o.what == "attention") {
    require_subject("attention window:size=7 --size 56 --heads 3 --head-dim 32");
    print_result(bench_attention(o.subject, o.bench), o.json);
    return 0;
  }
  if (o.what == "model") {
    require_subject("model swin_tiny_patch4_window7_224 --batch 8");
    print_result(bench_model(o.subject, o.bench), o.json);
    return 0;
  }
  if (!o.subject.empty()) throw Error(fmt::format("bench {} takes no name, got '{}'", o.what, o.subject));
  if (o.backward || o.train) throw Error(fmt::format("bench {} has neither --backward nor --train", o.what));
  if (o.what == "machine") {
    print_machine(bench_machine(o.common.execution), o.json);
  } else {
    print_gemm(bench_gemm(o.common.execution, o.bench.batch, o.bench.dtype), o.json);
  }
  return 0;
}

}  // namespace

Verb add_bench(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("bench", "Measure this machine, the matrix products, an attention or a model");
  verb->footer("Examples:\n"
               "  fovea bench machine\n"
               "  fovea bench gemm --threads 1\n"
               "  fovea bench attention window:size=7 --size 56 --heads 3 --head-dim 32 --backward\n"
               "  fovea bench model swin_tiny_patch4_window7_224 --batch 8 --train --json");
  const auto o = std::make_shared<BenchArguments>();
  verb->add_option("WHAT", o->what, "machine, gemm, attention or model")->required()->check(CLI::IsMember({"machine", "gemm", "attention", "model"}));
  verb->add_option("NAME", o->subject, "the attention (SPEC) or the model");
  verb->add_option("--batch", o->bench.batch, "images at a time")->capture_default_str();
  verb->add_option("--tokens", o->bench.tokens, "attention: a square map of about this many tokens");
  verb->add_option("--heads", o->bench.heads, "attention: heads")->capture_default_str();
  verb->add_option("--head-dim", o->bench.head_dim, "attention: channels of a head")->capture_default_str();
  verb->add_flag("--backward", o->backward, "attention: forward and backward");
  verb->add_flag("--train", o->train, "model: whole training steps");
  verb->add_option("--tensors", o->bench.tensors, "attention: safetensors file with its parameters, x and (with --backward) dy");
  verb->add_option("--write", o->bench.write, "attention: where to write y and dx of a pass, to compare with other implementations");
  verb->add_option("--seconds", o->bench.seconds, "time to measure for, at least 5 runs")->capture_default_str();
  verb->add_flag("--json", o->json, "one JSON document on stdout");
  add_dtype(*verb, o->bench.dtype);
  add_size(*verb, o->shape);
  add_set(*verb, o->shape);
  add_common(*verb, o->common);
  return {verb, [o] { return run(*o); }};
}

}  // namespace fovea::cli
