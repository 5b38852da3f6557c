#include "lookup.h"

#include <algorithm>
#include <string>

#include "error.h"

namespace edge_mtp {
namespace {

// The hash of an n-gram from the hash of its last n - 1 tokens and the token before them.
uint64_t extend(uint64_t hash, int32_t token) {
  hash = (hash ^ static_cast<uint32_t>(token)) * 0x9E3779B97F4A7C15ull;
  return hash ^ hash >> 32;
}

// How often the token after a match of `length` repeats the one that followed before. The values lie between those for
// replies of the tiny pair and those for this repository's prose and code (benchmarks/lookup_hits.py). Matches longer
// than six tokens hit no more often.
float confidence(int32_t length) {
  constexpr float kHits[Lookup::kLongest] = {0.30f, 0.52f, 0.61f, 0.65f, 0.67f, 0.69f};
  return kHits[std::min(length, Lookup::kLongest) - 1];
}

}  // namespace

void Lookup::begin(int32_t capacity) {
  capacity_ = capacity;
  size_t slots = 1;
  while (slots < 2 * static_cast<size_t>(capacity)) slots *= 2;
  tokens_.clear();
  tokens_.reserve(static_cast<size_t>(capacity));
  for (Grams& grams : grams_) {
    grams.slots.assign(slots, 0);
    grams.previous.clear();
    grams.previous.reserve(static_cast<size_t>(capacity));
  }
}

// The slot of the n-gram of `length` tokens that ends with tokens_[end]: its own, or the free slot for it.
int32_t& Lookup::slot(Grams& grams, int32_t length, int32_t end, uint64_t hash) const {
  const size_t last = grams.slots.size() - 1;
  for (size_t at = hash & last;; at = (at + 1) & last) {
    const int32_t other = grams.slots[at] - 1;
    if (other < 0 || std::equal(tokens_.data() + other - length + 1, tokens_.data() + other + 1,
                                tokens_.data() + end - length + 1)) {
      return grams.slots[at];
    }
  }
}

void Lookup::push(int32_t token) {
  const int32_t end = length();
  if (end == capacity_) throw Error("the look-up is full at " + std::to_string(capacity_) + " tokens");
  tokens_.push_back(token);
  uint64_t hash = 0;
  for (int32_t n = 1; n <= kLongest; ++n) {
    Grams& grams = grams_[static_cast<size_t>(n - 1)];
    int32_t previous = -1;
    if (n <= end + 1) {
      hash = extend(hash, tokens_[static_cast<size_t>(end - n + 1)]);
      int32_t& latest = slot(grams, n, end, hash);
      previous = latest - 1;
      latest = end + 1;
    }
    grams.previous.push_back(previous);
  }
}

void Lookup::truncate(int32_t length) {
  while (this->length() > std::max(length, 0)) {
    const int32_t end = this->length() - 1;
    uint64_t hash = 0;
    for (int32_t n = 1; n <= kLongest; ++n) {
      Grams& grams = grams_[static_cast<size_t>(n - 1)];
      if (n <= end + 1) {
        hash = extend(hash, tokens_[static_cast<size_t>(end - n + 1)]);
        slot(grams, n, end, hash) = grams.previous.back() + 1;
      }
      grams.previous.pop_back();
    }
    tokens_.pop_back();
  }
}

void Lookup::propose(int32_t least, int32_t most, Proposal& proposal) const {
  if (tokens_.empty()) return;
  for (int32_t n = kLongest; n >= std::max(least, 1); --n) {
    const int32_t match = grams_[static_cast<size_t>(n - 1)].previous.back();
    if (match < 0) continue;
    const int32_t first = proposal.count;
    for (int32_t i = 0; i < std::min(most, kMaxDrafts - first); ++i) {
      const int32_t from = match + 1 + i;
      const int32_t token = from < length() ? tokens_[static_cast<size_t>(from)]
                                            : proposal.tokens[static_cast<size_t>(first + from - length())];
      // A draft is verified only if all before it were right, in which case they lengthen the match.
      proposal.add(token, confidence(n + i), Source::kLookup);
    }
    return;
  }
}

}  // namespace edge_mtp
