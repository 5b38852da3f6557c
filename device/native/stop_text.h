// Stop strings, found in the bytes of the output as tokens come.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "token_bytes.h"

namespace edge_mtp {

class StopText {
 public:
  // Throws Error on an empty string. `tokens` must outlive this.
  StopText(const TokenBytes& tokens, std::vector<std::string> strings);
  // Takes the next token of the output; the index of the string that its bytes complete, or -1. A string may begin
  // in one token and end in another; when several end in one token, the one that ends first, then the longest.
  int32_t push(int32_t token);
  // Forgets the output so far: no string reaches across from here.
  void reset();

 private:
  // One string and how much of it the text ends with (Knuth, Morris and Pratt, "Fast pattern matching in strings").
  struct Pattern {
    std::string text;
    std::vector<size_t> border;  // [i]: the longest proper prefix of text that its first i + 1 bytes end with
    size_t matched = 0;

    bool push(char byte);  // whether it completes the string
  };

  const TokenBytes& tokens_;
  std::vector<Pattern> patterns_;
};

}  // namespace edge_mtp
