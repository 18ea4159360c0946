#include "tasks/train_classifier_setup.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <thread>

#include "core/convert.h"
#include "embed/resample.h"
#include "kernels/kernel_table.h"
#include "models/vit.h"
#include "tasks/load_model.h"
#include "tasks/preprocess.h"

namespace fovea {

namespace {

constexpr int64_t kSmallestMini = 28, kLargestMini = 64;  // pixels that the mini presets are made for
constexpr const char* kDefaultModel = "swin_mini";
constexpr double kReferenceRate = 1e-3;                   // at a batch of 128 images
constexpr double kMiniRate = 2e-3;                        // of the mini presets, at a batch of 64
constexpr double kShortRun = 30;                          // epochs below which shifted crops slow learning more than they help
constexpr double kFineTuningShare = 0.2;                  // of that, from --init

bool is_mini(const std::string& preset) { return preset.ends_with("_mini"); }

// What a sample of the training images looks like.
struct ImageStatistics {
  int64_t images = 0;
  int channels = 1;                                  // 3 when any image has colour
  int smallest_side = 0, largest_side = 0;
  int height = 0, width = 0;                         // of all images; 0 when they differ
  std::vector<double> mean, std;                     // per channel, pixels as 0..1
};

// An evenly spread sample: as few files as do, but many when they are tiny.
ImageStatistics look_at(const Dataset& data) {
  constexpr int64_t kFew = 64, kMany = 1024, kTinyPixels = 128 * 128;
  ImageStatistics s;
  std::vector<double> sum(3), square(3);
  double pixels = 0;
  int64_t want = std::min(kFew, data.size());
  for (int64_t i = 0; i < want; ++i) {
    Image image;
    try {
      image = data.read(i * data.size() / want);
    } catch (const Error&) {
      continue;  // the loader names and counts broken images
    }
    if (s.images == 0) {
      s.smallest_side = std::min(image.width, image.height);
      s.height = image.height;
      s.width = image.width;
    }
    ++s.images;
    s.channels = std::max(s.channels, image.channels);
    s.smallest_side = std::min({s.smallest_side, image.width, image.height});
    s.largest_side = std::max({s.largest_side, image.width, image.height});
    if (image.height != s.height || image.width != s.width) s.height = s.width = 0;
    for (size_t p = 0; p < image.pixels.size(); p += static_cast<size_t>(image.channels))
      for (size_t c = 0; c < 3; ++c) {
        const double x = image.pixels[p + (image.channels == 1 ? 0 : c)] / 255.0;
        sum[c] += x;
        square[c] += x * x;
      }
    pixels += static_cast<double>(image.width) * image.height;
    if (i + 1 == want && want == kFew && pixels < static_cast<double>(kFew * kTinyPixels)) {
      // Start again with many: positions depend on their number.
      const int64_t many = std::min(kMany, data.size());
      if (many > want) {
        want = many;
        s = ImageStatistics();
        sum.assign(3, 0);
        square.assign(3, 0);
        pixels = 0;
        i = -1;
      }
    }
  }
  require(s.images > 0, "none of the first images of {} can be read; `fovea classify` on the folder says why", data.describe());
  for (int c = 0; c < s.channels; ++c) {
    const double mean = sum[static_cast<size_t>(c)] / pixels;
    const double variance = square[static_cast<size_t>(c)] / pixels - mean * mean;
    // Four digits are as good, and can be read.
    s.mean.push_back(std::round(mean * 1e4) / 1e4);
    s.std.push_back(std::max(0.01, std::round(std::sqrt(std::max(0.0, variance)) * 1e4) / 1e4));
  }
  return s;
}

bool sets(const TrainOptions& options, const std::string& key) {
  return std::any_of(options.set.begin(), options.set.end(), [&](const auto& s) { return s.first == key; });
}

// Mirrored, these are other signs or none.
bool are_signs(const std::vector<std::string>& names) {
  return std::all_of(names.begin(), names.end(), [](const std::string& n) { return n.size() == 1 && std::isalnum(static_cast<unsigned char>(n[0])); });
}

void choose_input(RunConfig& run, const ImageStatistics& s) {
  TrainOptions& o = run.options;
  InputConfig& input = run.model.input;
  const bool mini = is_mini(run.model.name), measured = mini && o.init.empty();
  if (o.init.empty() && !sets(o, "channels")) change_channels(input, s.channels);
  if (measured && input.channels == s.channels) {
    input.mean = s.mean;
    input.std = s.std;
  }
  apply_settings(run.model, o.set);
  if (o.height > 0 || o.width > 0) {
    input.height = o.height > 0 ? o.height : o.width;
    input.width = o.width > 0 ? o.width : o.height;
  } else if (mini && !sets(o, "height") && !sets(o, "width")) {
    const bool fits = s.height > 0 && s.smallest_side >= kSmallestMini && s.largest_side <= kLargestMini;
    input.height = fits ? s.height : kLargestMini;
    input.width = fits ? s.width : kLargestMini;
    if (!fits) run.notes.push_back(fmt::format("The images are brought to {0}x{0} pixels, the largest size that {1} is made for.", kLargestMini, run.model.name));
  }
  o.height = input.height;
  o.width = input.width;
}

void choose_augmentation(RunConfig& run) {
  std::string& augment = run.options.augment;
  const std::vector<std::string> known = {"auto", "none", "flip", "crop", "flip+crop", "resized-crop", "flip+resized-crop"};
  require(std::find(known.begin(), known.end(), augment) != known.end(), "there is no augmentation '{}'; choose {}", augment, fmt::join(known, ", "));
  if (augment != "auto") return;
  const bool small = std::max(run.model.input.height, run.model.input.width) <= kLargestMini, flip = !are_signs(run.model.class_names);
  const double epochs = run.options.epochs > 0 ? run.options.epochs : kDefaultEpochs;
  if (small && epochs < kShortRun)
    augment = flip ? "flip" : "none";
  else
    augment = fmt::format("{}{}", flip ? "flip+" : "", small ? "crop" : "resized-crop");
  if (!flip)
    run.notes.push_back("The classes are single letters or digits, so images are not mirrored.");
}

void choose_batch(RunConfig& run) {
  TrainOptions& o = run.options;
  constexpr int64_t kMost = int64_t{1} << 20;
  require(o.batch >= 0 && o.accumulate >= 1 && o.batch <= kMost && o.accumulate <= kMost, "--batch and --accumulate must be positive, up to {}, got {} and {}",
          kMost, o.batch, o.accumulate);
  if (o.batch == 0) {
    o.batch = is_mini(run.model.name) ? 64 : 32;
    while (o.batch > 8 && o.batch * o.accumulate * 8 > run.train_images) o.batch /= 2;  // a few updates an epoch at least
    o.batch = std::min(o.batch, std::max<int64_t>(1, run.train_images / o.accumulate));
  }
  require(o.batch * o.accumulate <= run.train_images, "an update of {} x {} images is more than the {} training images; use a smaller --batch",
          o.accumulate, o.batch, run.train_images);
  run.steps_per_epoch = run.train_images / (o.batch * o.accumulate);
  if (o.lr == 0) {
    const double per_image = is_mini(run.model.name) ? kMiniRate / 64 : kReferenceRate / 128;
    o.lr = per_image * static_cast<double>(o.batch * o.accumulate);
    if (!o.init.empty()) {
      o.lr *= kFineTuningShare;
      run.notes.push_back("Fine-tuning: the learning rate is a fifth of the usual one.");
    }
  }
}

void check_ranges(const TrainOptions& o) {
  training_product_type(o.dtype);
  require(std::isfinite(o.lr) && o.lr >= 0, "--lr must be positive, got {}", o.lr);
  require(std::isfinite(o.epochs) && o.epochs >= 0 && o.epochs <= 1e6, "--epochs must be between 0 and a million, got {}", o.epochs);
  require(std::isfinite(o.minutes) && o.minutes >= 0, "--minutes must be positive, got {}", o.minutes);
  require(o.epochs == 0 || o.minutes == 0, "--epochs and --minutes exclude each other");
  require(o.weight_decay >= 0 && o.clip_norm >= 0 && o.weight_decay < 1e3, "weight decay and the clipping norm must not be negative");
  require(o.label_smoothing >= 0 && o.label_smoothing < 1, "label smoothing must be in [0, 1), got {}", o.label_smoothing);
  require(o.max_broken >= 0 && o.max_broken <= 1, "--max-broken is a share between 0 and 1, got {}", o.max_broken);
  require(o.early_stopping >= 0 && o.loader_threads >= 0 && o.height >= 0 && o.width >= 0,
          "early stopping, loader threads and image sizes must not be negative");
}

}  // namespace

RunConfig resolve_training(const TrainOptions& options, const DataSplits& data) {
  check_ranges(options);
  RunConfig run;
  run.options = options;
  TrainOptions& o = run.options;
  run.kernels = std::string(kernel_table(o.execution.kernels).name);
  run.notes = data.notes;
  run.train_images = data.train->size();
  run.val_images = data.val->size();
  run.data_description = data.train->describe();
  // A run may be continued from another folder.
  if (std::error_code error; std::filesystem::exists(o.data, error)) o.data = std::filesystem::absolute(o.data, error).lexically_normal().string();

  const bool init_model = o.model.empty() && !o.init.empty();  // as it is, but for the head
  if (o.model.empty()) o.model = kDefaultModel;
  run.model = preset_config(o.model);
  if (!o.attention.empty()) run.model.attention = o.attention;
  if (init_model) {
    const LoadedModel init = load_model(o.init, {}, DType::kF32);
    run.model = init.classifier->config();
    o.model = run.model.name;
    if (!o.attention.empty()) run.model.attention = o.attention;
    for (const std::string& a : init.assumed) run.notes.push_back(a);
  } else if (!o.init.empty()) {
    const LoadedModel init = load_model(o.init, {}, DType::kF32, run.model.attention);
    const ModelConfig& from = init.classifier->config();
    if (from.name == run.model.name) run.model = from;  // with the sizes that --set gave it then
    run.model.input = from.input;
    if (o.attention.empty() && from.family == run.model.family && from.swin_version == run.model.swin_version)
      run.model.attention = from.attention;
    for (const std::string& a : init.assumed) run.notes.push_back(a);
  }
  choose_input(run, look_at(*data.train));
  if (o.dropout >= 0) run.model.dropout = o.dropout;
  if (o.drop_path >= 0) run.model.drop_path = o.drop_path;
  o.dropout = run.model.dropout;
  o.drop_path = run.model.drop_path;

  run.model.class_names = data.train->class_names();
  run.model.classes = static_cast<int64_t>(run.model.class_names.size());
  require(o.classes == 0 || o.classes == run.model.classes, "--classes {}, but {} has {}", o.classes, o.data, run.model.classes);
  o.classes = run.model.classes;
  run.model.head_bias = true;  // a new classifier in place of a projection
  validate(run.model);
  o.attention = run.model.attention;

  choose_augmentation(run);
  choose_batch(run);
  const Classifier model(run.model);
  const auto reasons = model.backbone().unsupported(run.model.input.height, run.model.input.width);
  require(reasons.empty(), "{} cannot take images of {}x{}: {}", run.model.name, run.model.input.height, run.model.input.width, fmt::join(reasons, "; "));
  if (!o.init.empty()) {  // weights that do not fit are refused before anything is written
    const KernelTable& table = kernel_table(run.kernels);
    Context ctx(table, table.dtype, 1);
    initial_model(run, table.dtype, ctx);
  }
  return run;
}

void settle_epochs(RunConfig& run, double seconds_per_epoch) {
  constexpr double kReserve = 0.97;  // measured speeds are a little optimistic
  TrainOptions& o = run.options;
  if (o.epochs == 0) {
    o.epochs = kDefaultEpochs;
    if (o.minutes > 0) {
      o.epochs = kReserve * o.minutes * 60 / std::max(1e-6, seconds_per_epoch);
      run.notes.push_back(fmt::format("{:g} minutes were measured to be enough for {:.3g} epochs.", o.minutes, o.epochs));
    }
  }
  const auto per_epoch = static_cast<double>(run.steps_per_epoch);
  run.total_steps = std::max<int64_t>(1, std::llround(std::min(o.epochs, 1e6) * per_epoch));
  run.warmup_steps = o.warmup_epochs < 0 ? run.total_steps / 20 : std::llround(o.warmup_epochs * per_epoch);
  require(run.warmup_steps <= run.total_steps, "a warm-up of {:g} epochs is longer than the run of {:g}", o.warmup_epochs, o.epochs);
}

LoaderOptions train_loader_options(const RunConfig& run, int64_t epoch, int64_t first_batch, std::shared_ptr<ImageCache> cache) {
  LoaderOptions l = validation_loader_options(run, std::move(cache));
  const TrainOptions& o = run.options;
  l.shuffle = true;
  l.drop_last = true;
  l.broken = LoaderOptions::Broken::kReplace;
  l.epoch = epoch;
  l.first_batch = first_batch;
  Augment a;
  a.flip = o.augment.find("flip") != std::string::npos ? 0.5 : 0;
  if (o.augment.ends_with("resized-crop")) {
    a.crop = Augment::Crop::kResized;
    a.resized_crop.interpolation = l.preprocess.interpolation;
  } else if (o.augment.ends_with("crop")) {
    a.crop = Augment::Crop::kPadded;
    a.padding = static_cast<int>(std::max<int64_t>(1, std::min(run.model.input.height, run.model.input.width) / 8));
  }
  l.augment = a;
  return l;
}

LoaderOptions validation_loader_options(const RunConfig& run, std::shared_ptr<ImageCache> cache) {
  const InputConfig& input = run.model.input;
  LoaderOptions l;
  l.batch = run.options.batch;
  l.seed = run.options.seed;
  l.max_broken = run.options.max_broken;
  l.threads = static_cast<int>(run.options.loader_threads > 0 ? run.options.loader_threads : std::max(1u, std::thread::hardware_concurrency() / 2));
  l.cache = std::move(cache);
  require_pictures(input);
  l.preprocess = preprocess_of(input, input.height, input.width);
  return l;
}

ConstTensor batch_images(const Batch& batch, Context& ctx) {
  if (batch.images.dtype == ctx.dtype()) return batch.images;
  const Tensor converted = ctx.scratch().take(batch.images.shape, ctx.dtype());
  convert(batch.images, converted);
  return converted;
}

namespace {

// Weights of another head or of another map's position table may differ in shape; everything else must fit.
bool is_head(const std::string& name) { return name.starts_with("head.") || name.starts_with("head_dist."); }

void resample_positions(const Classifier& from, const Param& x, const Classifier& to, const Param& y, Context& ctx) {
  const TokenEmbedConfig a = vit_tokens(from.config()), b = vit_tokens(to.config());
  const int64_t prefix = a.table_prefix(), dim = x.shape.last();
  const GridResampling r{a.grid_height, a.grid_width, b.grid_height, b.grid_width, a.resampling};
  require(r.from_h * r.from_w + prefix == x.shape[1] && r.to_h * r.to_w + prefix == y.shape[1] && y.shape.last() == dim,
          "--init: the position table {} cannot be brought to {}", x.shape, y.shape);
  const auto rows = [dim](const Param& p, int64_t begin) { return p.value.reshaped(Shape{p.shape[1], dim}).slice(begin, p.shape[1] - begin); };
  if (prefix > 0) convert(x.value.reshaped(Shape{x.shape[1], dim}).slice(0, prefix), Tensor(y.value.reshaped(Shape{y.shape[1], dim}).slice(0, prefix)));
  resample_grid(r, rows(x, prefix), Tensor(rows(y, prefix)), ctx);
}

void start_from(const std::string& init, Classifier& model, DType dtype, Context& ctx) {
  LoadedModel loaded = load_model(init, {}, dtype);
  ParamStore& from = loaded.classifier->params();
  const ModelConfig& source = loaded.classifier->config();
  const bool no_classifier = source.classes == 0 || !source.head_bias;  // but a projection, or nothing
  std::vector<std::string> missing, unexpected, misshapen;
  for (Param& p : model.params().params()) {
    const Param* x = from.find(p.name);
    if (is_head(p.name) && no_classifier) continue;
    if (x == nullptr) {
      if (!p.buffer) missing.push_back(p.name);
    } else if (x->shape == p.shape) {
      convert(x->value, p.value);
    } else if (p.name == "pos_embed" && p.shape.last() == x->shape.last()) {
      resample_positions(*loaded.classifier, *x, model, p, ctx);
    } else if (!p.buffer && (!is_head(p.name) || loaded.classifier->config().classes == model.config().classes)) {
      misshapen.push_back(fmt::format("{} is {} instead of {}", p.name, x->shape, p.shape));
    }
  }
  for (const Param& p : from.params())
    if (!p.buffer && model.params().find(p.name) == nullptr) unexpected.push_back(p.name);
  std::string text;
  const auto list = [&](const char* what, std::vector<std::string>& names) {
    if (names.empty()) return;
    const size_t all = names.size();
    names.resize(std::min<size_t>(all, 4));
    text += fmt::format("{}{} {}: {}{}", text.empty() ? "" : "; ", all, what, fmt::join(names, ", "), all > names.size() ? " ..." : "");
  };
  list("missing", missing);
  list("unexpected", unexpected);
  list("of another shape", misshapen);
  require(text.empty(), "--init {}: its weights do not fit {} (--model chooses another one): {}", init, model.config().name, text);
}

}  // namespace

std::unique_ptr<Classifier> initial_model(const RunConfig& run, DType dtype, Context& ctx) {
  auto model = std::make_unique<Classifier>(run.model);
  model->params().allocate(dtype, ParamStore::Gradients::kYes);
  model->params().initialise(Rng(run.options.seed));
  if (!run.options.init.empty()) start_from(run.options.init, *model, dtype, ctx);
  return model;
}

}  // namespace fovea
