// The token-bytes table, and stop strings found through it.
#include <vector>

#include "fuzz.h"
#include "stop_text.h"
#include "token_bytes.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  must_answer([&] {
    const edge_mtp::TokenBytes tokens({data, size});
    must(tokens.vocabulary() > 0, "a table has tokens");
    // Strings of the table itself, so that they are met: a text, the end of one with the beginning of the next.
    const std::string_view first = tokens.text(0), last = tokens.text(tokens.vocabulary() - 1);
    edge_mtp::StopText stops(tokens, {std::string(first) + "x", std::string(last.substr(last.size() / 2)) + "y"});
    for (const int32_t token : {-1, INT32_MIN, INT32_MAX, tokens.vocabulary()}) {
      must(tokens.text(token).empty() && !tokens.is_special(token), "other ids have no text");
      stops.push(token);
    }
    for (int32_t token = 0; token < tokens.vocabulary(); ++token) {
      touch(tokens.text(token));
      tokens.is_special(token);
      const int32_t found = stops.push(token);
      must(found >= -1 && found < 2, "an index of a string");
    }
  });
  return 0;
}
