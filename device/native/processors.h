// Logit processors: what changes logits before a token is selected (docs/verify-op.md, processors 1 and 2).
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace edge_mtp {

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
  // Throws Error naming the value: an id outside the vocabulary, a value that is not finite, a penalty <= 0.
  void begin(const Processing& processing, const std::vector<int32_t>& prompt);
  // The next token of the history (of the output).
  void push(int32_t token);
  // Takes back the last `count` pushed tokens (a draft's prefix).
  void pop(int32_t count);
  // Applies to one row of logits [vocabulary], in place.
  void apply(float* logits) const;
};

// log softmax of `logits` [count] at `token`, in double; and the largest logit minus the second largest.
struct Chosen {
  float logprob, margin;
};
Chosen describe_choice(const float* logits, int32_t count, int32_t token);

}  // namespace edge_mtp
