// Zip archives put together by tests.
#pragma once

#include <gtest/gtest.h>
#include <zip.h>

#include <string>
#include <utility>
#include <vector>

#include "weights/weight_fixtures.h"

namespace fovea::testing {

inline std::string zip_of(const std::vector<std::pair<std::string, std::string>>& entries, bool deflate = false) {
  const TempFolder folder;
  const std::string path = folder / "a.zip";
  int error = 0;
  zip_t* zip = zip_open(path.c_str(), ZIP_CREATE, &error);
  for (const auto& [name, data] : entries) {
    const zip_int64_t i = zip_file_add(zip, name.c_str(), zip_source_buffer(zip, data.data(), data.size(), 0), ZIP_FL_ENC_UTF_8);
    zip_set_file_compression(zip, static_cast<zip_uint64_t>(i), deflate ? ZIP_CM_DEFLATE : ZIP_CM_STORE, 0);
  }
  EXPECT_EQ(zip_close(zip), 0);
  return read_bytes(path);
}

}  // namespace fovea::testing
