// Prompt look-up: drafts copied from an earlier place in the same text (Saxena, "Prompt lookup decoding", 2023).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "proposal.h"

namespace edge_mtp {

// An index of the n-grams of the tokens so far, n up to kLongest. Appending takes O(1); it is never rebuilt.
class Lookup {
 public:
  // The longest suffix that is searched for. A longer match counts as one of this length, and the latest one is used.
  static constexpr int32_t kLongest = 6;

  // Forgets everything, and makes room for `capacity` tokens, so that push() never allocates.
  void begin(int32_t capacity);
  // Throws Error when there are already `capacity` tokens.
  void push(int32_t token);
  // Forgets all but the first `length` tokens.
  void truncate(int32_t length);
  int32_t length() const { return static_cast<int32_t>(tokens_.size()); }
  // Finds the latest earlier occurrence of the longest matching suffix (at least `least` tokens long), and appends up
  // to `most` tokens that followed it to `proposal`, as Source::kLookup with a confidence from the match's length. If
  // they reach the end of the text, the copy goes on with the drafts themselves, which continues a repeating text.
  void propose(int32_t least, int32_t most, Proposal& proposal) const;

 private:
  // The n-grams of one length, identified by the index of their last token in the text.
  struct Grams {
    // Hash table with linear probing: the latest occurrence of each n-gram + 1, 0 = free. Entries are removed in
    // reverse order of insertion, so a removal restores the earlier table and needs no tombstones.
    std::vector<int32_t> slots;
    std::vector<int32_t> previous;  // [length]: the occurrence before the one that ends here, -1 = none
  };
  int32_t& slot(Grams& grams, int32_t length, int32_t end, uint64_t hash) const;

  int32_t capacity_ = 0;
  std::vector<int32_t> tokens_;
  std::array<Grams, kLongest> grams_;  // [n - 1]
};

}  // namespace edge_mtp
