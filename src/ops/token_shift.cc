#include "ops/token_shift.h"

#include <numeric>

#include "core/context.h"

namespace fovea {

namespace {

struct TokenShiftRecord {
  const int32_t* source;  // (B, N, units of a token)
  int64_t unit;           // channels that move together
};

// Units of one width tile every segment and the rest behind the segments.
int64_t unit_of(int64_t channels, int64_t segments) { return std::gcd(channels / segments, channels); }

}  // namespace

TokenShift::TokenShift(std::vector<int64_t> shifts) : shifts_(std::move(shifts)) {
  require(!shifts_.empty(), "a token shift needs at least one segment");
}

void TokenShift::forward(ConstTensor x, Tensor y, const uint8_t* padding, Tape* tape, Context& ctx) const {
  const int64_t batch = x.dim(0), tokens = x.dim(1), channels = x.dim(2);
  const auto segments = static_cast<int64_t>(shifts_.size());
  require(channels >= segments, "a token shift of {} segments needs as many channels, got {}", segments, channels);
  check(y.data != x.data, "a token shift moves rows and cannot work in place");
  ArenaScope scope(ctx.scratch());
  const int64_t unit = unit_of(channels, segments), units = channels / unit, segment_units = channels / segments / unit;
  int32_t* source = (tape ? tape->arena() : ctx.scratch()).take<int32_t>(batch * tokens * units);
  ctx.pool().for_each(batch, [&](int64_t b) {
    for (int64_t n = 0; n < tokens; ++n) {
      for (int64_t u = 0; u < units; ++u) {
        const int64_t segment = u / segment_units;
        const int64_t shift = segment < segments ? shifts_[static_cast<size_t>(segment)] : 0;
        const int64_t from = n - shift;
        const bool nothing = from < 0 || from >= tokens || (shift != 0 && padding && padding[b * tokens + from] != 0);
        source[(b * tokens + n) * units + u] = nothing ? -1 : static_cast<int32_t>((b * tokens + from) * units + u);
      }
    }
  });
  ctx.kernels().gather_rows(batch * tokens * units, unit, x.data, source, y.data, ctx);
  if (tape) tape->push(TokenShiftRecord{source, unit});
}

// y_i = x_source(i), or 0: dx_source(i) = dy_i, and 0 where no i reads a unit. No unit is read twice, so the transpose is a
// gather as well: segments move by the opposite shift.
void TokenShift::backward(ConstTensor dy, Tensor dx, Tape& tape, Context& ctx) const {
  const auto r = tape.pop<TokenShiftRecord>();
  const int64_t count = dy.elements() / r.unit;
  ArenaScope scope(ctx.scratch());
  int32_t* reader = ctx.scratch().take<int32_t>(count);
  std::fill_n(reader, count, -1);
  for (int64_t i = 0; i < count; ++i)
    if (r.source[i] >= 0) reader[r.source[i]] = static_cast<int32_t>(i);
  ctx.kernels().gather_rows(count, r.unit, dy.data, reader, dx.data, ctx);
}

}  // namespace fovea
