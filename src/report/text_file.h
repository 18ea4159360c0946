// Small text files that are either whole or not there.
#pragma once

#include <string>
#include <string_view>

namespace fovea::report {

// Writes `text` to `path` through a temporary file beside it and a rename, so that a reader (or a crash) sees the old
// file or the new one, never a part. Throws Error with the path and the system's reason (folder missing, disk full
// ...); the temporary file is removed then.
void write_text_atomically(const std::string& path, std::string_view text);

}  // namespace fovea::report
