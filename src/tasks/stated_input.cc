#include "tasks/stated_input.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/json.h"
#include "tasks/json_beside.h"

namespace fovea {

namespace {

using ForeignJson = nlohmann::json;

constexpr int64_t kLargestSide = 65536;

// A value that is absent, null, or of another kind than expected is not stated.
template <class T>
std::optional<T> stated(const ForeignJson& j, const char* key) {
  const auto it = j.is_object() ? j.find(key) : j.end();
  if (it == j.end() || it->is_null()) return std::nullopt;
  if constexpr (std::same_as<T, ForeignJson>) {
    return *it;
  } else {
    T value{};
    if constexpr (std::integral<T> && !std::same_as<T, bool>) require(!it->is_number_integer() || read_json(*it, value), "{} is out of range: {}", key, it->dump());
    return read_json(*it, value) ? std::optional(std::move(value)) : std::nullopt;
  }
}

int64_t side(int64_t pixels, const std::string& what) {
  require(pixels > 0 && pixels <= kLargestSide, "{} of {} pixels is out of range (1 to {})", what, pixels, kLargestSide);
  return pixels;
}

// One number or a list.
std::vector<double> numbers(const ForeignJson& j, const char* key) {
  if (const auto one = stated<double>(j, key)) return {*one};
  return stated<std::vector<double>>(j, key).value_or(std::vector<double>());
}

// timm's pretrained_cfg, with the defaults of timm.data.resolve_data_config.
void read_timm(const ForeignJson& j, StatedInput& s) {
  constexpr double kDefaultCrop = 0.875;
  if (const auto shape = stated<std::vector<int64_t>>(j, "input_size"); shape && shape->size() == 3)
    s.size = {side((*shape)[1], "input_size"), side((*shape)[2], "input_size")};
  s.mean = numbers(j, "mean");
  s.std = numbers(j, "std");
  const InputConfig defaults;
  if (s.mean.empty()) s.mean = defaults.mean;
  if (s.std.empty()) s.std = defaults.std;
  s.crop = stated<double>(j, "crop_pct").value_or(kDefaultCrop);
  require(*s.crop > 0 && *s.crop <= 1, "crop_pct must be in (0, 1], got {}", *s.crop);
  s.interpolation = stated<std::string>(j, "interpolation").value_or("");
  if (s.interpolation->empty()) s.interpolation = "bicubic";
  if (s.interpolation == "random") s.interpolation = "bilinear";  // of training
  const std::string mode = stated<std::string>(j, "crop_mode").value_or("center");
  s.resize = mode == "squash" || mode == "border" ? mode : "shorter";
}

// The processors' defaults, where a preprocessor_config.json leaves something out.
struct Processor {
  const char* name;  // the type begins with it
  const char* interpolation;
  bool square, crop;            // a size of one number means both sides; the middle is taken
  int64_t size, crop_size;
  std::vector<double> mean, std;
};
const std::vector<double> kHalf(3, 0.5), kClipMean{0.48145466, 0.4578275, 0.40821073}, kClipStd{0.26862954, 0.26130258, 0.27577711};
const Processor kProcessors[] = {{"DeiT", "bicubic", true, true, 256, 224, kHalf, kHalf},
                                 {"Bit", "bicubic", false, true, 224, 224, kClipMean, kClipStd},
                                 {"CLIP", "bicubic", false, true, 224, 224, kClipMean, kClipStd},
                                 {"Siglip", "bicubic", true, false, 224, 224, kHalf, kHalf},
                                 {"ConvNext", "bilinear", false, false, 384, 384, InputConfig().mean, InputConfig().std},
                                 {"", "bilinear", true, false, 224, 224, kHalf, kHalf}};  // ViT

// Pillow's codes.
std::string interpolation_of_code(int64_t code) {
  constexpr const char* kNames[] = {"nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"};
  require(code >= 0 && code < std::ssize(kNames), "resample must be Pillow's code 0 to 5, got {}", code);
  return kNames[code];
}

struct Sides {
  int64_t height = 0, width = 0;
  bool shorter_only = false;  // one number for the shorter side
};

Sides sides_of(const ForeignJson& j, const char* key, int64_t otherwise, bool square) {
  if (const auto one = stated<int64_t>(j, key)) return {side(*one, key), side(*one, key), !square};
  if (const auto two = stated<std::vector<int64_t>>(j, key); two && two->size() == 2) return {side((*two)[0], key), side((*two)[1], key)};
  const ForeignJson dictionary = stated<ForeignJson>(j, key).value_or(nullptr);
  if (const auto shortest = stated<int64_t>(dictionary, "shortest_edge")) return {side(*shortest, key), side(*shortest, key), true};
  const auto height = stated<int64_t>(dictionary, "height"), width = stated<int64_t>(dictionary, "width");
  if (height && width) return {side(*height, key), side(*width, key)};
  return {otherwise, otherwise, !square};
}

// Values become (pixel / 255 - mean) / std, whatever the file multiplies pixels by.
void read_normalisation(const ForeignJson& j, const Processor& processor, StatedInput& s) {
  const bool rescaled = stated<bool>(j, "do_rescale").value_or(true);
  const double factor = rescaled ? stated<double>(j, "rescale_factor").value_or(1.0 / 255) : 1.0;
  require(factor > 0, "rescale_factor must be positive, got {}", factor);
  if (stated<bool>(j, "do_normalize").value_or(true)) {
    s.mean = numbers(j, "image_mean");
    s.std = numbers(j, "image_std");
    if (s.mean.empty()) s.mean = processor.mean;
    if (s.std.empty()) s.std = processor.std;
  } else {
    s.mean = {0};
    s.std = {1};
  }
  const double share = factor * 255;
  if (std::abs(share - 1) < 1e-6) return;
  for (std::vector<double>* list : {&s.mean, &s.std})
    for (double& v : *list) v /= share;
}

void read_processor(const ForeignJson& j, StatedInput& s) {
  const std::string type = stated<std::string>(j, "image_processor_type").value_or(stated<std::string>(j, "feature_extractor_type").value_or(""));
  const Processor& processor = *std::find_if(std::begin(kProcessors), std::end(kProcessors), [&](const Processor& p) { return type.starts_with(p.name); });
  read_normalisation(j, processor, s);
  s.crop_rounding = "down";
  s.interpolation = processor.interpolation;
  if (const auto code = stated<int64_t>(j, "resample")) s.interpolation = interpolation_of_code(*code);

  Sides to = sides_of(j, "size", processor.size, processor.square);
  const bool resized = stated<bool>(j, "do_resize").value_or(true);
  const bool cropped = stated<bool>(j, "do_center_crop").value_or(processor.crop);
  Sides kept = to;
  if (cropped) kept = sides_of(j, "crop_size", processor.crop_size, true);
  if (type.starts_with("ConvNext") && to.shorter_only) {  // whose crop is a share, up to 384 pixels
    constexpr int64_t kWhole = 384;
    const double share = stated<double>(j, "crop_pct").value_or(224.0 / 256);
    require(share > 0 && share <= 1, "crop_pct must be in (0, 1], got {}", share);
    to.shorter_only = to.height < kWhole;
    if (to.shorter_only) {
      const double scaled = static_cast<double>(to.height) / share;
      require(scaled <= kLargestSide, "crop_pct of {} scales pictures to more than {} pixels", share, kLargestSide);
      to.height = to.width = static_cast<int64_t>(scaled);
    }
  }
  s.size = {kept.height, kept.width};
  s.crop = 1.0;
  s.resize = !resized ? "none" : to.shorter_only ? "shorter" : "squash";
  if (resized && (to.height != kept.height || to.width != kept.width))
    s.resize_size = to.height == to.width ? std::vector{to.height} : std::vector{to.height, to.width};
}

// {"0": "tench", "1": ...} or a list; placeholders are no names.
std::vector<std::string> class_names_in(const ForeignJson& j) {
  if (const auto labels = stated<std::vector<std::string>>(j, "label_names")) {
    std::vector<std::string> names = *labels;
    const ForeignJson descriptions = stated<ForeignJson>(j, "label_descriptions").value_or(nullptr);
    for (std::string& name : names)
      if (const auto text = stated<std::string>(descriptions, name.c_str())) name = *text;
    return names;
  }
  const ForeignJson labels = stated<ForeignJson>(j, "id2label").value_or(nullptr);
  if (!labels.is_object()) return {};
  std::vector<std::string> names;
  bool placeholders = true;
  for (size_t i = 0; i < labels.size(); ++i) {
    const auto name = stated<std::string>(labels, std::to_string(i).c_str());
    if (!name) return {};
    placeholders = placeholders && *name == "LABEL_" + std::to_string(i);
    names.push_back(*name);
  }
  return placeholders ? std::vector<std::string>() : names;
}

}  // namespace

StatedInput stated_beside(const std::string& path) {
  StatedInput s;
  const auto read = [&](const char* name, auto&& take) {
    const std::string file = file_beside(path, name);
    const ForeignJson j = json_object_in(file);
    if (j.is_null()) return;
    try {
      take(j);
    } catch (const Error& e) {
      fail("{}: {}", file, e.what());
    }
  };
  read("config.json", [&](const ForeignJson& j) {
    s.class_names = class_names_in(j);
    const ForeignJson pretrained = stated<ForeignJson>(j, "pretrained_cfg").value_or(nullptr);
    const ForeignJson& timm = pretrained.is_object() ? pretrained : j;
    if (s.class_names.empty()) s.class_names = class_names_in(timm);
    // Older files have the same keys at the top.
    if (timm.contains("crop_pct") || timm.contains("interpolation") || timm.contains("mean") || timm.contains("input_size")) {
      read_timm(timm, s);
      s.file = "config.json";
    } else if (j.contains("image_size")) {
      const Sides size = sides_of(j, "image_size", 0, true);
      if (size.height > 0) s.size = {size.height, size.width};
    }
  });
  read("preprocessor_config.json", [&](const ForeignJson& j) {
    read_processor(j, s);
    s.file = "preprocessor_config.json";
  });
  return s;
}

void apply_stated(const StatedInput& s, InputConfig& input) {
  const auto channels = static_cast<size_t>(input.channels);
  const auto fitting = [&](const std::vector<double>& list) { return list.size() == channels || list.size() == 1; };
  if (fitting(s.mean) && fitting(s.std)) {
    input.mean = s.mean;
    input.std = s.std;
    for (std::vector<double>* list : {&input.mean, &input.std}) list->resize(channels, list->front());
  }
  if (s.crop) {
    input.crop_pct = *s.crop;
    input.resize_size.clear();
  }
  if (s.resize_size) {
    input.resize_size = *s.resize_size;
    // Rounded up, so that preprocess_of() comes back to the stated numbers at the stated size.
    const auto scaled = [](int64_t v, int64_t to, int64_t from) { return (v * to + from - 1) / from; };
    if (const auto& [height, width] = s.size.value(); height != input.height || width != input.width)
      input.resize_size = {scaled(s.resize_size->front(), input.height, height), scaled(s.resize_size->back(), input.width, width)};
    if (input.resize_size.size() == 2 && input.resize_size[0] == input.resize_size[1]) input.resize_size.pop_back();
  }
  if (s.interpolation) input.interpolation = *s.interpolation;
  if (s.resize) input.resize = *s.resize;
  if (s.crop_rounding) input.crop_rounding = *s.crop_rounding;
}

}  // namespace fovea
