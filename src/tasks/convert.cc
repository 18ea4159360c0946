#include "fovea/convert.h"

#include <cmath>
#include <filesystem>
#include <vector>

#include "core/convert.h"
#include "tasks/checkpoint.h"
#include "tasks/convert_dialect.h"
#include "tasks/load_model.h"
#include "weights/int8_rows.h"
#include "weights/safetensors.h"

namespace fovea {

namespace {

DType element_type(const std::string& dtype) {
  if (dtype == "f32") return DType::kF32;
  if (dtype == "f16") return DType::kF16;
  if (dtype == "bf16") return DType::kBF16;
  if (dtype == "int8") return DType::kI8;
  fail("--dtype {}: choose f32, f16, bf16 or int8", dtype);
}

// What products in int8 read packed alone; a weight that a layer also reads plain stays as it is, or its plain value would change.
bool becomes_int8(const Param& p) { return p.packable && !p.outermost && !p.read_plain; }

// The tensors of the file and the memory of those that are converted.
class Tensors {
 public:
  explicit Tensors(const std::string& source) : source_(source) {}

  void add(const Param& p, DType type) {
    if (type == DType::kI8 && becomes_int8(p)) return add_int8(p);
    if (type == DType::kI8 || p.buffer) type = DType::kF32;
    if (type == p.value.dtype) {
      written_.push_back({p.name, type, p.shape, p.value.data});
      measure(p, p.value);
      return;
    }
    const Tensor to(reserve(static_cast<size_t>(p.shape.elements()) * size_of(type)), p.shape, type);
    convert(p.value, to);
    for (int64_t i = 0; i < to.elements(); ++i)
      require(std::isfinite(load_scalar(to, i)) || !std::isfinite(load_scalar(p.value, i)), "'{}': {} has the value {}, which {} cannot hold; choose another --dtype",
              source_, p.name, load_scalar(p.value, i), name_of(type));
    written_.push_back({p.name, type, p.shape, to.data});
    measure(p, to);
  }

  const std::vector<TensorToWrite>& written() const { return written_; }
  double change() const { return squares_ > 0 ? std::sqrt(changes_ / squares_) : 0; }

 private:
  void add_int8(const Param& p) {
    const float* weights = p.value.as<float>();
    const int64_t rows = p.shape[0], row = p.shape.elements() / rows;
    auto* integers = static_cast<int8_t*>(reserve(static_cast<size_t>(p.shape.elements())));
    auto* scales = static_cast<float*>(reserve(static_cast<size_t>(rows) * sizeof(float)));
    std::vector<float> back(static_cast<size_t>(row));
    for (int64_t i = 0; i < rows; ++i) {
      const float* from = weights + i * row;
      for (int64_t k = 0; k < row; ++k)
        require(std::isfinite(from[k]), "'{}': {} has the value {}, which int8 cannot hold; choose another --dtype", source_, p.name, from[k]);
      scales[i] = write_int8_row(from, row, integers + i * row);
      for (int64_t k = 0; k < row; ++k) back[static_cast<size_t>(k)] = static_cast<float>(integers[i * row + k]);
      read_int8_row(scales[i], row, back.data());
      for (int64_t k = 0; k < row; ++k) measure(from[k], back[static_cast<size_t>(k)]);
    }
    written_.push_back({p.name, DType::kI8, p.shape, integers});
    written_.push_back({int8_scale_name(p.name), DType::kF32, Shape{rows}, scales});
  }

  void measure(double from, double to) {
    squares_ += from * from;
    changes_ += (to - from) * (to - from);
  }
  void measure(const Param& p, const Tensor& to) {
    if (p.packable)
      for (int64_t i = 0; i < to.elements(); ++i) measure(load_scalar(p.value, i), load_scalar(to, i));
  }

  void* reserve(size_t bytes) { return memory_.emplace_back(bytes).data(); }

  const std::string& source_;
  std::vector<Buffer> memory_;
  std::vector<TensorToWrite> written_;
  double squares_ = 0, changes_ = 0;
};

}  // namespace

Conversion convert(const std::string& model, const std::string& out, const ConvertOptions& options) {
  require(out.ends_with(".safetensors"), "'{}' is not a name for what is written, a safetensors file; call it NAME.safetensors", out);
  if (options.to != "fovea") return convert_to_dialect(model, out, options);
  if (options.dtype != "auto") (void)element_type(options.dtype);
  LoadOptions load;
  load.set = options.set;
  load.height = options.height;
  load.width = options.width;
  load.seed = options.seed;
  const LoadedModel loaded = load_model(model, load, DType::kF32);
  const Classifier& classifier = *loaded.classifier;

  Conversion r;
  r.source = loaded.source;
  r.from_dtype = loaded.dtype;
  r.out = out;
  r.dtype = options.dtype != "auto" ? options.dtype : loaded.dtype == "f64" ? "f32" : loaded.dtype;
  r.dialect = options.to;
  r.parameters = classifier.params().count();
  r.assumed = loaded.assumed;
  r.left_out = loaded.left_out;
  const DType type = element_type(r.dtype);
  Tensors tensors(model);
  for (const Param& p : classifier.params().params()) tensors.add(p, type);
  r.change = tensors.change();

  Metadata metadata = loaded.metadata;
  metadata.erase(kTrainingStateKey);  // a file to continue a training from it is not
  metadata["fovea.dtype"] = r.dtype;
  metadata.emplace("format", "pt");   // what Hugging Face's readers ask for
  add_model_metadata(metadata, classifier);
  write_safetensors(out, tensors.written(), metadata);
  r.bytes = static_cast<int64_t>(std::filesystem::file_size(out));
  return r;
}

}  // namespace fovea
