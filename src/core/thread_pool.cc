#include "core/thread_pool.h"

#if defined(__linux__)
#include <sched.h>
#endif

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "core/check.h"

namespace fovea {

struct ThreadPool::Impl {
  std::vector<std::thread> workers;
  std::mutex mutex;
  std::condition_variable start, done;
  std::atomic<uint64_t> generation{0};  // one per run; workers spin on it briefly, then sleep
  std::atomic<int> pending{0};
  std::atomic<bool> stop{false};
  bool busy = false;
  Task task = nullptr;
  void* state = nullptr;
  int64_t n = 0;
  int caller_core = -1;
  int spins = 0;
  std::vector<std::exception_ptr> errors;
};

namespace {

// Between two kernels of one model less time passes than a sleep and wake-up costs, so threads look first, for about half a
// millisecond. Who sleeps may be woken on the core of the thread that it waits for. Where there are more threads than cores, looking takes the core
// from a thread that works.
constexpr int kSpins = 20000;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// A woken worker may be put on the very core where the caller computes, and stay there for tenths of a second while others
// idle. It then leaves: out of its allowed cores without that one, and back to all of them.
#if defined(__linux__)
int current_core() { return sched_getcpu(); }
void leave_core(int core) {
  cpu_set_t allowed, others;
  if (core < 0 || core >= CPU_SETSIZE || sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  others = allowed;
  CPU_CLR(static_cast<size_t>(core), &others);
  if (CPU_COUNT(&others) == 0) return;
  sched_setaffinity(0, sizeof others, &others);
  sched_setaffinity(0, sizeof allowed, &allowed);
}
#else
int current_core() { return -1; }
void leave_core(int) {}
#endif

}  // namespace

ThreadPool::ThreadPool(int threads) : impl_(std::make_unique<Impl>()) {
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  threads_ = threads > 0 ? threads : cores;
  require(threads >= 0 && threads_ <= 1024, "the number of threads must be between 1 and 1024, got {}", threads);
  impl_->spins = threads_ > cores ? 0 : kSpins;
  impl_->errors.resize(static_cast<size_t>(threads_));
  for (int t = 1; t < threads_; ++t) {
    impl_->workers.emplace_back([this, t] {
      Impl& s = *impl_;
      uint64_t seen = 0;
      for (;;) {
        for (int spin = 0; spin < s.spins && s.generation.load(std::memory_order_acquire) == seen; ++spin) relax();
        if (s.generation.load(std::memory_order_acquire) == seen) {
          std::unique_lock lock(s.mutex);
          s.start.wait(lock, [&] { return s.generation.load(std::memory_order_acquire) != seen; });
        }
        ++seen;
        if (s.stop.load(std::memory_order_acquire)) return;
        if (s.caller_core >= 0 && current_core() == s.caller_core) leave_core(s.caller_core);
        const int64_t begin = s.n * t / threads_, end = s.n * (t + 1) / threads_;
        try {
          if (begin < end) s.task(s.state, begin, end, t);
        } catch (...) {
          s.errors[static_cast<size_t>(t)] = std::current_exception();
        }
        if (s.pending.fetch_sub(1, std::memory_order_acq_rel) == 1) {
          std::lock_guard lock(s.mutex);
          s.done.notify_one();
        }
      }
    });
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->stop.store(true, std::memory_order_release);
    impl_->generation.fetch_add(1, std::memory_order_acq_rel);
  }
  impl_->start.notify_all();
  for (auto& w : impl_->workers) w.join();
}

void ThreadPool::run(int64_t n, Task task, const void* state) {
  if (n <= 0) return;
  Impl& s = *impl_;
  void* mutable_state = const_cast<void*>(state);  // NOLINT: the callable is ours again inside `task`
  if (threads_ == 1) return task(mutable_state, 0, n, 0);
  check(!s.busy, "a thread pool was entered from inside its own work");
  s.busy = true;
  s.task = task;
  s.state = mutable_state;
  s.n = n;
  s.caller_core = current_core();
  s.pending.store(threads_ - 1, std::memory_order_release);
  {
    std::lock_guard lock(s.mutex);
    s.generation.fetch_add(1, std::memory_order_acq_rel);
  }
  s.start.notify_all();
  std::exception_ptr error;
  try {
    const int64_t end = n / threads_;  // thread 0's share of the static partition
    if (end > 0) task(mutable_state, 0, end, 0);
  } catch (...) {
    error = std::current_exception();
  }
  for (int spin = 0; spin < s.spins && s.pending.load(std::memory_order_acquire) != 0; ++spin) relax();
  if (s.pending.load(std::memory_order_acquire) != 0) {
    std::unique_lock lock(s.mutex);
    s.done.wait(lock, [&] { return s.pending.load(std::memory_order_acquire) == 0; });
  }
  s.busy = false;
  for (auto& e : s.errors) {
    if (e && !error) error = e;
    e = nullptr;
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace fovea
