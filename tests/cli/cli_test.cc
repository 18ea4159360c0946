#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/run_cli.h"

namespace fovea {
namespace {

using Json = nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

// The user's mistake: status 2, nothing on stdout, exactly one line on stderr that starts with "fovea: " and says `what`.
void expect_mistake(const CliResult& r, const std::string& what) {
  EXPECT_EQ(r.status, 2) << r.err;
  EXPECT_EQ(r.out, "");
  EXPECT_EQ(std::count(r.err.begin(), r.err.end(), '\n'), 1) << r.err;
  EXPECT_THAT(r.err, AllOf(testing::StartsWith("fovea: "), HasSubstr(what)));
}

void expect_mistake(const std::string& arguments, const std::string& what) {
  SCOPED_TRACE(arguments);
  expect_mistake(run_cli(arguments), what);
}

const std::string kTrain = " --model swin_mini --epochs 1 --batch 8 --size 28 --threads 2 --out ";

TEST(CommandLine, HelpOfEveryVerbShowsAnExample) {
  EXPECT_EQ(run_cli("--help").status, 0);
  for (const std::string verb : {"train", "eval", "classify", "info", "list", "bench", "compare", "convert", "features"}) {
    const CliResult r = run_cli(verb + " --help");
    EXPECT_EQ(r.status, 0) << verb;
    EXPECT_THAT(r.out, HasSubstr("fovea " + verb)) << verb;
    EXPECT_EQ(r.err, "") << verb;
  }
}

TEST(CommandLine, WrongWordsAreOneSentence) {
  expect_mistake("", "name a verb");
  expect_mistake("serve", "there is no verb 'serve'; the verbs are train, eval, classify, info, list, bench, compare, convert, features");
  expect_mistake("compare", "DATA is required");
  expect_mistake("list models --bogus", "--bogus");
  expect_mistake("list everything", "everything");
  expect_mistake("list models --kernels gpu", "there are no kernels 'gpu'");
  expect_mistake("info", "MODEL is required");
  expect_mistake("info swin_minni", "did you mean 'swin_mini'");
  expect_mistake("info weights/none.pt", "there is no file or folder 'weights/none.pt'");
  expect_mistake("info swin_mini --set hads=3", "there is no such key; did you mean 'heads'");
  expect_mistake("info swin_mini --set heads", "expected key=value");
  expect_mistake("info vit_mini --set heads=x", "expected a number");
  expect_mistake("info swin_mini --kernels gpu", "there are no kernels 'gpu'");
  expect_mistake("info swin_mini --size 28x", "expected H or HxW");
  expect_mistake("info swin_mini --size 0", "expected H or HxW");
  expect_mistake("info swin_mini --threads many", "--threads");
  expect_mistake("bench attention windo", "did you mean 'window'");
  expect_mistake("bench attention window:sise=3", "has no option 'sise'");
  expect_mistake("bench attention", "needs a name");
  expect_mistake("bench model swin_mini --size 1x65536", "sides from 1 to 16384");
  expect_mistake("bench model swin_mini --dtype fp8", "choose f32, bf16 or int8");
  expect_mistake("bench model swin_mini --train --dtype int8", "a training step is in f32 or bf16");
  expect_mistake("bench model swin_mini --batch 0", "--batch 0");
  expect_mistake("convert swin_mini", "OUT is required");
  expect_mistake("convert swin_mini model.onnx", "call it NAME.safetensors");
  expect_mistake("convert swin_mini /nowhere/model.safetensors", "cannot write '/nowhere/model.safetensors'");
  expect_mistake("convert swin_mini model.safetensors --dtype int4", "choose f32, f16, bf16 or int8");
  expect_mistake("convert vit_tiny_patch16_224 model.safetensors --to onnx --set depth=1", "--to onnx");
  expect_mistake("classify swin_mini /nowhere.png", "there is no file or folder '/nowhere.png'");
  expect_mistake("eval swin_mini /nowhere", "/nowhere");
}

TEST(CommandLine, WrongTrainingDataIsOneSentence) {
  const TemporaryFolder f;
  expect_mistake("train", "train needs DATA");
  expect_mistake("train /nowhere --model swin_mini", "/nowhere");
  write_class_folders(f / "one", 1, 4);
  expect_mistake("train " + (f / "one") + kTrain + (f / "run"), "one class");
  write_class_folders(f / "hollow", 2, 4);
  std::filesystem::create_directory(f / "hollow/class_c");
  expect_mistake("train " + (f / "hollow") + kTrain + (f / "run"), "class_c");
  std::filesystem::create_directory(f / "labels");
  std::ofstream(f / "labels/train-labels-idx1-ubyte", std::ios::binary).write("\0\0\x08\x01\0\0\0\x02\0\x01", 10);
  expect_mistake("train " + (f / "labels") + kTrain + (f / "run"), "train-labels-idx1-ubyte");
  write_class_folders(f / "good", 2, 8);
  expect_mistake("train " + (f / "good") + " --model swin_minni", "did you mean 'swin_mini'");
  expect_mistake("train " + (f / "good") + " --model swin_mini --epochs 1 --minutes 1", "exclude each other");
  expect_mistake("train " + (f / "good") + " --config " + (f / "none.json"), "there is no such file");
  std::ofstream(f / "odd.json") << "{\"epoch\": 3}";
  expect_mistake("train " + (f / "good") + " --config " + (f / "odd.json"), "there is no option 'epoch'");
  EXPECT_FALSE(std::filesystem::exists(f / "run"));
}

TEST(CommandLine, TrainsEvaluatesClassifiesAndSaysWhatItDid) {
  const TemporaryFolder f;
  write_class_folders(f / "data", 2, 12);
  const std::string data = f / "data", run = f / "run";
  const CliResult trained = run_cli("train " + data + kTrain + run);
  ASSERT_EQ(trained.status, 0) << trained.err;
  EXPECT_THAT(trained.out, AllOf(HasSubstr("parameters"), HasSubstr("memory"), HasSubstr("an epoch"), HasSubstr("Open " + run + "/report.html")));
  for (const char* name : {"config.json", "metrics.csv", "last.safetensors", "best.safetensors", "report.html"})
    EXPECT_TRUE(std::filesystem::exists(run + "/" + name)) << name;

  expect_mistake("train --resume " + run, "finished");
  expect_mistake("train --resume " + run + " --lr 1", "leave --lr out");
  expect_mistake("train " + data + kTrain + run, run);
  expect_mistake("train " + data + " --init " + run + " --model vit_mini --size 28 --epochs 1 --out " + (f / "other"), run);

  const CliResult evaluated = run_cli("eval " + run + " " + data + " --split val --json --against " + run);
  ASSERT_EQ(evaluated.status, 0) << evaluated.err;
  const Json e = Json::parse(evaluated.out);
  EXPECT_EQ(e["split"], "val");
  EXPECT_EQ(e["images"], 2);
  EXPECT_EQ(e["classes"][0]["name"], "class_a");
  EXPECT_EQ(e["confusion"].size(), 2u);
  EXPECT_GE(e["top1"], 0.0);
  EXPECT_LE(e["top1"], 1.0);
  EXPECT_EQ(e["against"]["agreement"], 1.0);
  EXPECT_EQ(e["against"]["largest_difference"], 0.0);
  EXPECT_EQ(run_cli("eval " + run + " " + data + " --split val").status, 0);

  std::ofstream(f / "broken.jpg") << "no picture";
  const std::string good = data + "/class_a/0.ppm", csv = f / "answers.csv";
  const CliResult classified = run_cli("classify " + run + " " + good + " " + (f / "broken.jpg") + " --json --csv " + csv);
  ASSERT_EQ(classified.status, 0) << classified.err;
  const Json c = Json::parse(classified.out);
  ASSERT_EQ(c.size(), 2u);
  EXPECT_EQ(c[0]["file"], good);
  EXPECT_EQ(c[0]["top"].size(), 2u);
  EXPECT_FALSE(c[0].contains("error"));
  EXPECT_TRUE(c[1]["top"].empty());
  EXPECT_THAT(c[1]["error"].get<std::string>(), HasSubstr("broken.jpg"));
  EXPECT_THAT(text_of_file(csv), HasSubstr("file,rank,class,index,probability,error\n" + good + ",1,class_"));
  const CliResult nothing = run_cli("classify " + run + " " + (f / "broken.jpg"));
  EXPECT_EQ(nothing.status, 2);
  EXPECT_THAT(nothing.err, HasSubstr("nothing could be classified"));
}

// The file goes by page by page while its weights are packed.
TEST(CommandLine, AnInferenceHoldsOneCopyOfItsWeights) {
#if defined(FOVEA_SANITIZED)
  GTEST_SKIP() << "a sanitizer's own memory counts as the process's";
#endif
  const TemporaryFolder f;
  const std::string model = f / "model.safetensors";
  ASSERT_EQ(run_cli("convert vit_small_patch16_224 " + model).status, 0);
  const auto size = static_cast<double>(std::filesystem::file_size(model));
  for (const auto& [dtype, most] : {std::pair<std::string, double>{"f32", 1.6}, {"bf16", 1.1}, {"int8", 0.85}}) {
    const Json b = Json::parse(run_cli("bench model " + model + " --threads 2 --seconds 0.01 --json --dtype " + dtype).out);
    EXPECT_LT(b["peak_memory_mib"].get<double>() * 1048576, most * size) << dtype;
    EXPECT_GT(b["load_ms"], 0.0);
  }
}

// A file in int8 says so and is used in int8 by every verb, without an option.
TEST(CommandLine, ConvertsToInt8) {
  const TemporaryFolder f;
  write_class_folders(f / "data", 2, 8);
  const std::string data = f / "data", image = data + "/class_a/0.ppm", model = f / "model.safetensors", small = f / "small.safetensors";
  ASSERT_EQ(run_cli("convert swin_mini " + model + " --set classes=2 --set class_names=class_a,class_b --seed 3").status, 0);
  const CliResult converted = run_cli("convert " + model + " " + small + " --dtype int8 --json");
  ASSERT_EQ(converted.status, 0) << converted.err;
  const Json c = Json::parse(converted.out);
  EXPECT_EQ(c["dtype"], "int8");
  EXPECT_EQ(c["in_dtype"], "f32");
  EXPECT_LT(c["bytes"], std::filesystem::file_size(model) / 2);
  EXPECT_EQ(Json::parse(run_cli("info " + small + " --json").out)["dtype"], "int8");
  EXPECT_THAT(run_cli("info " + model).out, HasSubstr("dtype            f32"));
  const std::string of_model = " " + image + " --json";
  EXPECT_EQ(run_cli("classify " + small + of_model).out, run_cli("classify " + model + of_model + " --dtype int8").out);
  EXPECT_NE(run_cli("classify " + small + of_model).out, run_cli("classify " + model + of_model).out);
  const Json e = Json::parse(run_cli("eval " + model + " " + data + " --split all --json --dtype int8 --against " + small).out);
  EXPECT_EQ(e["against"]["agreement"], 1.0);
  EXPECT_EQ(e["against"]["largest_difference"], 0.0);
  EXPECT_GT(Json::parse(run_cli("eval " + model + " " + data + " --split all --json --against " + small).out)["against"]["largest_difference"], 0.0);
  EXPECT_EQ(Json::parse(run_cli("bench model " + small + " --seconds 0.01 --json").out)["dtype"], "int8");
  EXPECT_EQ(run_cli("train " + data + kTrain + (f / "run") + " --init " + small).status, 0);
  const CliResult full = run_cli("convert " + model + " " + (f / "full.safetensors"), "ulimit -f 64;");
  EXPECT_EQ(full.status, 2);
  EXPECT_THAT(full.err, HasSubstr("full.safetensors"));
}

// What has no head gives features; trained, it gets one.
TEST(CommandLine, AModelWithoutAHeadGivesFeaturesAndLearnsClasses) {
  const TemporaryFolder f;
  write_class_folders(f / "data", 2, 8);
  const std::string data = f / "data", image = data + "/class_a/0.ppm", model = f / "headless.safetensors";
  ASSERT_EQ(run_cli("convert vit_mini " + model + " --set classes=0").status, 0);
  EXPECT_THAT(run_cli("info " + model).out, HasSubstr("no classification head"));
  EXPECT_THAT(run_cli("classify " + model + " " + image).err, HasSubstr("has no classification head: it gives features (`fovea features`)"));
  EXPECT_THAT(run_cli("eval " + model + " " + data).err, HasSubstr("has no classification head"));
  const CliResult features = run_cli("features " + model + " " + image + " --json --out " + (f / "features.npz"));
  ASSERT_EQ(features.status, 0) << features.err;
  EXPECT_EQ(Json::parse(features.out)["tokens"], Json({1, 65, 128}));
  EXPECT_EQ(run_cli("features " + model + " " + image + " --out " + (f / "features.txt")).status, 2);
  const CliResult trained = run_cli("train " + data + " --epochs 1 --batch 8 --size 32 --threads 2 --init " + model + " --out " + (f / "run"));
  ASSERT_EQ(trained.status, 0) << trained.err;
  const Json info = Json::parse(run_cli("info " + (f / "run") + " --json").out);
  EXPECT_EQ(info["classes"], 2);
  EXPECT_EQ(info["family"], "vit");
}

TEST(CommandLine, AFullDiskIsOneSentence) {
  const TemporaryFolder f;
  write_class_folders(f / "data", 2, 8);
  const CliResult r = run_cli("train " + (f / "data") + kTrain + (f / "run"), "ulimit -f 64;");
  EXPECT_EQ(r.status, 2) << r.err;
  EXPECT_THAT(r.err, AllOf(HasSubstr("fovea: "), HasSubstr(f / "run")));
  EXPECT_EQ(std::count(r.err.begin(), r.err.end(), '\n'), 1) << r.err;
}

TEST(CommandLine, OptionsComeFromAFileWhereTheCommandLineHasNone) {
  const TemporaryFolder f;
  write_class_folders(f / "data", 2, 8);
  std::ofstream(f / "options.json") << "{\"epochs\": 3, \"batch\": 8, \"size\": 28, \"model\": \"swin_mini\", \"data\": \"" << (f / "data") << "\"}";
  const CliResult r = run_cli("train --config " + (f / "options.json") + " --epochs 1 --out " + (f / "run"));
  ASSERT_EQ(r.status, 0) << r.err;
  const Json j = Json::parse(text_of_file(f / "run/config.json"));
  EXPECT_EQ(j["training"]["epochs"], 1.0);
  EXPECT_EQ(j["training"]["batch"], 8);
}

TEST(CommandLine, JsonIsAllThatStdoutHolds) {
  for (const std::string arguments : {"list models", "list attentions", "list datasets", "list kernels", "info swin_mini"}) {
    const CliResult r = run_cli(arguments + " --json");
    EXPECT_EQ(r.status, 0) << arguments << r.err;
    EXPECT_FALSE(Json::parse(r.out, nullptr, false).is_discarded()) << arguments;
  }
  const Json b = Json::parse(run_cli("bench attention window:size=3 --size 6x9 --heads 2 --head-dim 8 --backward --json").out, nullptr, false);
  for (const char* key : {"name", "batch", "size", "tokens", "threads", "dtype", "kernels", "pass", "runs", "ms_median", "ms_min", "ms_per_image",
                          "images_per_s", "gflop", "gflops", "percent_of_peak", "peak_memory_mib"})
    EXPECT_TRUE(b.contains(key)) << key;
  EXPECT_EQ(b["size"], Json::parse("[6, 9]"));
  EXPECT_EQ(b["pass"], "forward+backward");
  EXPECT_GE(b["runs"], 5);
  const Json m = Json::parse(run_cli("bench model swin_mini --train --json --threads 1").out, nullptr, false);
  EXPECT_EQ(m["pass"], "train");
  EXPECT_EQ(m["threads"], 1);
}

TEST(CommandLine, EveryOddPictureIsAnsweredOrExplained) {
  const std::string folder = FOVEA_SHARED "/data/robust";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "the collection of odd pictures is not here: " << folder;
  const TemporaryFolder f;
  std::ofstream list(f / "list");
  int64_t count = 0;
  for (const auto& e : std::filesystem::recursive_directory_iterator(folder))
    if (e.is_regular_file()) list << e.path().string() << "\n", ++count;
  list.close();
  const CliResult r = run_cli("classify swin_mini --json $(cat " + (f / "list") + ")");
  ASSERT_EQ(r.status, 0) << r.err;
  const Json j = Json::parse(r.out);
  EXPECT_EQ(std::ssize(j), count);
  for (const Json& e : j) EXPECT_NE(e["top"].empty(), !e.contains("error")) << e;
}

}  // namespace
}  // namespace fovea
