#include "report/overfitting.h"

#include <fmt/format.h>

#include <cmath>
#include <vector>

#include "report/numbers.h"

namespace fovea::report {

Overfitting find_overfitting(std::span<const EpochMetrics> epochs) {
  using Verdict = Overfitting::Verdict;
  std::vector<EpochMetrics> measured;
  for (const EpochMetrics& row : epochs)
    if (std::isfinite(row.val_loss)) measured.push_back(row);
  if (measured.empty())
    return {Verdict::kNoMeasure, 0, "Whether the model over-fits cannot be said: no epoch has a validation loss."};

  size_t lowest = 0;
  for (size_t i = 0; i < measured.size(); ++i)
    if (measured[i].val_loss <= measured[lowest].val_loss) lowest = i;
  const EpochMetrics& best = measured[lowest];
  const EpochMetrics& last = measured.back();
  const size_t after = measured.size() - 1 - lowest;
  if (after == 0)
    return {
        Verdict::kNotSeen, best.epoch,
        measured.size() == 1
            ? fmt::format(
                  "No over-fitting seen; with validation after one epoch only (epoch {}) there is no trend to judge.",
                  best.epoch)
            : fmt::format("No over-fitting seen: validation loss is lowest in the last epoch ({} nats in epoch {}).",
                          significant(best.val_loss), best.epoch)};
  if (after == 1)
    return {Verdict::kTooEarly, best.epoch,
            fmt::format(
                "No over-fitting seen so far: validation loss is lowest in epoch {} ({} nats), and with only one epoch "
                "after it ({} nats) it is too early to tell a trend from chance.",
                best.epoch, significant(best.val_loss), significant(last.val_loss))};
  const bool train_falls = measured[lowest + 1].train_loss < best.train_loss &&
                           measured[lowest + 2].train_loss < measured[lowest + 1].train_loss;
  if (!train_falls)
    return {Verdict::kNotSeen, best.epoch,
            fmt::format(
                "No over-fitting seen: validation loss is lowest in epoch {} ({} nats), but training loss did not keep "
                "falling in the two epochs after it.",
                best.epoch, significant(best.val_loss))};
  return {
      Verdict::kSeen, best.epoch,
      fmt::format(
          "Over-fitting starts after epoch {}: validation loss is lowest there ({} nats) and stands at {} nats in the "
          "last epoch, while training loss went on falling from {} to {} nats within two "
          "epochs.",
          best.epoch, significant(best.val_loss), significant(last.val_loss), significant(best.train_loss),
          significant(measured[lowest + 2].train_loss))};
}

}  // namespace fovea::report
