#include "tasks/train_classifier_report.h"

#include <fstream>
#include <thread>

#include "fovea/info.h"
#include "image/resize.h"
#include "image/transforms.h"
#include "report/training_report.h"
#include "tasks/this_process.h"

namespace fovea {

namespace {

constexpr int kLargestPicture = 512;  // pixels; larger ones are reduced before they reach the page

report::RgbImage picture_for_page(const Image& image) {
  Image rgb = to_channels(image, 3);
  const int longer = std::max(rgb.width, rgb.height);
  if (longer > kLargestPicture)
    rgb = resize(rgb, std::max(1, rgb.width * kLargestPicture / longer), std::max(1, rgb.height * kLargestPicture / longer), Interpolation::kBox);
  return {rgb.width, rgb.height, rgb.pixels};
}

// The last folder of a path; a data set's name as it is.
std::string data_name(std::string data) {
  while (data.size() > 1 && data.ends_with('/')) data.pop_back();
  const size_t slash = data.rfind('/');
  return slash == std::string::npos || slash + 1 == data.size() ? data : data.substr(slash + 1);
}

report::FactGroup model_facts(const ModelConfig& m, const TrainPlan& plan) {
  return {"Model",
          {{"Preset", m.name, ""},
           {"Attention", m.attention, "what lets the tokens of an image see each other"},
           {"Parameters", fmt::format("{}", plan.parameters), "numbers that training fits"},
           {"Input", fmt::format("{} x {} pixels, {}", m.input.height, m.input.width, m.input.channels == 1 ? "grey" : "colour"), "height x width"},
           {"Mean and deviation", fmt::format("{:.4f}; {:.4f}", fmt::join(m.input.mean, ", "), fmt::join(m.input.std, ", ")),
            "of the pixels (0 to 1) per channel; images are normalised with them"},
           {"Work", fmt::format("{:.3g} GFLOP", plan.step_gflop), "multiplications and additions of one training step"}}};
}

report::FactGroup data_facts(const RunConfig& c, const TrainPlan& plan) {
  report::FactGroup g{"Data",
                      {{"Source", c.options.data, c.data_description},
                       {"Images", fmt::format("{} to train, {} to validate", c.train_images, c.val_images), ""},
                       {"Classes", fmt::format("{}", plan.classes), ""}}};
  for (const std::string& note : c.notes) g.facts.push_back({"Note", note, ""});
  return g;
}

report::FactGroup training_facts(const RunConfig& c) {
  const TrainOptions& o = c.options;
  return {"Training",
          {{"Batch", o.accumulate == 1 ? fmt::format("{} images", o.batch) : fmt::format("{} x {} images", o.accumulate, o.batch),
            "images for each update of the weights"},
           {"Products", o.dtype, o.dtype == "bf16" ? "of weights with their inputs and gradients, whose operands are rounded; all else is in f32" : ""},
           {"Optimizer", "AdamW", fmt::format("weight decay {}, gradients clipped to norm {}", o.weight_decay, o.clip_norm)},
           {"Learning rate", fmt::format("{:.3g}", o.lr),
            fmt::format("its peak, after {} updates of warm-up; then it falls along a cosine to a hundredth", c.warmup_steps)},
           {"Updates", fmt::format("{}", c.total_steps), fmt::format("{} an epoch", c.steps_per_epoch)},
           {"Augmentation", o.augment, "random changes of the training images"},
           {"Regularisation", fmt::format("label smoothing {}, dropout {}, stochastic depth {}", o.label_smoothing, o.dropout, o.drop_path),
            "the losses on this page are without label smoothing"},
           {"Start", o.init.empty() ? "random weights" : o.init, ""},
           {"Seed", fmt::format("{}", o.seed), "the same seed gives the same run"}}};
}

report::FactGroup machine_facts(const ReportInputs& in) {
  return {"Machine",
          {{"Processor", processor_name(), fmt::format("{} hardware threads", std::thread::hardware_concurrency())},
           {"Threads", fmt::format("{}", in.threads), "that the run used for its arithmetic"},
           {"Kernels", in.run.config().kernels, "instruction set"},
           {"Peak memory", fmt::format("{:.0f} MiB", peak_memory_mib()), "of the whole process"},
           {"fovea", version(), ""}}};
}

}  // namespace

void write_training_report(const ReportInputs& in) {
  const RunConfig& c = in.run.config();
  report::TrainingReport r;
  r.model = c.model.name;
  r.title = fmt::format("{} on {}", c.model.name, data_name(c.options.data));
  r.train_images = c.train_images;
  r.validation_images = c.val_images;
  r.planned_epochs = c.epochs();
  r.why_ended = in.why_ended;
  r.total_seconds = 0;
  for (const EpochMetrics& e : in.run.epochs()) {
    r.epochs.push_back({e.epoch, e.step, e.lr, e.train_loss, e.train_top1, e.val_loss, e.val_top1, e.images_per_s, e.seconds});
    r.total_seconds += e.seconds;
  }
  r.best_epoch = in.state.best_epoch;
  r.best_by = "highest validation top-1 accuracy";
  r.classes = c.model.class_names;
  if (in.state.best_epoch > 0 && in.best.confusion.classes() == c.model.classes) {
    r.confusion = in.best.confusion.counts();
    for (const ClassResult& k : in.best.confusion.per_class()) r.class_metrics.push_back({k.precision, k.recall, k.f1, k.support});
    for (const Validation::Mistake& m : in.best.mistakes) {
      report::Mistake shown;
      try {
        shown.image = picture_for_page(in.picture(m.index));
      } catch (const Error&) {
        continue;  // the file has gone since; a page without this picture is better than none
      }
      shown.path = in.picture_name(m.index);
      shown.true_class = r.classes.at(static_cast<size_t>(m.true_class));
      shown.predicted_class = r.classes.at(static_cast<size_t>(m.predicted_class));
      shown.probability = m.probability;
      r.mistakes.push_back(std::move(shown));
    }
  }
  for (const SkippedFile& s : in.skipped) r.skipped.push_back({s.file, s.why});
  r.facts = {model_facts(c.model, in.plan), data_facts(c, in.plan), training_facts(c), machine_facts(in)};
  report::write_text_atomically(in.run.report(), report::render(r));
}

}  // namespace fovea
