#include "fovea/model.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/convert.h"
#include "image/decode.h"
#include "tasks/model_impl.h"
#include "tasks/preprocess.h"

namespace fovea {

namespace {

constexpr size_t kBatch = 16;  // images that are decoded and classified together

template <class T>
std::string joined(const std::vector<T>& values) {
  return fmt::format("{}", fmt::join(values, ","));
}

std::vector<Prediction> best_of(const Model::Impl& model, const double* logits, int topk) {
  const auto classes = static_cast<size_t>(model.config().classes);
  const double largest = *std::max_element(logits, logits + classes);
  require(std::isfinite(largest), "the model gives no finite numbers for this image; are its weights and its mean and std right?");
  double sum = 0;
  for (size_t c = 0; c < classes; ++c) sum += std::exp(logits[c] - largest);
  std::vector<int64_t> order(classes);
  std::iota(order.begin(), order.end(), int64_t{0});
  const size_t count = std::min(classes, static_cast<size_t>(topk));
  std::partial_sort(order.begin(), order.begin() + static_cast<int64_t>(count), order.end(), [&](int64_t a, int64_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  std::vector<Prediction> top;
  for (size_t i = 0; i < count; ++i) top.push_back({model.class_name(order[i]), order[i], std::exp(logits[order[i]] - largest) / sum});
  return top;
}

// The kernels that a model's weights are kept for.
const KernelTable& table_to_load_for(const LoadOptions& options) {
  const KernelTable& table = kernel_table(options.kernels);
  require(table.dtype != DType::kDual, "the kernels '{}' are for tests of derivatives only", table.name);
  return table;
}

}  // namespace

const KernelTable& table_for(const Model::Impl& model, const std::string& kernels) {
  if (kernels != "auto")
    require(&kernel_table(kernels) == model.table, "the model was loaded for the kernels '{}', not '{}'; load it for those", model.table->name, kernels);
  return *model.table;
}

void classify_batch(const Model::Impl& model, ConstTensor images, std::vector<double>& logits, Context& ctx) {
  ctx.scratch().reset();
  ArenaScope scope(ctx.scratch());
  if (images.dtype != ctx.dtype()) {
    const Tensor converted = ctx.scratch().take(images.shape, ctx.dtype());
    convert(images, converted);
    images = converted;
  }
  const Tensor out = ctx.scratch().take(Shape{images.dim(0), model.config().classes}, ctx.dtype());
  model.classifier().classify(images, out, ctx);
  logits.resize(static_cast<size_t>(out.elements()));
  for (int64_t i = 0; i < out.elements(); ++i) logits[static_cast<size_t>(i)] = load_scalar(out, i);
}

Model::Model(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

Model Model::load(const std::string& model, const LoadOptions& options) {
  auto impl = std::make_shared<Impl>();
  impl->table = &table_to_load_for(options);
  Context ctx(*impl->table, impl->table->dtype, 0);
  impl->loaded = load_for_inference(model, options, ctx);
  impl->preprocess = preprocess_of(impl->config().input, impl->loaded.height, impl->loaded.width);
  return Model(std::move(impl));
}

namespace {

ModelInfo info_of(const LoadedModel& loaded) {
  const Classifier& classifier = *loaded.classifier;
  const ModelConfig& c = classifier.config();
  ModelInfo i;
  i.name = c.name;
  i.family = c.family;
  i.attention = c.attention;
  i.dialect = loaded.dialect;
  i.source = loaded.source;
  i.container = loaded.container;
  i.dtype = loaded.dtype;
  i.parameters = classifier.params().count();
  i.classes = c.classes;
  i.channels = c.input.channels;
  i.height = loaded.height;
  i.width = loaded.width;
  i.gflop = 1e-9 * classifier.flops(1, loaded.height, loaded.width);
  i.class_names = class_names_of(c);
  i.assumed = loaded.assumed;
  if (!loaded.container.empty() && c.class_names.empty() && !i.class_names.empty()) i.assumed.push_back(fmt::format("class_names=those of {}", imagenet_classes(c.classes)->title));
  i.left_out = loaded.left_out;
  i.metadata.assign(loaded.metadata.begin(), loaded.metadata.end());
  i.preprocessing = preprocessing_facts(c.input);
  i.architecture = {{"stem", c.convolutional_stem ? "early convolutions" : c.family == "cswin" ? "7x7 convolution" : "patches"}, {"patch", fmt::format("{}", c.patch)},
                    {"dim", fmt::format("{}", c.dim)}};
  if (c.swin_v2()) i.architecture.emplace_back("swin_version", "2");
  if (c.hierarchical()) {
    i.architecture.emplace_back("depths", joined(c.depths));
    i.architecture.emplace_back("stage_heads", joined(c.stage_heads));
  } else {
    i.architecture.emplace_back("depth", fmt::format("{}", c.depth));
    i.architecture.emplace_back("heads", fmt::format("{}", c.heads));
    i.architecture.emplace_back("head_dim", fmt::format("{}", c.head_dim > 0 ? c.head_dim : c.dim / c.heads));
    i.architecture.emplace_back("pool", c.pool == "map" ? "map (attention with a learned query)" : c.pool);
    if (c.parallel > 1) i.architecture.emplace_back("parallel", fmt::format("{}", c.parallel));
    if (c.block_norm != "pre") i.architecture.emplace_back("block_norm", c.block_norm);
    i.architecture.emplace_back("prefix tokens", fmt::format("{}", c.class_token + c.distillation_token + c.register_tokens));
  }
  i.architecture.emplace_back("mlp_ratio", fmt::format("{:g}", c.mlp_ratio));
  i.architecture.emplace_back("activation", c.activation);
  i.architecture.emplace_back("norm_epsilon", fmt::format("{:g}", c.norm_epsilon));
  return i;
}

}  // namespace

ModelInfo Model::info() const { return info_of(impl_->loaded); }

ModelInfo Model::describe(const std::string& model, const LoadOptions& options) {
  (void)table_to_load_for(options);
  (void)product_type(options.dtype);
  const LoadedModel loaded = open_model(model, options).loaded;
  (void)preprocess_of(loaded.classifier->config().input, loaded.height, loaded.width);
  return info_of(loaded);
}

void require_head(const Model::Impl& model) {
  require(model.config().classes > 0,
          "'{}' has no classification head: it gives features (`fovea features`); `fovea train DATA --init {} --classes N` trains a head for it",
          model.loaded.source, model.loaded.source);
}

void require_size(const Model::Impl& model, int64_t height, int64_t width) {
  const auto reasons = model.classifier().backbone().unsupported(height, width);
  require(reasons.empty(), "{} cannot take images of {}x{}: {}", model.config().name, height, width, fmt::join(reasons, "; "));
}

Session::Impl::Impl(const Model& m, const ExecutionOptions& options)
    : model(m), ctx(table_for(m.impl(), options.kernels), m.impl().table->dtype, options.threads) {}

Session::Session(const Model& model, const ExecutionOptions& options) : impl_(std::make_unique<Impl>(model, options)) {}
Session::~Session() = default;
Session::Session(Session&&) noexcept = default;

std::vector<Prediction> Session::classify(const std::filesystem::path& image, int topk) {
  const std::vector<Answer> answers = classify(std::vector<std::filesystem::path>{image}, topk);
  if (!answers.front().error.empty()) throw Error(answers.front().error);
  return answers.front().top;
}

std::vector<Session::Answer> Session::classify(const std::vector<std::filesystem::path>& images, int topk) {
  require(topk > 0, "topk must be at least 1, got {}", topk);
  const Model::Impl& model = impl_->model.impl();
  require_head(model);
  require_pictures(model.config().input);
  const Preprocess& p = model.preprocess;
  const size_t size = static_cast<size_t>(p.channels) * static_cast<size_t>(p.height) * static_cast<size_t>(p.width);
  std::vector<Answer> answers(images.size());
  for (size_t begin = 0; begin < images.size(); begin += kBatch) {
    const size_t count = std::min(kBatch, images.size() - begin);
    impl_->pixels.resize(count * size);
    impl_->ctx.pool().for_each(static_cast<int64_t>(count), [&](int64_t i) {
      Answer& a = answers[begin + static_cast<size_t>(i)];
      a.file = images[begin + static_cast<size_t>(i)];
      try {
        preprocess(read_image(a.file), p, impl_->pixels.data() + static_cast<size_t>(i) * size);
      } catch (const Error& e) {
        a.error = e.what();
      } catch (const std::bad_alloc&) {
        a.error = fmt::format("{}: not enough memory for this picture", a.file.string());
      }
    });
    // The readable ones move together.
    std::vector<size_t> good;
    for (size_t i = 0; i < count; ++i) {
      if (!answers[begin + i].error.empty()) continue;
      if (good.size() != i) std::copy_n(impl_->pixels.data() + i * size, size, impl_->pixels.data() + good.size() * size);
      good.push_back(begin + i);
    }
    if (good.empty()) continue;
    const Shape shape{std::ssize(good), p.channels, p.height, p.width};
    classify_batch(model, ConstTensor(impl_->pixels.data(), shape, DType::kF32), impl_->logits, impl_->ctx);
    for (size_t g = 0; g < good.size(); ++g)
      answers[good[g]].top = best_of(model, impl_->logits.data() + g * static_cast<size_t>(model.config().classes), topk);
  }
  return answers;
}

std::vector<float> Session::logits(const float* images, int64_t batch, int64_t height, int64_t width) {
  require(batch >= 0 && height > 0 && width > 0, "logits: got {} images of {}x{}", batch, height, width);
  const Model::Impl& model = impl_->model.impl();
  require_head(model);
  require_size(model, height, width);
  if (batch == 0) return {};
  classify_batch(model, ConstTensor(images, Shape{batch, model.config().input.channels, height, width}, DType::kF32), impl_->logits, impl_->ctx);
  return std::vector<float>(impl_->logits.begin(), impl_->logits.end());
}

std::vector<std::filesystem::path> list_images(const std::filesystem::path& file_or_folder) {
  namespace fs = std::filesystem;
  static const std::vector<std::string> kExtensions = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff",
                                                       ".gif", ".bmp",  ".dib", ".ppm",  ".pgm", ".pbm",  ".pnm"};
  std::error_code error;
  require(fs::exists(file_or_folder, error), "there is no file or folder '{}'", file_or_folder.string());
  if (!fs::is_directory(file_or_folder, error)) return {file_or_folder};
  std::vector<fs::path> found;
  fs::recursive_directory_iterator it(file_or_folder, fs::directory_options::skip_permission_denied, error);
  require(!error, "the folder '{}' cannot be read: {}", file_or_folder.string(), error.message());
  for (; it != fs::recursive_directory_iterator(); it.increment(error)) {
    require(!error, "the folder '{}' cannot be read: {}", file_or_folder.string(), error.message());
    const fs::path& p = it->path();
    if (p.filename().string().starts_with(".")) {
      if (it->is_directory(error)) it.disable_recursion_pending();
      continue;
    }
    std::string extension = p.extension().string();
    std::transform(extension.begin(), extension.end(), extension.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    if (std::find(kExtensions.begin(), kExtensions.end(), extension) != kExtensions.end() && it->is_regular_file(error)) found.push_back(p);
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace fovea
