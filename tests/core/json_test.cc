#include "core/json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace fovea {
namespace {

using nlohmann::json;

template <class T>
std::optional<T> read(const char* text) {
  T out{};
  return read_json(json::parse(text), out) ? std::optional(out) : std::nullopt;
}

TEST(ReadJson, TakesAWholeNumberOnlyWhereItIsOneAndFits) {
  EXPECT_EQ(read<int64_t>("7"), 7);
  EXPECT_EQ(read<int64_t>("-7"), -7);
  EXPECT_EQ(read<int64_t>("9223372036854775807"), INT64_MAX);
  EXPECT_EQ(read<int64_t>("-9223372036854775808"), INT64_MIN);
  EXPECT_EQ(read<uint64_t>("18446744073709551615"), UINT64_MAX);
  EXPECT_EQ(read<int32_t>("2147483647"), INT32_MAX);
  for (const char* text : {"9223372036854775808", "1e300", "-1e19", "1.5", "2.0", "true", "\"3\"", "null", "[3]", "{}"})
    EXPECT_FALSE(read<int64_t>(text)) << text;
  EXPECT_FALSE(read<uint64_t>("-1"));
  EXPECT_EQ(read<int32_t>("-2147483648"), INT32_MIN);
  for (const char* text : {"2147483648", "-2147483649", "1.5"}) EXPECT_FALSE(read<int32_t>(text)) << text;
}

TEST(ReadJson, TakesANumberWithinTheRange) {
  EXPECT_EQ(read<double>("1e300"), 1e300);
  EXPECT_EQ(read<double>("3"), 3.0);
  EXPECT_EQ(read<float>("0.5"), 0.5F);
  for (const char* text : {"1e300", "-1e300", "true"}) EXPECT_FALSE(read<float>(text)) << text;
  for (const char* text : {"true", "\"3\"", "null", "[3]"}) EXPECT_FALSE(read<double>(text)) << text;
}

TEST(ReadJson, TakesEveryOtherKindAsItIsOnly) {
  EXPECT_EQ(read<bool>("true"), true);
  EXPECT_FALSE(read<bool>("1"));
  EXPECT_EQ(read<std::string>("\"a\""), "a");
  EXPECT_FALSE(read<std::string>("1"));
  EXPECT_EQ(read<std::vector<int64_t>>("[1, 2]"), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(read<std::vector<std::vector<double>>>("[[1, 2], []]"), (std::vector<std::vector<double>>{{1, 2}, {}}));
  EXPECT_FALSE(read<std::vector<int64_t>>("[1, 2.5]"));
  EXPECT_FALSE(read<std::vector<int64_t>>("1"));
  EXPECT_FALSE(read<std::vector<int64_t>>("{\"a\": 1}"));
  using Pair = std::pair<std::string, int64_t>;
  EXPECT_EQ(read<Pair>("[\"a\", 1]"), (Pair{"a", 1}));
  for (const char* text : {"[\"a\"]", "[\"a\", 1, 2]", "[1, \"a\"]", "\"a\""}) EXPECT_FALSE(read<Pair>(text)) << text;
}

TEST(ParseJson, TakesAnyDocumentThatDoesNotNestDeeplyAndNothingElse) {
  EXPECT_EQ(parse_json<json>("{\"a\": [1, {}]}"), (json{{"a", {1, json::object()}}}));
  for (const char* text : {"", "{", "[1", "]", "{\"a\"}", "\"\\"}) EXPECT_TRUE(parse_json<json>(text).is_discarded()) << text;
  const auto nested = [](size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_FALSE(parse_json<json>(nested(kDeepestJson)).is_discarded());
  EXPECT_TRUE(parse_json<json>(nested(kDeepestJson + 1)).is_discarded());
  EXPECT_TRUE(parse_json<json>(nested(1000000)).is_discarded());
  // Brackets side by side, and inside texts, nest nothing.
  std::string wide = "[";
  for (int i = 0; i < 1000; ++i) wide += "[{}],";
  EXPECT_EQ(parse_json<json>(wide + "0]").size(), 1001u);
  EXPECT_FALSE(parse_json<json>("[\"\\\"" + std::string(1000, '[') + "\\\\\"]").is_discarded());
}

}  // namespace
}  // namespace fovea
