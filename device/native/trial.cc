#include "trial.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <sstream>

namespace edge_mtp {
namespace {

constexpr float kTolerance = 0.2f;      // of the largest value: int8 on the CPU rounds activations, a GPU does not
constexpr float kNearlyLikely = 0.05f;  // of the largest logit
// Of a first draft, of published pairs; and how many judged drafts outweigh it.
constexpr double kFirstAcceptance = 0.74, kFirstWeight = 20.0;
// A step's later drafts are right less often than its first. With this factor one acceptance for all of them misjudges
// the better of two devices by no more than 4 %, of 4,000 random pairs (tests/oracle/test_accelerator_choice.py).
constexpr double kLaterDrafts = 0.95;

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

SpeedUp::SpeedUp(const Trial& reference, const Trial& found) {
  for (size_t i = 0; i < points_.size(); ++i) {
    const double acceptance = static_cast<double>(i) / static_cast<double>(points_.size() - 1);
    points_[i] = best_rate(found, acceptance) / best_rate(reference, acceptance);
  }
}

double SpeedUp::at(double acceptance) const {
  const double place = std::clamp(acceptance, 0.0, 1.0) * static_cast<double>(points_.size() - 1);
  const size_t below = std::min(static_cast<size_t>(place), points_.size() - 2);
  const double part = place - static_cast<double>(below);
  return (1.0 - part) * points_[below] + part * points_[below + 1];
}

std::string SpeedUp::text() const {
  std::string line;
  char number[32];
  for (const double point : points_) {
    std::snprintf(number, sizeof number, "%s%.4g", line.empty() ? "" : " ", point);
    line += number;
  }
  return line;
}

std::optional<SpeedUp> SpeedUp::read(const std::string& line) {
  SpeedUp found;
  std::istringstream numbers(line);
  for (double& point : found.points_) {
    if (!(numbers >> point) || !(point > 0.0) || !std::isfinite(point)) return std::nullopt;
  }
  std::string rest;
  if (numbers >> rest) return std::nullopt;
  return found;
}

double expected_acceptance(int64_t judged, int64_t right) {
  const double hits = static_cast<double>(right) + kFirstWeight * kFirstAcceptance;
  return kLaterDrafts * hits / (static_cast<double>(judged) + kFirstWeight);
}

}  // namespace edge_mtp
