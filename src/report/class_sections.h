// The parts of a report that speak about classes: confusion, per-class quality, worst mistakes.
#pragma once

#include "report/training_report.h"

namespace fovea::report {

// The matrix as a coloured table up to thirty classes, the most confused pairs beyond.
Html confusion_section(const TrainingReport& report);
Html class_table_section(const TrainingReport& report);
Html mistakes_section(const TrainingReport& report);

}  // namespace fovea::report
