// Token shift: channels in equal segments, each moved along the sequence by its own number of tokens, so that a token sees
// a part of its neighbours before any attention.
#pragma once

#include <vector>

#include "core/tape.h"
#include "kernels/kernel_table.h"

namespace fovea {

class TokenShift {
 public:
  // Segment s, channels [s C / S, (s + 1) C / S) with S = shifts.size(), moves towards later positions by shifts[s] tokens
  // (negative: earlier), zeros coming in; channels that are left over stay. C is known at the first call only.
  explicit TokenShift(std::vector<int64_t> shifts);

  // padding (B, N), 1 = no token: such tokens are zeros in the segments that move. It is read again by nobody later.
  void forward(ConstTensor x /* (B, N, C) */, Tensor y /* (B, N, C), not x */, const uint8_t* padding, Tape* tape,
               Context& ctx) const;
  void backward(ConstTensor dy /* (B, N, C) */, Tensor dx /* written, not dy */, Tape& tape, Context& ctx) const;

 private:
  std::vector<int64_t> shifts_;
};

}  // namespace fovea
