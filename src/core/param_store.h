// The parameters of a model: one slab for all values, one for all gradients; names are the checkpoints'.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/arena.h"
#include "core/rng.h"
#include "core/tensor.h"

namespace fovea {

class ThreadPool;

// How a fresh parameter is filled; drawn by name, so neither order nor dtype changes the numbers.
struct Init {
  enum class Kind : uint8_t { kZeros, kOnes, kConstant, kTruncatedNormal, kUniform, kNormal } kind = Kind::kZeros;
  double scale = 0;  // the constant, the standard deviation, or the bound of U(-scale, scale)

  static Init zeros() { return {Kind::kZeros, 0}; }
  static Init ones() { return {Kind::kOnes, 1}; }
  static Init constant(double c) { return {Kind::kConstant, c}; }
  static Init truncated_normal(double stddev) { return {Kind::kTruncatedNormal, stddev}; }  // cut at two deviations
  static Init normal(double stddev) { return {Kind::kNormal, stddev}; }
  static Init uniform(double bound) { return {Kind::kUniform, bound}; }
};

enum class Decay : uint8_t { kNo, kYes };  // takes part in weight decay

struct Param {
  std::string name;
  Shape shape;
  Init init;
  // Fills `value` as a whole where its elements do not stand for themselves (orthogonal matrices); replaces `init`.
  std::function<void(const Rng&, const Tensor& value)> fill;
  Decay decay = Decay::kNo;
  Tensor value;                  // set by ParamStore::allocate; empty where a packed form takes its place
  Tensor grad;                   // likewise, when gradients are wanted; layers add to it
  const void* packed = nullptr;  // the GEMM's own form of a weight [out, in], while it is valid (pack_weights)
  ProductType packed_type = ProductType::kOwn;
  const Param* packed_next = nullptr;  // the weight that is packed, and used, after it
  uint64_t packing = 0;          // tells this packing, for whose life values stay what they are, from all others; 0: there is none
  bool packable = false;         // the weight of an affine map or a convolution
  bool read_plain = false;       // ... whose layer reads `value` in an inference too, as it stands
  bool outermost = false;        // of a model's first or last layer, whose products are in bf16 where others are in int8
  bool frozen = false;           // the optimizer leaves it alone
  bool buffer = false;           // state that is stored with the model but not trained: no gradient (add_buffer)
};

class ParamStore {
 public:
  ParamStore() = default;
  ParamStore(const ParamStore&) = delete;
  ParamStore& operator=(const ParamStore&) = delete;

  // Throws when the name is taken, the model becomes larger than any machine's memory, or allocate() has been called. The pointer stays valid.
  Param* add(std::string name, const Shape& shape, const Init& init, Decay decay);
  // The same for state that layers themselves keep (centroids, random features): changed in end_step alone.
  Param* add_buffer(std::string name, const Shape& shape, const Init& init);

  enum class Gradients : uint8_t { kNo, kYes };
  // Once; values are zero until initialise() or a checkpoint fills them.
  void allocate(DType dtype, Gradients gradients);
  // The same for a model that only infers: weights whose packed form is all that is read get no values (pack_from fills both).
  void allocate_for_inference(DType dtype);
  void add_gradients();                             // later, when a loaded model is to be trained
  void initialise(const Rng& rng);                  // draws every parameter
  // One parameter's fresh value, drawn from rng.fork(name_tag(its name)); the same for any number of threads.
  static void draw(const Param& param, const Rng& rng, const Tensor& value, ThreadPool* pool = nullptr);
  static uint64_t name_tag(const std::string& name);

  Param* find(const std::string& name);             // nullptr when there is none
  const std::deque<Param>& params() const { return params_; }
  std::deque<Param>& params() { return params_; }
  int64_t count() const;                            // number of scalars, padding and buffers excluded
  DType dtype() const { return dtype_; }

  // The slabs: parameters with decay first, then those without, then buffers; each parameter starts at a multiple of 64
  // bytes and the gaps are zero, so an optimizer runs over two flat ranges.
  // Where values() is asked for, all parameters have one: not after allocate_for_inference.
  Tensor values() const;
  Tensor grads() const;                             // empty without gradients
  int64_t decay_elements() const { return decay_elements_; }  // length of the first range
  int64_t trained_elements() const { return trained_elements_; }  // of the first two
  int64_t slab_elements() const { return slab_elements_; }
  int64_t slab_offset(const Param& param) const;    // in elements
  void zero_grads() const;

  // Packed forms are dropped whenever values change.
  Buffer& packed_buffer() { return packed_; }
  void drop_packed();

  size_t value_bytes() const { return values_.size(); }  // of the memory for values

 private:
  enum class Plain : uint8_t { kAll, kUnpacked };
  void allocate_values(DType dtype, Plain plain);

  std::deque<Param> params_;
  std::unordered_map<std::string_view, Param*> by_name_;
  int64_t elements_ = 0;
  DType dtype_ = DType::kF32;
  Buffer values_, grads_, packed_;
  int64_t decay_elements_ = 0, trained_elements_ = 0, slab_elements_ = 0;
  bool allocated_ = false, without_packable_ = false;
};

// A prefix over a ParamStore: scope / "attn" / "qkv" names parameters "blocks.0.attn.qkv.weight".
class Scope {
 public:
  explicit Scope(ParamStore& store, std::string prefix = "") : store_(&store), prefix_(std::move(prefix)) {}
  Scope operator/(const std::string& name) const { return Scope(*store_, prefix_.empty() ? name : prefix_ + "." + name); }
  Scope operator/(int64_t index) const { return *this / std::to_string(index); }
  Param* param(const std::string& name, const Shape& shape, const Init& init, Decay decay) const {
    return store_->add((*this / name).prefix_, shape, init, decay);
  }
  Param* buffer(const std::string& name, const Shape& shape, const Init& init) const {
    return store_->add_buffer((*this / name).prefix_, shape, init);
  }
  const std::string& prefix() const { return prefix_; }
  ParamStore& store() const { return *store_; }

 private:
  ParamStore* store_;
  std::string prefix_;
};

}  // namespace fovea
