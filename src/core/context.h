// What one thread of work needs beside a (const) model: the kernels, the threads, scratch memory and random numbers.
// A context serves one caller at a time; a model serves any number of contexts.
#pragma once

#include <any>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

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
  // How products with weights that are not packed, and those of their backwards, read their operands.
  ProductType products() const { return products_; }
  void set_products(ProductType type) { products_ = type; }
  ThreadPool& pool() const { return *pool_; }
  Arena& scratch() { return scratch_; }

  // A context of its own, with one thread and the same products(), for what thread `thread` of the pool does on its own.
  Context& worker(int thread);
  // f(begin, end, worker) for a range of [0, n) on each thread of the pool.
  template <class F>
  void share_out(int64_t n, F&& f) {
    worker(0);  // makes them all, before threads ask at once
    pool_->for_ranges(n, [&](int64_t begin, int64_t end, int thread) {
      Context& own = worker(thread);
      if (own.scratch_.used() == 0) own.scratch_.reset();
      f(begin, end, own);
    });
  }

  // Whether blocks in inference may run depth first (blocks/forward_blocks.h) or go layer by layer over the whole map.
  bool depth_first() const { return depth_first_; }
  void set_depth_first(bool yes) { depth_first_ = yes; }

  // Memory for an activation: kept with the tape until its backward, or scratch when there is none.
  Tensor activation(const Shape& shape, Tape* tape) { return (tape ? tape->arena() : scratch_).take(shape, dtype_); }

  bool training() const { return training_; }  // dropout, stochastic depth: on
  const Rng& rng() const { return rng_; }      // of this step; layers fork it by their own tag
  void set_training(bool training, Rng rng = Rng(), double loss_weight = 1) {
    training_ = training;
    rng_ = rng;
    loss_weight_ = loss_weight;
    auxiliary_loss_ = 0;
  }

  // Losses of layers beside the model's own (the distance of routed tokens from their centroids). In training a forward adds
  // the value, and the layer's backward adds loss_weight() times its gradient by itself.
  double loss_weight() const { return loss_weight_; }        // share of this forward in the update
  double auxiliary_loss() const { return auxiliary_loss_; }  // since set_training
  void add_auxiliary_loss(double loss) { auxiliary_loss_ += loss; }

  // Something that depends on sizes alone (token groups, index tables): built at its first use, then kept.
  template <class T>
  const T& cached(const std::string& key, const std::function<T()>& build) {
    auto it = cache_.find(key);
    if (it == cache_.end()) it = cache_.emplace(key, std::make_shared<T>(build())).first;
    return *std::any_cast<const std::shared_ptr<T>&>(it->second);
  }

  // Memory of one owner between calls, one T each, default-constructed at first: what a layer's training forwards gather for
  // its end_step. A forward leaves the model as it is and writes here, where no other caller looks.
  template <class T>
  T& state(const void* owner) {
    auto it = states_.find(owner);
    // A state of another type belonged to an owner that is gone.
    if (it == states_.end() || it->second.type() != typeid(std::shared_ptr<T>)) it = states_.insert_or_assign(owner, std::make_shared<T>()).first;
    return *std::any_cast<const std::shared_ptr<T>&>(it->second);
  }
  // One T for everybody to build something in that a single call needs, so that its capacity stays.
  template <class T>
  T& reusable() {
    static const char key = 0;
    return state<T>(&key);
  }

 private:
  const KernelTable& kernels_;
  DType dtype_;
  ProductType products_ = ProductType::kOwn;
  std::shared_ptr<ThreadPool> pool_;
  Arena scratch_;
  std::vector<std::unique_ptr<Context>> workers_;
  bool depth_first_ = true;
  bool training_ = false;
  Rng rng_;
  double loss_weight_ = 1, auxiliary_loss_ = 0;
  std::unordered_map<std::string, std::any> cache_;
  std::unordered_map<const void*, std::any> states_;
};

inline Context& Context::worker(int thread) {
  while (workers_.size() < static_cast<size_t>(pool_->threads())) workers_.push_back(std::make_unique<Context>(kernels_, dtype_, 1));
  Context& own = *workers_[static_cast<size_t>(thread)];
  own.products_ = products_;
  return own;
}

}  // namespace fovea
