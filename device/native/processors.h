// Logit processors, which change logits before a token is selected (docs/verify-op.md, processors 1 and 2).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "proposal.h"

namespace edge_mtp {

// They are applied in this order: bias, repetition penalty, presence and frequency penalties, suppression.
struct Processing {
  std::vector<std::pair<int32_t, float>> bias;  // added to the token's logit
  std::vector<int32_t> suppress;                // never selected: logit -inf
  // Divides a logit > 0, multiplies any other (CTRL, arXiv 1909.05858), for tokens in prompt or output.
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;   // subtracted once from tokens in the output so far
  float frequency_penalty = 0.0f;  // subtracted for each occurrence of a token in the output so far

  bool empty() const;
};

class Processors {
 public:
  explicit Processors(int32_t vocabulary);
  // Throws Error naming the value for an id outside the vocabulary, a value that is not finite, or a repetition penalty
  // <= 0. After this, nothing is allocated until the next begin().
  void begin(const Processing& processing, const std::vector<int32_t>& prompt);
  // Appends a token to the output. Throws Error for an id outside the vocabulary.
  void push(int32_t token);
  // Removes the last `count` pushed tokens (a draft's prefix); throws Error for more than the last kMaxDrafts.
  void pop(int32_t count);
  // Changes one row of logits [vocabulary] in place; touches only tokens named in the request or seen so far.
  void apply(float* logits) const;

 private:
  void check(int32_t token, const char* what) const;
  void add(int32_t token, int32_t in_output);

  const int32_t vocabulary_;
  Processing processing_;
  bool counts_tokens_ = false;  // whether any penalty is on; without one, no history is kept
  // The distinct tokens of prompt and output, in order of first use. Tokens are removed in reverse order, so a token
  // that no longer occurs is always the last one.
  std::vector<int32_t> seen_;
  std::vector<int32_t> in_text_, in_output_;  // [vocabulary]: counts in prompt and output, and in the output alone
  // A ring of the tokens that pop() may remove; the last `held_` before `pushed_` are valid.
  std::array<int32_t, kMaxDrafts + 1> recent_{};
  uint32_t pushed_ = 0;
  int32_t held_ = 0;
};

// A chosen token in its row of logits. Both values are finite for any row: they are limited to the range of a float.
struct Chosen {
  float logprob;  // log softmax of the row at the token
  float margin;   // the largest logit of the row minus the second largest, 0 on a tie
};
// For `token` in `logits` [count]. The exponentials have a relative error of 1e-7; their sum is in double.
Chosen describe_choice(const float* logits, int32_t count, int32_t token);

}  // namespace edge_mtp
