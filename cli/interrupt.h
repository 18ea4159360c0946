// Ctrl-C and SIGTERM: the first one asks a long verb to end after saving; the second one ends the process as usual.
#pragma once

namespace fovea::cli {

void watch_for_interrupts();
bool interrupted();

}  // namespace fovea::cli
