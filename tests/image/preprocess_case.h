// What a picture becomes on its way to a model, in the terms that tools/compare_preprocessing.py speaks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "image/decode.h"
#include "image_cases.h"
#include "tasks/preprocess.h"

namespace fovea::testing {

// `settings` as for --set ("height=224", "resize=squash", ...), and "at=HEIGHT,WIDTH" for an input of another size than
// theirs.
inline Preprocess preprocess_of_settings(const std::vector<std::string>& settings) {
  ModelConfig config;
  std::vector<int64_t> at;
  for (const std::string& s : settings) {
    const std::string key = s.substr(0, s.find('=')), value = s.substr(s.find('=') + 1);
    if (key == "at")
      at = {std::stoll(value), std::stoll(value.substr(value.find(',') + 1))};
    else
      set_option(config, key, value);
  }
  validate(config);
  if (at.empty()) at = {config.input.height, config.input.width};
  return preprocess_of(config.input, at[0], at[1]);
}

// Width, height, channels, CRC-32 of the pixels, and CRC-32 of the normalised float32 tensor (of nothing without settings),
// tab-separated; "error" and the message where that is the result.
inline std::string preprocessing_line(const std::filesystem::path& file, const std::vector<std::string>& settings) {
  try {
    Image image = read_image(file);
    std::vector<float> chw;
    if (!settings.empty()) {
      const Preprocess p = preprocess_of_settings(settings);
      image = fit(image, p);
      chw.resize(image.pixels.size());
      normalize(image, p.mean, p.std, chw.data());
    }
    return fmt::format("{}\t{}\t{}\t{}\t{}", image.width, image.height, image.channels, crc_of(image),
                       crc_of(chw.data(), chw.size() * sizeof(float)));
  } catch (const Error& e) {
    return fmt::format("error\t{}", e.what());
  }
}

}  // namespace fovea::testing
