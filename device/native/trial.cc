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
// A step's later drafts are right less often than its first: this makes one acceptance for all of them.
constexpr double kLaterDrafts = 0.95;
constexpr double kPays = 1.02;  // rates, with drafts and without
constexpr double kHopedAcceptance = 0.9;

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
  for (size_t i = 0; i < found_.size(); ++i) {
    const double acceptance = static_cast<double>(i) / static_cast<double>(found_.size() - 1);
    reference_[i] = best_rate(reference, acceptance) * reference.plain_us / 1000.0;
    found_[i] = best_rate(found, acceptance) * reference.plain_us / 1000.0;
  }
}

double SpeedUp::at(const Points& points, double acceptance) {
  const double place = std::clamp(acceptance, 0.0, 1.0) * static_cast<double>(points.size() - 1);
  const size_t below = std::min(static_cast<size_t>(place), points.size() - 2);
  const double part = place - static_cast<double>(below);
  return (1.0 - part) * points[below] + part * points[below + 1];
}

std::string SpeedUp::text() const {
  std::string line;
  char number[32];
  for (const Points* points : {&reference_, &found_}) {
    for (const double point : *points) {
      std::snprintf(number, sizeof number, "%s%.4g", line.empty() ? "" : " ", point);
      line += number;
    }
  }
  return line;
}

std::optional<SpeedUp> SpeedUp::read(const std::string& line) {
  SpeedUp read;
  std::istringstream numbers(line);
  for (Points* points : {&read.reference_, &read.found_}) {
    for (double& point : *points) {
      if (!(numbers >> point) || !(point > 0.0) || !std::isfinite(point)) return std::nullopt;
    }
  }
  std::string rest;
  if (numbers >> rest) return std::nullopt;
  return read;
}

double expected_acceptance(const FirstDrafts& known) {
  const double hits = static_cast<double>(known.right) + kFirstWeight * kFirstAcceptance;
  return kLaterDrafts * hits / (static_cast<double>(known.judged) + kFirstWeight);
}

Taken take(const std::vector<SpeedUp>& others, const FirstDrafts& known) {
  const double acceptance = expected_acceptance(known);
  Taken fastest;
  double best = 1.0;
  for (size_t i = 0; i < others.size(); ++i) {
    const double times = others[i].times(acceptance);
    if (times <= best) continue;
    best = times;
    fastest.index = i + 1;
  }
  if (others.empty() || !known.decoded || static_cast<double>(known.judged) >= kFirstWeight) return fastest;

  // The controller drafts only where it expects drafts to pay. There they may turn out right more often than expected.
  const auto hoped = [&](const auto& rate) {
    return rate(acceptance) > kPays * rate(0.0) ? rate(kHopedAcceptance) : rate(0.0);
  };
  Taken hopeful;
  best = hoped([&](double at) { return others.front().reference(at); });
  for (size_t i = 0; i < others.size(); ++i) {
    const double rate = hoped([&](double at) { return others[i].found(at); });
    if (rate <= best) continue;
    best = rate;
    hopeful.index = i + 1;
  }
  hopeful.to_learn = hopeful.index != fastest.index;
  return hopeful;
}

}  // namespace edge_mtp
