// Tables of names read in both directions: a file becomes ours and becomes itself again.
#pragma once

#include <gtest/gtest.h>

#include <map>

#include "weights/key_map.h"
#include "weights/weight_fixtures.h"

namespace fovea::testing {

// Like zeros(), with another value in each element.
inline WeightFile numbered(const std::vector<std::pair<std::string, Shape>>& entries) {
  size_t total = 0;
  for (const auto& e : entries) total += static_cast<size_t>(e.second.elements());
  auto memory = std::make_shared<std::vector<double>>(total);
  for (size_t i = 0; i < total; ++i) (*memory)[i] = static_cast<double>(i + 1);
  std::vector<WeightTensor> tensors;
  const double* at = memory->data();
  for (const auto& [name, shape] : entries) {
    tensors.push_back({name, StoredType::kF64, shape, std::as_bytes(std::span(at, 1)).data(), {}});
    at += shape.elements();
  }
  return WeightFile("memory", "test", std::move(tensors), {}, memory);
}

// Reads the file in its dialect, writes what was read, and expects every parameter of the file with its shape and values.
// `renamed`: names that the file has in an older form, and the current one that is written.
inline void expect_round_trip(const WeightFile& file, const std::map<std::string, std::string>& renamed = {}) {
  const RecognisedModel model = require_recognised(file);
  SCOPED_TRACE(model.dialect->name);
  const MappedWeights mapped = map_keys(file, model);
  EXPECT_TRUE(mapped.unmatched.empty());
  std::vector<std::vector<double>> memory;
  std::vector<WeightTensor> ours;
  for (const MappedTensor& t : mapped.tensors) {
    auto& values = memory.emplace_back(static_cast<size_t>(t.shape.elements()));
    t.read(values.data());
    ours.push_back({t.name, StoredType::kF64, t.shape, std::as_bytes(std::span(values)).data(), {}});
  }
  std::map<std::string, MappedTensor> written;
  for (MappedTensor& t : write_as(*model.dialect, ours, model)) written.emplace(t.name, std::move(t));
  size_t parameters = 0;
  for (const WeightTensor& t : file.tensors()) {
    if (std::ranges::find(mapped.ignored, t.name) != mapped.ignored.end() || std::ranges::find(mapped.beside, t.name) != mapped.beside.end()) continue;
    ++parameters;
    std::string name = t.name.substr(model.prefix.size());
    if (const auto at = renamed.find(name); at != renamed.end()) name = at->second;
    const auto at = written.find(name);
    ASSERT_NE(at, written.end()) << name << " is not written";
    EXPECT_EQ(at->second.shape, t.shape) << name;
    std::vector<double> was(static_cast<size_t>(t.elements())), is(was.size());
    ASSERT_EQ(at->second.shape.elements(), t.elements()) << name;
    t.read(was.data());
    at->second.read(is.data());
    EXPECT_EQ(is, was) << name;
  }
  EXPECT_EQ(written.size(), parameters);
}

}  // namespace fovea::testing
