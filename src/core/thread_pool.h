// A small pool with static partition: chunk c of n always goes to thread c·T/n, and nothing is reduced across threads in
// arrival order, so results are bitwise equal for any number of threads (as long as chunks do not depend on T).
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

namespace fovea {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // the caller counts as one of them; 0 means all cores
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Calls f(begin, end, thread) once per thread with a contiguous range of [0, n); returns when all are done.
  // An exception from f is rethrown here (the lowest thread's). Not reentrant: f must not call the same pool.
  template <class F>
  void for_ranges(int64_t n, F&& f) {
    run(n, [](void* p, int64_t b, int64_t e, int t) { (*static_cast<std::remove_reference_t<F>*>(p))(b, e, t); }, &f);
  }

  // Calls f(i) for every i of [0, n); neighbouring i run on the same thread.
  template <class F>
  void for_each(int64_t n, F&& f) {
    for_ranges(n, [&f](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) f(i);
    });
  }

 private:
  using Task = void (*)(void* state, int64_t begin, int64_t end, int thread);
  void run(int64_t n, Task task, const void* state);

  struct Impl;
  std::unique_ptr<Impl> impl_;
  int threads_;
};

}  // namespace fovea
