#include "core/param_store.h"

#include <algorithm>
#include <cmath>

#include "core/convert.h"
#include "core/thread_pool.h"

namespace fovea {

namespace {

constexpr int64_t kSlabAlign = 16;  // elements; 64 bytes in f32
constexpr int64_t kParallelDraw = 4096;
constexpr int64_t kMostElements = int64_t{1} << 40;  // so that no sum or product of a model's sizes overflows

double draw_element(const Init& init, const Rng& rng, uint64_t i) {
  switch (init.kind) {
    case Init::Kind::kZeros: return 0;
    case Init::Kind::kOnes: return 1;
    case Init::Kind::kConstant: return init.scale;
    case Init::Kind::kUniform: return init.scale * (2 * rng.uniform(i) - 1);
    case Init::Kind::kNormal: return init.scale * rng.normal(i);
    case Init::Kind::kTruncatedNormal:
      for (uint64_t attempt = 0;; ++attempt) {
        const double x = rng.normal(i + (attempt << 40));
        if (std::abs(x) <= 2) return init.scale * x;
      }
  }
  return 0;
}

}  // namespace

Param* ParamStore::add(std::string name, const Shape& shape, const Init& init, Decay decay) {
  check(!allocated_, "parameter {} is added after the memory was allocated", name);
  check(find(name) == nullptr, "parameter {} exists twice", name);
  Param p;
  p.name = std::move(name);
  p.shape = shape;
  p.init = init;
  p.decay = decay;
  const int64_t n = shape.elements();
  require(n <= kMostElements - elements_, "the model has more than {} parameters with {} of shape {}", kMostElements, p.name, shape);
  elements_ += n;
  Param* added = &params_.emplace_back(std::move(p));
  by_name_.emplace(added->name, added);
  return added;
}

Param* ParamStore::add_buffer(std::string name, const Shape& shape, const Init& init) {
  Param* p = add(std::move(name), shape, init, Decay::kNo);
  p->frozen = p->buffer = true;
  return p;
}

void ParamStore::allocate(DType dtype, Gradients gradients) {
  allocate_values(dtype, Plain::kAll);
  if (gradients == Gradients::kYes) add_gradients();
}

void ParamStore::allocate_for_inference(DType dtype) { allocate_values(dtype, Plain::kUnpacked); }

void ParamStore::allocate_values(DType dtype, Plain plain) {
  check(!allocated_, "parameters are allocated twice");
  allocated_ = true;
  dtype_ = dtype;
  without_packable_ = plain == Plain::kUnpacked;
  const auto has_value = [&](const Param& p) { return plain == Plain::kAll || !p.packable || p.read_plain; };
  const auto padded = [&](const Param& p) { return has_value(p) ? (p.shape.elements() + kSlabAlign - 1) / kSlabAlign * kSlabAlign : 0; };
  const auto range = [](const Param& p) { return p.buffer ? 2 : p.decay == Decay::kNo ? 1 : 0; };
  int64_t next[4] = {};  // where each range begins, and the end
  for (const Param& p : params_) next[range(p) + 1] += padded(p);
  for (int i = 1; i < 4; ++i) next[i] += next[i - 1];
  decay_elements_ = next[1];
  trained_elements_ = next[2];
  slab_elements_ = next[3];
  values_ = Buffer(static_cast<size_t>(slab_elements_) * size_of(dtype));
  for (Param& p : params_) {
    int64_t& offset = next[range(p)];
    void* const data = static_cast<char*>(values_.data()) + offset * static_cast<int64_t>(size_of(dtype));
    p.value = {has_value(p) ? data : nullptr, p.shape, dtype};
    offset += padded(p);
  }
}

void ParamStore::add_gradients() {
  check(allocated_ && !without_packable_, "gradients without the parameters' memory");
  if (grads_.data() != nullptr) return;
  grads_ = Buffer(static_cast<size_t>(slab_elements_) * size_of(dtype_));
  for (Param& p : params_)
    if (!p.buffer)
      p.grad = {static_cast<char*>(grads_.data()) + slab_offset(p) * static_cast<int64_t>(size_of(dtype_)), p.shape, dtype_};
}

void ParamStore::initialise(const Rng& rng) {
  check(!without_packable_, "a model that only infers is drawn while it is packed");
  drop_packed();
  for (Param& p : params_) draw(p, rng, p.value);
}

void ParamStore::draw(const Param& p, const Rng& rng, const Tensor& value, ThreadPool* pool) {
  const Rng own = rng.fork(name_tag(p.name));
  if (p.fill) return p.fill(own, value);
  const auto range = [&](int64_t begin, int64_t end, int) {
    // Through float, so that a model in f64 starts from exactly the numbers of one in f32.
    for (int64_t i = begin; i < end; ++i)
      store_scalar(value, i, static_cast<double>(static_cast<float>(draw_element(p.init, own, static_cast<uint64_t>(i)))));
  };
  const int64_t n = value.elements();
  if (pool != nullptr && n >= kParallelDraw) pool->for_ranges(n, range);
  else range(0, n, 0);
}

uint64_t ParamStore::name_tag(const std::string& name) {  // FNV-1a: stable across platforms
  uint64_t h = 0xcbf29ce484222325ULL;
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return h;
}

Param* ParamStore::find(const std::string& name) {
  const auto at = by_name_.find(name);
  return at == by_name_.end() ? nullptr : at->second;
}

int64_t ParamStore::count() const {
  int64_t n = 0;
  for (const Param& p : params_) n += p.buffer ? 0 : p.shape.elements();
  return n;
}

Tensor ParamStore::values() const {
  check(!without_packable_, "a model that only infers has no slab of all values");
  return {values_.data(), Shape{slab_elements_}, dtype_};
}

Tensor ParamStore::grads() const {
  return grads_.data() == nullptr ? Tensor() : Tensor(grads_.data(), Shape{slab_elements_}, dtype_);
}

int64_t ParamStore::slab_offset(const Param& p) const {
  return (static_cast<const char*>(p.value.data) - static_cast<const char*>(values_.data())) /
         static_cast<int64_t>(size_of(dtype_));
}

void ParamStore::zero_grads() const {
  if (grads_.data() != nullptr) grads().zero();
}

void ParamStore::drop_packed() {
  for (Param& p : params_) {
    p.packed = nullptr;
    p.packed_next = nullptr;
    p.packing = 0;
  }
  packed_ = Buffer();
}

}  // namespace fovea
