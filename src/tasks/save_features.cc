#include <nlohmann/json.hpp>

#include "core/check.h"
#include "fovea/model.h"
#include "weights/npz_writer.h"
#include "weights/safetensors.h"

namespace fovea {

void save_features(const Features& f, const std::string& out, const std::vector<std::string>& files, const std::string& model) {
  const bool npz = out.ends_with(".npz");
  require(npz || out.ends_with(".safetensors"), "'{}' is not a name for features; call it NAME.npz or NAME.safetensors", out);
  const int64_t tokens = f.prefix_tokens + f.height * f.width, grid[] = {f.height, f.width};
  std::vector<TensorToWrite> t = {{"tokens", DType::kF32, Shape{f.batch, tokens, f.channels}, f.tokens.data()},
                                  {"prefix_tokens", DType::kI64, Shape{}, &f.prefix_tokens},
                                  {"grid", DType::kI64, Shape{2}, grid},
                                  {"stride", DType::kI64, Shape{}, &f.stride}};
  std::vector<int64_t> strides;
  for (size_t i = 0; i < f.pyramid.size(); ++i) {
    const Features::Stage& s = f.pyramid[i];
    t.push_back({fmt::format("stage{}", i + 1), DType::kF32, Shape{f.batch, s.channels, s.height, s.width}, s.values.data()});
    strides.push_back(s.stride);
  }
  if (!strides.empty()) t.push_back({"strides", DType::kI64, Shape{std::ssize(strides)}, strides.data()});
  if (!f.pooled.empty()) t.push_back({"pooled", DType::kF32, Shape{f.batch, f.channels}, f.pooled.data()});
  if (f.classes > 0) t.push_back({"logits", DType::kF32, Shape{f.batch, f.classes}, f.logits.data()});
  if (npz) {
    const TextArray names{"files", files};
    return write_npz(out, t, std::span(&names, 1));
  }
  // File names need not be UTF-8.
  const auto text = [](const nlohmann::json& j) { return j.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace); };
  const std::string name = text(model);
  write_safetensors(out, t, {{"files", text(files)}, {"model", name.substr(1, name.size() - 2)}});
}

}  // namespace fovea
