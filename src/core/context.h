// What one thread of work needs beside a (const) model: the kernels, the threads, scratch memory and random numbers.
// A context serves one caller at a time; a model serves any number of contexts.
#pragma once

#include <any>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "core/arena.h"
#include "core/rng.h"
#include "core/tape.h"
#include "core/thread_pool.h"

namespace fovea {

struct KernelTable;  // kernels/kernel_table.h

class Context {
 public:
  Context(const KernelTable& kernels, DType dtype, int threads)
      : kernels_(kernels), dtype_(dtype), pool_(std::make_shared<ThreadPool>(threads)) {}

  const KernelTable& kernels() const { return kernels_; }
  DType dtype() const { return dtype_; }  // of every activation and parameter
  ThreadPool& pool() const { return *pool_; }
  Arena& scratch() { return scratch_; }

  // Memory for an activation: kept with the tape until its backward, or scratch when there is none.
  Tensor activation(const Shape& shape, Tape* tape) { return (tape ? tape->arena() : scratch_).take(shape, dtype_); }

  bool training() const { return training_; }  // dropout, stochastic depth: on
  const Rng& rng() const { return rng_; }      // of this step; layers fork it by their own tag
  void set_training(bool training, Rng rng = Rng()) {
    training_ = training;
    rng_ = rng;
  }

  // Something that depends on sizes alone (token groups, index tables): built at its first use, then kept.
  template <class T>
  const T& cached(const std::string& key, const std::function<T()>& build) {
    auto it = cache_.find(key);
    if (it == cache_.end()) it = cache_.emplace(key, std::make_shared<T>(build())).first;
    return *std::any_cast<const std::shared_ptr<T>&>(it->second);
  }

 private:
  const KernelTable& kernels_;
  DType dtype_;
  std::shared_ptr<ThreadPool> pool_;
  Arena scratch_;
  bool training_ = false;
  Rng rng_;
  std::unordered_map<std::string, std::any> cache_;
};

}  // namespace fovea
