// Where the parameters of a model get their values from while it is loaded: a file, random numbers.
#pragma once

#include "core/param_store.h"
#include "core/thread_pool.h"

namespace fovea {

class ParamSource {
 public:
  virtual ~ParamSource() = default;
  // The value where it stands in memory as the model computes with it (shape, dtype, row-major); empty where it does not.
  virtual ConstTensor in_place(const Param& /* param */, DType /* dtype */) { return {}; }
  virtual void read(const Param& param, const Tensor& to, ThreadPool& pool) = 0;
  // Nobody reads the parameter from here again: memory behind it may go.
  virtual void done(const Param& /* param */) {}
};

}  // namespace fovea
