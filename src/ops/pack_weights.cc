#include "ops/pack_weights.h"

#include <algorithm>
#include <atomic>

namespace fovea {

namespace {

size_t aligned(size_t n) { return (n + 63) / 64 * 64; }
int64_t inputs(const Param& p) { return p.shape.elements() / p.shape[0]; }

// Packs one parameter after the other into one block.
class Packer {
 public:
  Packer(ParamStore& params, Context& ctx, ProductType type) : ctx_(ctx) {
    params.drop_packed();
    static std::atomic<uint64_t> packings{0};
    const uint64_t packing = ++packings;
    size_t total = 0;
    for (Param& p : params.params()) {
      p.packing = packing;
      p.packed_type = p.outermost && type == ProductType::kInt8 ? ProductType::kBF16 : type;
      if (p.packable) total += bytes_of(p);
    }
    params.packed_buffer() = Buffer(total);
    next_ = static_cast<char*>(params.packed_buffer().data());
  }

  void pack(Param& p, const void* value) {
    ctx_.kernels().gemm_pack(p.packed_type, inputs(p), p.shape[0], value, inputs(p), true, next_, ctx_);
    p.packed = next_;
    if (last_) last_->packed_next = &p;
    last_ = &p;
    next_ += bytes_of(p);
  }

 private:
  size_t bytes_of(const Param& p) const { return aligned(ctx_.kernels().gemm_packed_bytes(p.packed_type, inputs(p), p.shape[0])); }

  Context& ctx_;
  char* next_ = nullptr;
  Param* last_ = nullptr;
};

}  // namespace

PackedMatrix weights_after(const Param& p) {
  const Param* next = p.packed_next;
  return next ? PackedMatrix{next->packed, next->packed_type, inputs(*next), next->shape[0]} : PackedMatrix{};
}

void pack_weights(ParamStore& params, Context& ctx, ProductType type) {
  Packer packer(params, ctx, type);
  for (Param& p : params.params())
    if (p.packable) packer.pack(p, p.value.data);
}

void pack_from(ParamSource& source, ParamStore& params, Context& ctx, ProductType type) {
  Packer packer(params, ctx, type);
  Buffer staging;  // one weight at a time, where the source does not hold it as it is
  for (Param& p : params.params()) {
    ConstTensor value = p.value;
    if (value.empty()) {
      value = source.in_place(p, params.dtype());
      check(value.empty() || (value.shape == p.shape && value.dtype == params.dtype()), "{}: a source gives another tensor in its place", p.name);
    }
    if (value.empty() || !p.value.empty()) {
      Tensor to = p.value;
      if (to.empty()) {
        if (staging.size() < to.bytes()) staging = Buffer(to.bytes());
        to.data = staging.data();
      }
      source.read(p, to, ctx.pool());
      value = to;
    }
    if (p.packable) packer.pack(p, value.data);
    source.done(p);
  }
}

}  // namespace fovea
