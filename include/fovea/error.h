// The two kinds of exception that fovea throws.
#pragma once

#include <stdexcept>

namespace fovea {

// The input or the caller is wrong: the message is one sentence that says what, where and what to do.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// fovea itself is wrong: please report it.
class InternalError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

}  // namespace fovea
