// Stop strings, found in the bytes of the output as tokens come.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "token_bytes.h"

namespace edge_mtp {

class StopText {
 public:
  // Throws Error on an empty string.
  StopText(const TokenBytes& tokens, std::vector<std::string> strings);
  // Takes the next token of the output; the index of the string that its bytes complete, or -1. A string may begin
  // in one token and end in another; when several end in one token, the one that ends first, then the longest.
  int32_t push(int32_t token);
};

}  // namespace edge_mtp
