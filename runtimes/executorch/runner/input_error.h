// What is wrong with what the person gave, in one line. Exit code 2.
#pragma once

#include <stdexcept>

namespace himix {

struct InputError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace himix
