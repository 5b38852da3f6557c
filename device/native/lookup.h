// Prompt look-up: drafts copied from an earlier place of the same text (Saxena, "Prompt lookup decoding", 2023).
#pragma once

#include <cstdint>
#include <vector>

#include "proposal.h"

namespace edge_mtp {

// An index of n-grams over the tokens so far, appended to in O(1) and never rebuilt.
class Lookup {
 public:
  // Forgets everything; `capacity` tokens will fit without allocation.
  void begin(int32_t capacity);
  void push(int32_t token);
  // Forgets all but the first `length` tokens.
  void truncate(int32_t length);
  int32_t length() const;
  // Up to `most` tokens that followed the latest earlier occurrence of the longest matching suffix (at least
  // `least` tokens long), appended to `proposal` as Source::kLookup with a confidence from the match's length.
  void propose(int32_t least, int32_t most, Proposal& proposal) const;
};

}  // namespace edge_mtp
