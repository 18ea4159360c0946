// The two places that a model's parameters come from.
#pragma once

#include <string_view>
#include <unordered_map>

#include "core/param_source.h"
#include "weights/key_map.h"

namespace fovea {

// A file's tensors under our names; every parameter must be among them (require_match). Memory that mirrors the file is given back
// as parameters are done with.
class FileSource final : public ParamSource {
 public:
  explicit FileSource(const MappedWeights& weights);
  ConstTensor in_place(const Param& param, DType dtype) override;
  void read(const Param& param, const Tensor& to, ThreadPool& pool) override;
  void done(const Param& param) override;

 private:
  const MappedTensor& of(const Param& param) const;
  std::unordered_map<std::string_view, const MappedTensor*> by_name_;
};

// A fresh model's random numbers.
class RandomSource final : public ParamSource {
 public:
  explicit RandomSource(const Rng& rng) : rng_(rng) {}
  void read(const Param& param, const Tensor& to, ThreadPool& pool) override { ParamStore::draw(param, rng_, to, &pool); }

 private:
  Rng rng_;
};

}  // namespace fovea
