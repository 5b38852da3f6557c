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

// Four lanes in the compiler's own vector type, so that the order of operations is fixed and no loop depends on
// auto-vectorization.
constexpr int32_t kLanes = 4;
typedef float Floats __attribute__((vector_size(16)));
typedef int32_t Integers __attribute__((vector_size(16)));
typedef double Doubles __attribute__((vector_size(32)));

Floats load(const float* at) {
  Floats lanes;
  std::memcpy(&lanes, at, sizeof lanes);
  return lanes;
}

Floats all(float value) { return Floats{value, value, value, value}; }

// The two largest values that each lane has seen.
struct Top {
  Floats first = all(-kInfinity), second = all(-kInfinity);

  void see(Floats value) {
    const Floats lower = value < first ? value : first;
    second = lower > second ? lower : second;
    first = value > first ? value : first;
  }
};

// exp(x) for x <= 0, and exp(-87) below -87, where floats begin to lose bits: 2^n times a polynomial of the rest,
// |rest| <= ln(2)/2. The coefficients are Taylor's; the relative error of this degree is 7e-9.
Floats exp_of_negative(Floats x) {
  x = x < all(-87.0f) ? all(-87.0f) : x;
  const Floats round = all(0x1.8p23f);  // adding and subtracting it leaves the nearest integer
  const Floats n = (x * 1.44269504f + round) - round;
  const Floats rest = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts (Cody and Waite)
  Floats sum = all(1.0f / 5040);
  sum = sum * rest + 1.0f / 720;
  sum = sum * rest + 1.0f / 120;
  sum = sum * rest + 1.0f / 24;
  sum = sum * rest + 1.0f / 6;
  sum = sum * rest + 1.0f / 2;
  sum = sum * rest + 1.0f;
  sum = sum * rest + 1.0f;
  const Integers power = (__builtin_convertvector(n, Integers) + 127) << 23;
  Floats scale;
  std::memcpy(&scale, &power, sizeof scale);
  return sum * scale;
}

// The sum of exp(logit - top) over a row whose largest logit, `top`, is finite.
double sum_of_weights(const float* logits, int32_t count, float top) {
  Doubles sums = {};
  int32_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    sums += __builtin_convertvector(exp_of_negative(load(logits + i) - top), Doubles);
  }
  double total = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  for (; i < count; ++i) total += exp_of_negative(all(logits[i] - top))[0];
  return total;
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
      // The product is exact in double, so it does not matter whether a compiler fuses it with the sum.
      logits[token] = static_cast<float>(logits[token] - (frequency * in_output_[token] + presence));
    }
  }
  for (const int32_t token : processing_.suppress) logits[token] = -kInfinity;
}

Chosen describe_choice(const float* logits, int32_t count, int32_t token) {
  Top lanes;
  int32_t i = 0;
  for (; i + kLanes <= count; i += kLanes) lanes.see(load(logits + i));
  Top one;  // all lanes have the same values
  for (int32_t lane = 0; lane < kLanes; ++lane) {
    one.see(all(lanes.first[lane]));
    one.see(all(lanes.second[lane]));
  }
  for (; i < count; ++i) one.see(all(logits[i]));
  const float top = one.first[0], second = one.second[0], logit = logits[token];

  // If the largest logit is +inf, the choice is among the tokens with +inf.
  const double total = top == kInfinity ? static_cast<double>(std::count(logits, logits + count, top))
                                        : sum_of_weights(logits, count, top);
  const double below = logit == top ? 0.0 : static_cast<double>(logit) - top;
  return {static_cast<float>(std::max(below - std::log(total), -static_cast<double>(kLargest))),
          top == second ? 0.0f : std::min(top - second, kLargest)};
}

}  // namespace edge_mtp
