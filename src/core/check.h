// Checked errors: every border (op, file, API) says what was wrong, what it got, what it expected, and where.
#pragma once

#include <fmt/format.h>

#include <string>

#include "fovea/error.h"

namespace fovea {

// Throws Error (a mistake of the caller or the input) with a formatted sentence when `condition` does not hold.
template <class... Args>
inline void require(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) [[unlikely]]
    throw Error(fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
[[noreturn]] inline void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

// An invariant of our own code; breaking it is our fault (exit status 1), never the user's.
template <class... Args>
inline void check(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) [[unlikely]]
    throw InternalError(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace fovea
