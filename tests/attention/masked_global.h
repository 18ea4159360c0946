// A mechanism against global attention with the same parameters under an additive mask: the definition of its pattern.
#pragma once

#include <limits>

#include "attention/registry.h"
#include "core/convert.h"
#include "harness/expect.h"
#include "harness/layers.h"

namespace fovea::harness {

// Output, gradient of the input and gradients of all parameters. meet(head, query, key).
inline void expect_like_masked_global(const AttentionSpec& spec, const AttentionConfig& config, const TokenGrid& grid, bool causal,
                                      const std::function<bool(int64_t, int64_t, int64_t)>& meet) {
  for_each_table([&](const KernelTable& table) {
    const int64_t n = grid.tokens();
    HostTensor mask(Shape{1, config.heads, n, n}, table.dtype);
    for (int64_t h = 0; h < config.heads; ++h)
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < n; ++j)
          store_scalar(mask, (h * n + i) * n + j, meet(h, i, j) ? 0 : -std::numeric_limits<double>::infinity());
    const Shape shape{grid.batch, n, config.dim};
    const HostTensor x = random_tensor(shape, Rng(3), table.dtype), dy = random_tensor(shape, Rng(4), table.dtype);
    Context ctx(table, table.dtype, 2);
    struct Side {
      ParamStore params;
      std::unique_ptr<Attention> attention;
      HostTensor y, dx;
    } sides[2];
    for (Side& s : sides) {
      const bool own = &s == &sides[0];
      s.attention = make_attention(own ? spec : AttentionSpec{"global", {}}, Scope(s.params), config);
      s.params.allocate(table.dtype, ParamStore::Gradients::kYes);
      if (own)
        randomise(s.params, Rng(2));
      else
        for (Param& p : s.params.params()) std::memcpy(p.value.data, sides[0].params.find(p.name)->value.data, p.value.bytes());
      s.y = HostTensor(shape, table.dtype);
      s.dx = HostTensor(shape, table.dtype);
      Tape tape;
      AttentionInputs in;
      in.x = x;
      in.grid = grid;
      if (own)
        in.causal = causal;
      else
        in.mask = mask;
      s.attention->forward(in, s.y, &tape, ctx);
      s.attention->backward(dy, {s.dx, {}, {}}, tape, ctx);
    }
    const bool exact = table.dtype == DType::kF64;
    const Tolerance tolerance = Tolerance::relative(exact ? 1e-12 : 1e-5);
    expect_close(sides[0].y, sides[1].y, tolerance, "output");
    expect_close(sides[0].dx, sides[1].dx, tolerance, "gradient of the input");
    for (const Param& p : sides[1].params.params()) expect_close(sides[0].params.find(p.name)->grad, p.grad, tolerance, p.name);
  });
}

}  // namespace fovea::harness
