#include "interrupt.h"

#include <csignal>

namespace fovea::cli {

namespace {

volatile std::sig_atomic_t asked_to_end = 0;

void ask_to_end(int signal) {
  asked_to_end = 1;
  std::signal(signal, SIG_DFL);
}

}  // namespace

void watch_for_interrupts() {
  std::signal(SIGINT, ask_to_end);
  std::signal(SIGTERM, ask_to_end);
}

bool interrupted() { return asked_to_end != 0; }

}  // namespace fovea::cli
