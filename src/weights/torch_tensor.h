// Tensors as torch.save pickles them: calls of functions in torch._utils, on storages that lie outside the pickle.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>

#include "weights/mapped_file.h"
#include "weights/pickle.h"
#include "weights/weight_file.h"

namespace fovea {

// The bytes of an element of such storages ("FloatStorage", "UntypedStorage", quantised ones, ...); nullopt for other names.
std::optional<size_t> torch_storage_element_size(std::string_view storage);

class TorchTensors {
 public:
  using Storages = std::function<FilePart(const std::string& key)>;  // throws Error when there is no such storage

  // `path` and `pickle` must outlive this.
  TorchTensors(const std::string& path, const Pickle& pickle, Storages storages);

  // The call that makes a tensor, under the parameters and subclasses that wrap it.
  struct Rebuild {
    std::span<const PickleValue> args;
    bool has_dtype = false;         // _rebuild_tensor_v3: the element type is args[6], the storage is untyped
    std::string_view unsupported;   // torch._utils' function for a kind of tensor that is not read
  };
  std::optional<Rebuild> find(PickleValue v) const;  // nullopt when v is no tensor

  // Throws Error naming the tensor when it reaches beyond its storage or its type or layout is not supported.
  WeightTensor read(std::string name, const Rebuild& rebuild);

  // What keeps the elements of the tensors read so far alive; nothing can be read afterwards.
  std::shared_ptr<const void> take_memory();

 private:
  [[noreturn]] void broken(const std::string& name, std::string_view what) const;
  bool calls(const PickleValue& call, std::string_view module, std::string_view name) const;
  std::vector<int64_t> integers(const std::string& name, PickleValue v) const;
  StoredType element_type(const std::string& name, const PickleValue& v, bool storage) const;
  FilePart storage(const std::string& name, std::span<const PickleValue> id, StoredType type);

  const std::string& path_;
  const Pickle& pickle_;
  Storages source_;
  std::unordered_map<std::string, FilePart> storages_;  // by key: tensors share them
};

// The arguments of a call; none when they are not a tuple.
std::span<const PickleValue> call_arguments(const Pickle& pickle, const PickleValue& call);

}  // namespace fovea
