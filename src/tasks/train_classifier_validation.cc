#include "tasks/train_classifier_validation.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/convert.h"
#include "core/json.h"
#include "ops/pack_weights.h"
#include "tasks/train_classifier_setup.h"
#include "train/classification_step.h"

namespace fovea {

namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kShownMistakes = 24;

// The weights' packed form for as long as this lives, and the executor that training's own forward is.
class PackedWeights {
 public:
  PackedWeights(ParamStore& params, Context& ctx) : params_(params), ctx_(ctx), depth_first_(ctx.depth_first()) {
    pack_weights(params, ctx);
    ctx.set_depth_first(false);
  }
  ~PackedWeights() {
    ctx_.set_depth_first(depth_first_);
    params_.drop_packed();
  }
  PackedWeights(const PackedWeights&) = delete;
  PackedWeights& operator=(const PackedWeights&) = delete;

 private:
  ParamStore& params_;
  Context& ctx_;
  bool depth_first_;
};

double probability_of(const ConstTensor& logits, int64_t row, int64_t which) {
  const int64_t classes = logits.last();
  const double shift = load_scalar(logits, row * classes + which);  // the largest one
  double sum = 0;
  for (int64_t c = 0; c < classes; ++c) sum += std::exp(load_scalar(logits, row * classes + c) - shift);
  return 1 / sum;
}

void keep_worst(std::vector<Validation::Mistake>& mistakes, size_t most) {
  std::sort(mistakes.begin(), mistakes.end(), [](const auto& a, const auto& b) {
    return a.probability != b.probability ? a.probability > b.probability : a.index < b.index;
  });
  if (mistakes.size() > most) mistakes.resize(most);
}

void add_batch(const Batch& batch, Classifier& model, Validation& result, Context& ctx) {
  const int64_t images = batch.images.dim(0), classes = model.config().classes;
  ArenaScope scope(ctx.scratch());
  const Tensor logits = ctx.scratch().take(Shape{images, classes}, ctx.dtype());
  const Tensor losses = ctx.scratch().take(Shape{images}, ctx.dtype());
  int32_t* predicted = ctx.scratch().take<int32_t>(images);
  model.classify(batch_images(batch, ctx), logits, ctx);
  CrossEntropyArgs a;
  a.rows = images;
  a.classes = classes;
  a.logits = logits.data;
  a.labels = batch.labels;
  a.loss = losses.data;
  ctx.kernels().cross_entropy(a, ctx);
  argmax_rows(logits, predicted);
  double loss = 0;
  int64_t correct = 0;
  for (int64_t i = 0; i < images; ++i) {
    const double own = load_scalar(losses, i);
    require(std::isfinite(own) && predicted[i] >= 0, "the model gives no finite numbers for validation images; use a lower --lr");
    loss += own;
    correct += predicted[i] == batch.labels[i];
    result.confusion.add(batch.labels[i], predicted[i]);
    if (predicted[i] != batch.labels[i])
      result.mistakes.push_back({batch.indices[i], batch.labels[i], predicted[i], probability_of(logits, i, predicted[i])});
  }
  result.metrics.add(loss / static_cast<double>(images), correct, images);
  keep_worst(result.mistakes, 4 * kShownMistakes);
}

}  // namespace

std::string Validation::to_json() const {
  Json j, cells = Json::array(), worst = Json::array();
  for (int64_t t = 0; t < confusion.classes(); ++t)
    for (int64_t p = 0; p < confusion.classes(); ++p)
      if (confusion.at(t, p) != 0) cells.push_back({t, p, confusion.at(t, p)});
  for (const Mistake& m : mistakes) worst.push_back({m.index, m.true_class, m.predicted_class, m.probability});
  j["loss_sum"] = metrics.loss_sum;
  j["correct"] = metrics.correct;
  j["images"] = metrics.images;
  j["classes"] = confusion.classes();
  j["confusion"] = cells;
  j["mistakes"] = worst;
  return j.dump();
}

Validation Validation::from_json(const std::string& text, int64_t classes, int64_t images) {
  const auto j = parse_json<Json>(text);
  Validation v;
  const auto field = [&](const char* name, auto& out) { return j.is_object() && j.contains(name) && read_json(j[name], out); };
  int64_t of_classes = 0;
  std::vector<std::vector<int64_t>> cells;
  if (!field("loss_sum", v.metrics.loss_sum) || !field("correct", v.metrics.correct) || !field("images", v.metrics.images) ||
      !field("classes", of_classes) || !field("confusion", cells) || !j.contains("mistakes") || of_classes != classes)
    return {};
  const auto is_class = [&](int64_t c) { return c >= 0 && c < classes; };
  v.confusion = ConfusionMatrix(classes);
  int64_t counted = 0;
  for (const std::vector<int64_t>& c : cells) {
    if (c.size() != 3 || !is_class(c[0]) || !is_class(c[1]) || c[2] < 0 || c[2] > images - counted) return {};
    v.confusion.add(c[0], c[1], c[2]);
    counted += c[2];
  }
  for (const Json& item : j["mistakes"]) {
    Mistake m;
    if (!item.is_array() || item.size() != 4 || !read_json(item[0], m.index) || !read_json(item[1], m.true_class) ||
        !read_json(item[2], m.predicted_class) || !read_json(item[3], m.probability) || !is_class(m.true_class) ||
        !is_class(m.predicted_class) || m.index < 0 || m.index >= images)
      return {};
    v.mistakes.push_back(m);
  }
  return v;
}

bool validate(Classifier& model, Loader& loader, const std::function<bool(int64_t images)>& stop, Validation& result, Context& ctx) {
  const PackedWeights packed(model.params(), ctx);
  ctx.set_training(false);
  result = Validation();
  result.confusion = ConfusionMatrix(model.config().classes);
  while (const Batch* batch = loader.next()) {
    add_batch(*batch, model, result, ctx);
    if (stop(result.metrics.images)) return false;
  }
  keep_worst(result.mistakes, kShownMistakes);
  return true;
}

}  // namespace fovea
