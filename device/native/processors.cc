#include "processors.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "error.h"

namespace edge_mtp {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();

void check_finite(float value, const char* name) {
  if (!std::isfinite(value)) {
    throw Error(std::string("'") + name + "' is " + std::to_string(value) + "; give a finite number");
  }
}

// exp(x) for -87 <= x <= 0: 2^n times a polynomial of the rest, |rest| <= ln(2)/2. Without branches or calls, so that
// loops over it become vector code. The coefficients are Taylor's; the degree leaves 7e-9 of the value.
inline float exp_of_negative(float x) {
  constexpr float kRound = 0x1.8p23f;  // adding and taking it away rounds to the nearest integer
  const float n = (x * 1.44269504f + kRound) - kRound;
  const float rest = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts (Cody and Waite)
  float sum = 1.0f / 5040;
  for (const float coefficient : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 1.0f / 2, 1.0f, 1.0f}) {
    sum = sum * rest + coefficient;
  }
  const int32_t power = (static_cast<int32_t>(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &power, sizeof scale);
  return sum * scale;
}

}  // namespace

bool Processing::empty() const {
  return bias.empty() && suppress.empty() && repetition_penalty == 1.0f && presence_penalty == 0.0f &&
         frequency_penalty == 0.0f;
}

Processors::Processors(int32_t vocabulary) : vocabulary_(vocabulary) {}

void Processors::check(int32_t token, const char* what) const {
  if (token < 0 || token >= vocabulary_) {
    throw Error(std::string(what) + " token " + std::to_string(token) + " is outside the vocabulary of " +
                std::to_string(vocabulary_));
  }
}

void Processors::begin(const Processing& processing, const std::vector<int32_t>& prompt) {
  for (const auto& [token, bias] : processing.bias) {
    check(token, "logit_bias:");
    check_finite(bias, "logit_bias");
  }
  for (const int32_t token : processing.suppress) check(token, "suppress:");
  if (!(processing.repetition_penalty > 0.0f)) {
    throw Error("'repetition_penalty' is " + std::to_string(processing.repetition_penalty) +
                "; give a number above 0, 1 for none");
  }
  check_finite(processing.repetition_penalty, "repetition_penalty");
  check_finite(processing.presence_penalty, "presence_penalty");
  check_finite(processing.frequency_penalty, "frequency_penalty");
  for (const int32_t token : prompt) check(token, "prompt:");

  for (const int32_t token : seen_) in_text_[token] = in_output_[token] = 0;
  seen_.clear();
  pushed_ = 0;
  held_ = 0;
  processing_ = processing;
  counts_tokens_ = processing.repetition_penalty != 1.0f || processing.presence_penalty != 0.0f ||
                   processing.frequency_penalty != 0.0f;
  if (!counts_tokens_) return;
  const auto vocabulary = static_cast<size_t>(vocabulary_);
  in_text_.resize(vocabulary);
  in_output_.resize(vocabulary);
  seen_.reserve(vocabulary);
  for (const int32_t token : prompt) add(token, 0);
}

void Processors::add(int32_t token, int32_t in_output) {
  if (in_text_[token]++ == 0) seen_.push_back(token);
  in_output_[token] += in_output;
}

void Processors::push(int32_t token) {
  check(token, "output:");
  if (counts_tokens_) add(token, 1);
  recent_[pushed_++ % recent_.size()] = token;
  held_ = std::min(held_ + 1, kMaxDrafts);
}

void Processors::pop(int32_t count) {
  if (count < 0 || count > held_) {
    throw Error("cannot take back " + std::to_string(count) + " tokens; at most " + std::to_string(held_) + " are held");
  }
  held_ -= count;
  for (; count > 0; --count) {
    const int32_t token = recent_[--pushed_ % recent_.size()];
    if (!counts_tokens_) continue;
    --in_output_[token];
    if (--in_text_[token] == 0) seen_.pop_back();
  }
}

void Processors::apply(float* logits) const {
  for (const auto& [token, bias] : processing_.bias) logits[token] += bias;
  if (const float penalty = processing_.repetition_penalty; penalty != 1.0f) {
    for (const int32_t token : seen_) {
      const float logit = logits[token];
      logits[token] = logit > 0.0f ? logit / penalty : logit * penalty;
    }
  }
  const double presence = processing_.presence_penalty, frequency = processing_.frequency_penalty;
  if (presence != 0.0 || frequency != 0.0) {
    for (const int32_t token : seen_) {
      if (in_output_[token] == 0) continue;
      // The product is exact in double: whether a compiler fuses it with the sum changes nothing.
      logits[token] = static_cast<float>(logits[token] - (frequency * in_output_[token] + presence));
    }
  }
  for (const int32_t token : processing_.suppress) logits[token] = -kInfinity;
}

Chosen describe_choice(const float* logits, int32_t count, int32_t token) {
  // Lanes of their own for each maximum and sum: the order of operations is then fixed, and wide registers can be used.
  constexpr int32_t kLanes = 16;
  const int32_t whole = count - count % kLanes;
  float tops[kLanes], seconds[kLanes];
  std::fill_n(tops, kLanes, -kInfinity);
  std::fill_n(seconds, kLanes, -kInfinity);
  const auto rank = [&](int32_t lane, float logit) {
    const float lower = logit < tops[lane] ? logit : tops[lane];
    seconds[lane] = lower > seconds[lane] ? lower : seconds[lane];
    tops[lane] = logit > tops[lane] ? logit : tops[lane];
  };
  for (int32_t i = 0; i < whole; i += kLanes) {
    for (int32_t lane = 0; lane < kLanes; ++lane) rank(lane, logits[i + lane]);
  }
  for (int32_t i = whole; i < count; ++i) rank(0, logits[i]);
  for (int32_t lane = 1; lane < kLanes; ++lane) {
    rank(0, tops[lane]);
    rank(0, seconds[lane]);
  }
  const float top = tops[0], second = seconds[0];
  const float margin = top == second ? 0.0f : std::min(top - second, kLargest);

  const float lowest = -87.0f;  // below it floats lose bits; 2^18 such tokens weigh 1e-32 of the largest
  const auto weight = [&](float logit) {
    const float below = logit == top ? 0.0f : logit - top;  // settles top = +inf
    return static_cast<double>(exp_of_negative(below < lowest ? lowest : below));
  };
  double sums[kLanes] = {};
  for (int32_t i = 0; i < whole; i += kLanes) {
    for (int32_t lane = 0; lane < kLanes; ++lane) sums[lane] += weight(logits[i + lane]);
  }
  for (int32_t i = whole; i < count; ++i) sums[0] += weight(logits[i]);
  double total = 0.0;
  for (const double sum : sums) total += sum;
  const double below = logits[token] == top ? 0.0 : static_cast<double>(logits[token]) - top;
  return {static_cast<float>(std::max(below - std::log(total), -static_cast<double>(kLargest))), margin};
}

}  // namespace edge_mtp
