// Every committed fixture on every kernel table that this machine runs, and proof that the comparison can fail.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "harness/tables.h"
#include "parity/check_case.h"

namespace fovea {
namespace {

std::vector<std::string> fixture_files() {
  std::vector<std::string> files;
  for (const auto& e : std::filesystem::directory_iterator(FOVEA_TEST_FIXTURES "/parity"))
    if (e.path().extension() == ".safetensors") files.push_back(e.path().string());
  std::sort(files.begin(), files.end());
  return files;
}

class Parity : public testing::TestWithParam<std::string> {};

// Quirks of official implementations that the f32 tables do not have.
bool reference_only(const std::string& file) { return file.ends_with("/txl_unmasked_wrap.safetensors"); }

TEST_P(Parity, OutputsAndGradients) {
  for (const KernelTable* table : harness::real_tables()) {
    const auto r = parity::run_check(GetParam(), *table);
    if (reference_only(GetParam()) && table->dtype == DType::kF32) {
      EXPECT_EQ(r.status, "unsupported") << table->name << ": " << r.why;
      continue;
    }
    EXPECT_EQ(r.status, "pass") << table->name << ": " << r.why;
    EXPECT_FALSE(r.worst_tensor.empty());
  }
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Parity, testing::ValuesIn(fixture_files()),
                         [](const testing::TestParamInfo<std::string>& i) { return std::filesystem::path(i.param).stem().string(); });

std::string file_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// One changed number in a weight must show in the outputs or gradients.
TEST(ParityHarness, AChangedWeightFails) {
  std::string bytes = file_bytes(FOVEA_TEST_FIXTURES "/parity/vit_block.safetensors");
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  const auto json = nlohmann::json::parse(bytes.substr(8, header));
  const uint64_t at = 8 + header + json.at("w.mlp.fc1.weight").at("data_offsets").at(0).get<uint64_t>();
  float value = 0;
  std::memcpy(&value, bytes.data() + at, 4);
  value += 0.01f;
  std::memcpy(bytes.data() + at, &value, 4);
  const auto path = std::filesystem::temp_directory_path() / fmt::format("fovea_parity_changed_{}.safetensors", getpid());
  std::ofstream(path, std::ios::binary) << bytes;
  for (const KernelTable* table : harness::real_tables()) EXPECT_EQ(parity::run_check(path.string(), *table).status, "fail");
  std::filesystem::remove(path);
}

TEST(ParityHarness, OtherKindsAreUnsupportedAndBrokenFilesFail) {
  const KernelTable& table = kernel_table("reference");
  EXPECT_EQ(parity::run_check("/nonexistent.safetensors", table).status, "fail");
  std::string bytes = file_bytes(FOVEA_TEST_FIXTURES "/parity/vit_block.safetensors");
  const auto rename = [&](const std::string& from, const std::string& to) {
    const size_t at = bytes.find(from);
    ASSERT_NE(at, std::string::npos);
    bytes.replace(at, from.size(), to);
  };
  rename("\\\"mechanism\\\": \\\"vit_block\\\"", "\\\"mechanism\\\": \\\"vit_blick\\\"");
  const auto path = std::filesystem::temp_directory_path() / fmt::format("fovea_parity_unknown_{}.safetensors", getpid());
  std::ofstream(path, std::ios::binary) << bytes;
  const auto r = parity::run_check(path.string(), table);
  EXPECT_EQ(r.status, "unsupported");
  EXPECT_NE(r.why.find("vit_blick"), std::string::npos);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace fovea
