#include "tasks/checkpoint.h"

#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/json.h"
#include "fovea/info.h"
#include "weights/safetensors.h"

namespace fovea {

namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFirstMoment = "optimizer.m";
constexpr const char* kSecondMoment = "optimizer.v";

template <class State, class Visit>
void visit_state(State& s, Visit&& visit) {
  visit("seed", s.seed);
  visit("epoch", s.epoch);
  visit("step", s.step);
  visit("batch", s.batch);
  visit("partial_loss_sum", s.partial.loss_sum);
  visit("partial_correct", s.partial.correct);
  visit("partial_images", s.partial.images);
  visit("partial_seconds", s.partial_seconds);
  visit("best_epoch", s.best_epoch);
  visit("best_val_top1", s.best_val_top1);
  visit("best_val_loss", s.best_val_loss);
  visit("finished", s.finished);
  visit("stopped_early", s.stopped_early);
}

std::vector<TensorToWrite> weights_of(const Classifier& model) {
  std::vector<TensorToWrite> tensors;
  for (const Param& p : model.params().params()) tensors.push_back({p.name, p.value.dtype, p.shape, p.value.data});
  return tensors;
}

void read_into(const WeightFile& file, const std::string& name, const Tensor& to) {
  const WeightTensor& from = file.at(name);
  require(from.shape == to.shape, "'{}': {} has shape {}, expected {}; the file belongs to another run", file.path(), printable(name),
          from.shape, to.shape);
  if (to.dtype == DType::kF32)
    from.read(to.as<float>());
  else
    from.read(to.as<double>());
}

}  // namespace

void add_model_metadata(Metadata& metadata, const Classifier& model) {
  metadata["fovea.config"] = to_json(model.config());
  metadata["fovea.version"] = version();
}

void save_weights(const std::string& path, const Classifier& model, Metadata metadata) {
  add_model_metadata(metadata, model);
  write_safetensors(path, weights_of(model), metadata);
}

void save_checkpoint(const std::string& path, const Classifier& model, const AdamW& optimizer, const TrainingState& state) {
  std::vector<TensorToWrite> tensors = weights_of(model);
  const Tensor m = optimizer.first_moment(), v = optimizer.second_moment();
  tensors.push_back({kFirstMoment, m.dtype, m.shape, m.data});
  tensors.push_back({kSecondMoment, v.dtype, v.shape, v.data});
  Json j;
  visit_state(state, [&](const char* name, const auto& member) { j[name] = member; });
  Metadata metadata{{"fovea.epoch", std::to_string(state.epoch)}, {kTrainingStateKey, j.dump()}};
  add_model_metadata(metadata, model);
  write_safetensors(path, tensors, metadata);
}

TrainingState training_state_from_json(const std::string& text, const std::string& path) {
  const auto j = parse_json<Json>(text);
  TrainingState state;
  visit_state(state, [&](const char* name, auto& member) {
    const auto at = j.find(name);
    require(at != j.end() && read_json(*at, member), "'{}': the training state has no valid '{}'; the file is broken", path, name);
  });
  constexpr int64_t kMost = int64_t{1} << 40;  // counts are added and multiplied
  for (const int64_t count : {state.epoch, state.step, state.batch, state.best_epoch, state.partial.correct, state.partial.images})
    require(count >= 0 && count <= kMost, "'{}': the training state is out of range; the file is broken", path);
  return state;
}

TrainingState load_checkpoint(const std::string& path, Classifier& model, AdamW& optimizer) {
  const WeightFile file = open_weights(path);
  const auto entry = file.metadata().find(kTrainingStateKey);
  require(entry != file.metadata().end(), "'{}' is no checkpoint of a training run: it has no entry '{}'", path, kTrainingStateKey);
  const TrainingState state = training_state_from_json(entry->second, path);
  size_t expected = 2;
  for (const Param& p : model.params().params()) {
    read_into(file, p.name, p.value);
    ++expected;
  }
  require(file.tensors().size() == expected, "'{}' holds {} tensors, expected {}; the file belongs to another run", path,
          file.tensors().size(), expected);
  read_into(file, kFirstMoment, optimizer.first_moment());
  read_into(file, kSecondMoment, optimizer.second_moment());
  optimizer.set_steps(state.step);
  model.params().drop_packed();
  return state;
}

}  // namespace fovea
