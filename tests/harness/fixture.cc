#include "harness/fixture.h"

#include "core/convert.h"

namespace fovea::harness {

Fixture::Fixture(const std::string& path) : file(open_weights(path)) {
  const auto entry = file.metadata().find("config");
  require(entry != file.metadata().end(), "{} is no fixture: its metadata has no \"config\"", path);
  config = nlohmann::json::parse(entry->second);
}

HostTensor Fixture::tensor(const std::string& name, DType dtype) const {
  const WeightTensor& stored = file.at(name);
  HostTensor wide(stored.shape, DType::kF64);
  stored.read(wide.as<double>());
  if (dtype == DType::kF64) return wide;
  return converted(wide, dtype);
}

std::vector<int32_t> Fixture::ints(const std::string& name) const {
  const HostTensor t = tensor(name, DType::kF64);
  std::vector<int32_t> values(static_cast<size_t>(t.elements()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int32_t>(t.as<double>()[i]);
  return values;
}

std::vector<std::string> Fixture::names(const std::string& prefix) const {
  std::vector<std::string> found;
  for (const WeightTensor& t : file.tensors())
    if (t.name.rfind(prefix, 0) == 0) found.push_back(t.name);
  return found;
}

}  // namespace fovea::harness
