#include "fovea/evaluate.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <optional>
#include <string_view>
#include <thread>
#include <unordered_map>

#include "core/text.h"
#include "image/imagenet_classes.h"
#include "image/loader.h"
#include "tasks/model_impl.h"
#include "tasks/preprocess.h"
#include "train/metrics.h"

namespace fovea {

namespace {

// The model's class of each of `names`, or nothing when some are not among its own ones.
std::optional<std::vector<int64_t>> places_of(const std::vector<std::string>& names, const std::vector<std::string>& own) {
  std::unordered_map<std::string_view, int64_t> places;
  for (size_t i = 0; i < own.size(); ++i) places.emplace(own[i], static_cast<int64_t>(i));
  std::vector<int64_t> map;
  for (const std::string& name : names) {
    const auto it = places.find(name);
    if (it == places.end()) return std::nullopt;
    map.push_back(it->second);
  }
  return map;
}

// The model's class of each class of the data, and what the model's classes are called in reports.
struct MatchedClasses {
  std::vector<int64_t> of_data;
  std::vector<std::string> names;
};

// By name where the model has names; by ImageNet's numbers where the data's classes are
// called by them and the model has one of ImageNet's lists of classes, so that a part of them will do; else by number.
MatchedClasses match_classes(const ModelConfig& model, const Dataset& data, const std::string& where) {
  const std::vector<std::string>& names = data.class_names();
  if (auto by_name = places_of(names, model.class_names)) return {*by_name, model.class_names};
  if (const ImageNetClasses* imagenet = imagenet_classes(model.classes))
    if (auto by_synset = places_of(names, imagenet->synsets)) return {*by_synset, imagenet->names};
  if (model.class_names.empty()) {
    require(std::ssize(names) == model.classes, "{} has {} classes and {} has {}; they must be the same ones in the same order", where,
            names.size(), model.name, model.classes);
    std::vector<int64_t> in_order(names.size());
    std::iota(in_order.begin(), in_order.end(), int64_t{0});
    return {in_order, names};
  }
  const auto unknown = std::find_if(names.begin(), names.end(), [&](const std::string& name) {
    return std::find(model.class_names.begin(), model.class_names.end(), name) == model.class_names.end();
  });
  check(unknown != names.end(), "the classes of {} are all known", where);
  fail("{} has a class '{}' that {} does not know{}; its classes are {}", where, *unknown, model.name, did_you_mean(*unknown, model.class_names),
       fmt::join(std::span(model.class_names).first(std::min<size_t>(20, model.class_names.size())), ", "));
}

LoaderOptions loader_options(const EvaluateOptions& options, const Model::Impl& model) {
  LoaderOptions l;
  l.batch = options.batch;
  const int64_t height = options.height > 0 ? options.height : model.loaded.height, width = options.width > 0 ? options.width : model.loaded.width;
  require_pictures(model.config().input);
  l.preprocess = preprocess_of(model.config().input, height, width);
  l.max_broken = options.max_broken;
  l.threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()) / 2);
  return l;
}

// One image's logits, read.
struct Verdict {
  int64_t best = 0;
  int64_t rank = 0;        // of the true class; 0 is the best
  double log_sum_exp = 0;
};

Verdict judge(const double* logits, int64_t classes, int64_t label) {
  Verdict v;
  v.best = std::max_element(logits, logits + classes) - logits;
  double sum = 0;
  for (int64_t c = 0; c < classes; ++c) {
    sum += std::exp(logits[c] - logits[v.best]);
    v.rank += logits[c] > logits[label] || (logits[c] == logits[label] && c < label);
  }
  v.log_sum_exp = logits[v.best] + std::log(sum);
  require(std::isfinite(v.log_sum_exp), "the model gives no finite numbers; are its weights and its mean and std right?");
  return v;
}

// The second model of a comparison, fed with the same images in its own way.
class Opponent {
 public:
  Opponent(const EvaluateOptions& options, const Model::Impl& first, const DatasetPtr& data) : model_(load(options, first)) {
    require(model_.impl().config().classes == first.config().classes, "{} has {} classes and {} has {}; only models of the same classes can be compared",
            options.against, model_.impl().config().classes, first.config().name, first.config().classes);
    labels_ = match_classes(model_.impl().config(), *data, options.data).of_data;
    require(model_.impl().config().class_names.empty() || first.config().class_names.empty() ||
                model_.impl().config().class_names == first.config().class_names,
            "{} and {} have other classes or another order of them and cannot be compared", options.against, first.config().name);
    ctx_.emplace(*model_.impl().table, model_.impl().table->dtype, options.execution.threads);
    loader_.emplace(data, loader_options(options, model_.impl()));
  }

  // `logits` of the first model for `batch`.
  void compare(const Batch& batch, const std::vector<double>& logits, int64_t classes) {
    const Batch* own = loader_->next();
    check(own && own->images.dim(0) == batch.images.dim(0) && own->indices[0] == batch.indices[0], "the two models see other images");
    classify_batch(model_.impl(), own->images, logits_, *ctx_);
    for (int64_t b = 0; b < batch.images.dim(0); ++b) {
      const double *x = logits.data() + b * classes, *y = logits_.data() + b * classes;
      const int64_t label = labels_[static_cast<size_t>(batch.labels[b])];
      const Verdict first = judge(x, classes, label), second = judge(y, classes, label);
      agreed_ += first.best == second.best;
      correct_ += second.rank == 0;
      for (int64_t c = 0; c < classes; ++c)
        difference_ = std::max(difference_, std::abs(std::exp(x[c] - first.log_sum_exp) - std::exp(y[c] - second.log_sum_exp)));
    }
  }

  void finish(Evaluation& result) const {
    const auto images = static_cast<double>(std::max<int64_t>(1, result.images));
    result.agreement = static_cast<double>(agreed_) / images;
    result.against_top1 = static_cast<double>(correct_) / images;
    result.largest_difference = difference_;
  }

 private:
  static Model load(const EvaluateOptions& options, const Model::Impl& first) {
    LoadOptions l;
    l.set = options.set;
    l.height = options.height;
    l.width = options.width;
    l.kernels = std::string(first.table->name);
    return Model::load(options.against, l);
  }

  Model model_;
  std::vector<int64_t> labels_;
  std::optional<Context> ctx_;
  std::optional<Loader> loader_;
  std::vector<double> logits_;
  int64_t agreed_ = 0, correct_ = 0;
  double difference_ = 0;
};

}  // namespace

Evaluation evaluate(const Model& model, const EvaluateOptions& options, const std::function<void(int64_t done, int64_t total)>& progress) {
  require(options.batch > 0 && options.batch <= 65536, "--batch {}: expected 1 to 65536", options.batch);
  const Model::Impl& impl = model.impl();
  require_head(impl);
  const KernelTable& table = table_for(impl, options.execution.kernels);
  const DataSplit data = open_split(options.data, options.split, options.seed);
  const MatchedClasses matched = match_classes(impl.config(), *data.dataset, options.data);
  const int64_t classes = impl.config().classes;
  std::optional<Opponent> opponent;
  if (!options.against.empty()) opponent.emplace(options, impl, data.dataset);

  Evaluation result;
  result.split = data.split;
  result.notes = data.notes;
  Context ctx(table, table.dtype, options.execution.threads);
  Loader loader(data.dataset, loader_options(options, impl));
  ConfusionMatrix confusion(classes);
  int64_t correct = 0, among_five = 0;
  double loss = 0;
  std::vector<double> logits;
  const auto begin = std::chrono::steady_clock::now();
  while (const Batch* batch = loader.next()) {
    const int64_t count = batch->images.dim(0);
    classify_batch(impl, batch->images, logits, ctx);
    for (int64_t b = 0; b < count; ++b) {
      const int64_t label = matched.of_data[static_cast<size_t>(batch->labels[b])];
      const double* row = logits.data() + b * classes;
      const Verdict v = judge(row, classes, label);
      confusion.add(label, v.best);
      correct += v.rank == 0;
      among_five += v.rank < 5;
      loss += v.log_sum_exp - row[label];
    }
    if (opponent) opponent->compare(*batch, logits, classes);
    result.images += count;
    if (progress) progress(result.images, data.dataset->size());
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  for (const BrokenImage& b : loader.broken()) result.skipped.push_back({b.name, b.why});
  require(result.images > 0, "no image of the part '{}' of {} could be read", data.split, options.data);

  const auto images = static_cast<double>(result.images);
  result.images_per_s = result.seconds > 0 ? images / result.seconds : 0;
  result.top1 = static_cast<double>(correct) / images;
  result.top5 = static_cast<double>(among_five) / images;
  result.loss = loss / images;
  const auto scores = confusion.per_class();
  for (int64_t c = 0; c < classes; ++c) {
    const ClassResult& s = scores[static_cast<size_t>(c)];
    result.classes.push_back({matched.names[static_cast<size_t>(c)], s.precision, s.recall, s.f1, s.support});
    auto& row = result.confusion.emplace_back();
    for (int64_t p = 0; p < classes; ++p) row.push_back(confusion.at(c, p));
  }
  if (opponent) opponent->finish(result);
  return result;
}

}  // namespace fovea
