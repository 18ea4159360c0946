#include "kernels/cpu/jit_code.h"

#if defined(__x86_64__)

#include <atomic>
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

}  // namespace

bool code_is_refused() { return store().refused.load(std::memory_order_relaxed); }

JitFunction keep_code(const std::function<JitFunction()>& find, const std::function<std::unique_ptr<JitCode>()>& make) {
  std::lock_guard lock(store().mutex);
  if (const JitFunction known = find()) return known;
  try {
    auto code = make();
    code->seal();
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
