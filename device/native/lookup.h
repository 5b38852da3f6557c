// Prompt look-up: drafts copied from an earlier place of the same text (Saxena, "Prompt lookup decoding", 2023).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "proposal.h"

namespace edge_mtp {

// An index of the n-grams of the tokens so far, n up to kLongest; appended to in O(1) and never rebuilt.
class Lookup {
 public:
  // The longest suffix that is looked for; of longer matches the latest counts, like one of this length.
  static constexpr int32_t kLongest = 6;

  // Forgets everything; `capacity` tokens will fit, without allocation.
  void begin(int32_t capacity);
  // Throws Error when `capacity` tokens are there already.
  void push(int32_t token);
  // Forgets all but the first `length` tokens.
  void truncate(int32_t length);
  int32_t length() const { return static_cast<int32_t>(tokens_.size()); }
  // Up to `most` tokens that followed the latest earlier occurrence of the longest matching suffix (at least
  // `least` tokens long), appended to `proposal` as Source::kLookup with a confidence from the match's length. Where
  // they reach the end of the text they go on with themselves, so that a text that goes in circles is drafted on.
  void propose(int32_t least, int32_t most, Proposal& proposal) const;

 private:
  // The n-grams of one length, by their last token's index in the text.
  struct Grams {
    // Open addressing, linear probing: the latest occurrence of each n-gram + 1, 0 = free. What was put in last is
    // taken out first, so taking out leaves the table as it was before and needs no marks.
    std::vector<int32_t> slots;
    std::vector<int32_t> previous;  // [length]: the occurrence before the one that ends here, -1 = none
  };
  int32_t& slot(Grams& grams, int32_t length, int32_t end, uint64_t hash) const;

  int32_t capacity_ = 0;
  std::vector<int32_t> tokens_;
  std::array<Grams, kLongest> grams_;  // [n - 1]
};

}  // namespace edge_mtp
