// What generated code has in common: its memory and its lifetime.
#pragma once

#if defined(__x86_64__)

#include <xbyak/xbyak.h>

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

namespace fovea {

// Memory is writable until the code is complete and executable afterwards, never both.
class JitCode : public Xbyak::CodeGenerator {
 public:
  JitCode(size_t bytes, std::string name) : CodeGenerator(bytes, Xbyak::DontSetProtectRWE), name_(std::move(name)) {}
  const std::string& name() const { return name_; }  // for profiles
  void seal() { setProtectModeRE(); }

 private:
  std::string name_;
};

// Makes code and keeps it for as long as the process lives: threads may still run it while statics are destroyed. Null when the system
// refuses executable memory. `find` is asked first, under the lock that all makers share.
using JitFunction = void (*)();  // to be cast to the type it has
JitFunction keep_code(const std::function<JitFunction()>& find, const std::function<std::unique_ptr<JitCode>()>& make);
bool code_is_refused();  // it was, once

// The code whose place is `slot`: made at the first call, null where memory is refused.
template <class Function, class Make>
Function kept_code(std::atomic<Function>& slot, const Make& make) {
  const Function known = slot.load(std::memory_order_acquire);
  if (known != nullptr || code_is_refused()) [[likely]]
    return known;
  const JitFunction code = keep_code([&] { return reinterpret_cast<JitFunction>(slot.load(std::memory_order_acquire)); }, make);
  const auto function = reinterpret_cast<Function>(code);
  if (function != nullptr) slot.store(function, std::memory_order_release);
  return function;
}

}  // namespace fovea

#endif
