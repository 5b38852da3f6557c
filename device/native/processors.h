// Logit processors: what changes logits before a token is selected (docs/verify-op.md, processors 1 and 2).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "proposal.h"

namespace edge_mtp {

// They act in this order: bias, repetition penalty, presence and frequency penalties, suppression.
struct Processing {
  std::vector<std::pair<int32_t, float>> bias;  // added to the token's logit
  std::vector<int32_t> suppress;                // never selected: logit -inf
  float repetition_penalty = 1.0f;  // logit > 0 is divided by it, else multiplied (CTRL, arXiv 1909.05858); prompt and output
  float presence_penalty = 0.0f;    // subtracted once from tokens of the output so far
  float frequency_penalty = 0.0f;   // subtracted for each time a token is in the output so far

  bool empty() const;
};

class Processors {
 public:
  explicit Processors(int32_t vocabulary);
  // Throws Error naming the value: an id outside the vocabulary, a value that is not finite, a repetition penalty <= 0.
  // Nothing is allocated from here to the next begin().
  void begin(const Processing& processing, const std::vector<int32_t>& prompt);
  // The next token of the history (of the output). Throws Error for an id outside the vocabulary.
  void push(int32_t token);
  // Takes back the last `count` pushed tokens (a draft's prefix), of the last kMaxDrafts at most; throws Error for more.
  void pop(int32_t count);
  // Applies to one row of logits [vocabulary], in place; touches only the tokens named in the request or seen so far.
  void apply(float* logits) const;

 private:
  void check(int32_t token, const char* what) const;
  void add(int32_t token, int32_t in_output);

  const int32_t vocabulary_;
  Processing processing_;
  bool counts_tokens_ = false;  // whether any penalty is on; without one there is no history to keep
  // The distinct tokens of prompt and output, in order of first use: what is taken back last in, first out is at its
  // end, so a token that is gone needs no search.
  std::vector<int32_t> seen_;
  std::vector<int32_t> in_text_, in_output_;  // [vocabulary]: times in prompt and output, in the output alone
  // The tokens that may be taken back: a ring, of which the last `held_` before `pushed_` are valid.
  std::array<int32_t, kMaxDrafts + 1> recent_{};
  uint32_t pushed_ = 0;
  int32_t held_ = 0;
};

// A chosen token in its row of logits. Both are finite, whatever the row: limited to what a float holds.
struct Chosen {
  float logprob;  // log softmax of the row at the token
  float margin;   // the largest logit of the row minus the second largest, 0 on a tie
};
// Of `token` in `logits` [count]. The exponentials are good to 1e-7 of themselves, their sum is in double.
Chosen describe_choice(const float* logits, int32_t count, int32_t token);

}  // namespace edge_mtp
