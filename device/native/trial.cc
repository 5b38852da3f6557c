#include "trial.h"

#include <algorithm>
#include <cmath>

namespace edge_mtp {
namespace {

constexpr float kTolerance = 0.2f;      // of the largest value: int8 on the CPU rounds activations, a GPU does not
constexpr float kNearlyLikely = 0.05f;  // of the largest logit

std::string difference(const Trial::Output& reference, const Trial::Output& found, int32_t vocabulary) {
  if (reference.values.size() != found.values.size()) return found.name + " have another size";
  float largest = 0.0f, apart = 0.0f;
  for (size_t i = 0; i < found.values.size(); ++i) {
    if (!std::isfinite(found.values[i])) return found.name + " are not finite";
    largest = std::max(largest, std::abs(reference.values[i]));
    apart = std::max(apart, std::abs(reference.values[i] - found.values[i]));
  }
  if (apart > kTolerance * largest) {
    return found.name + " differ by " + std::to_string(apart) + " of " + std::to_string(largest);
  }
  if (!found.is_logits) return {};
  const auto width = static_cast<size_t>(vocabulary);
  for (size_t row = 0; row < found.values.size() / width; ++row) {
    const float *right = reference.values.data() + row * width, *ours = found.values.data() + row * width;
    const float chosen = right[std::max_element(ours, ours + width) - ours];
    if (*std::max_element(right, right + width) - chosen > kNearlyLikely * largest) {
      return found.name + " choose another token in row " + std::to_string(row);
    }
  }
  return {};
}

}  // namespace

std::string difference(const Trial& reference, const Trial& found, int32_t vocabulary) {
  if (!found.fault.empty()) return found.fault;
  if (reference.outputs.size() != found.outputs.size()) return "it has other passes";
  for (size_t i = 0; i < found.outputs.size(); ++i) {
    const std::string told = difference(reference.outputs[i], found.outputs[i], vocabulary);
    if (!told.empty()) return told;
  }
  return {};
}

double best_rate(const Trial& trial, double acceptance) {
  double best = 1000.0 / trial.plain_us;
  for (const auto& [length, draft_us] : trial.draft_us) {
    const auto verify = trial.verify_us.lower_bound(length + 1);
    if (verify == trial.verify_us.end()) continue;
    double tokens = 1.0, right = 1.0;
    for (int32_t i = 0; i < length; ++i) tokens += right *= acceptance;
    best = std::max(best, 1000.0 * tokens / (draft_us + verify->second));
  }
  return best;
}

}  // namespace edge_mtp
