#include "kernels/cpu/jit_code.h"

#if defined(__x86_64__)

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <vector>

#include "core/check.h"

namespace fovea {

namespace {

struct Store {
  std::mutex mutex;
  std::vector<std::unique_ptr<JitCode>> codes;
  std::atomic<bool> refused{false};
};

Store& store() {
  static Store& s = *new Store;
  return s;
}

// Where perf looks for the names of generated code, with FOVEA_PERF_MAP in the environment.
void name_for_perf(const JitCode& code) {
  static const bool wanted = std::getenv("FOVEA_PERF_MAP") != nullptr;
  if (!wanted) return;
  const std::string path = "/tmp/perf-" + std::to_string(getpid()) + ".map";
  std::FILE* map = std::fopen(path.c_str(), "a");
  if (map == nullptr) return;
  std::fprintf(map, "%zx %zx %s\n", reinterpret_cast<size_t>(code.getCode()), code.getSize(), code.name().c_str());
  std::fclose(map);
}

}  // namespace

bool code_is_refused() { return store().refused.load(std::memory_order_relaxed); }

JitFunction keep_code(const std::function<JitFunction()>& find, const std::function<std::unique_ptr<JitCode>()>& make) {
  std::lock_guard lock(store().mutex);
  if (const JitFunction known = find()) return known;
  try {
    auto code = make();
    code->seal();
    name_for_perf(*code);
    store().codes.push_back(std::move(code));
    return store().codes.back()->getCode<JitFunction>();
  } catch (const Xbyak::Error& e) {
    const int error = e;
    check(error == Xbyak::ERR_CANT_PROTECT || error == Xbyak::ERR_CANT_ALLOC, "code generation failed: {}", e.what());
    store().refused = true;
    return nullptr;
  }
}

}  // namespace fovea

#endif
