#pragma once

#include <stdexcept>
#include <string>

namespace edge_mtp {

// A refusal: one line that names the offending value and the cure. Caught at the C interface.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace edge_mtp
