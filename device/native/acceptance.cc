#include "acceptance.h"

#include <algorithm>
#include <cmath>

namespace edge_mtp {
namespace {

constexpr double kFirst = 0.7, kLater = 0.98;  // believed of a new drafter's first draft; of each next one, times this
constexpr double kPriorWeight = 2.0;
constexpr double kKeepRecent = 0.98;  // in a step: the text of the last 25 drafts counts
constexpr double kMemoryPrior = 16.0, kMemoryText = 8.0, kMemoryMost = 32.0;  // drafts that weigh like that many
constexpr double kKeepBin = 0.99, kBinWeight = 4.0, kForcedWeight = 20.0;
constexpr double kKeepShift = 0.95, kShiftWeight = 1.5;
constexpr std::array<float, 7> kBinEdges = {0.1f, 0.25f, 0.4f, 0.55f, 0.7f, 0.85f, 0.95f};
constexpr double kLeastOdds = 1e-3;
// The squared errors of a new drafter, by confidence and by position, and the number of drafts that they weigh like.
// Confidence alone is believed once its error is smaller by the share 1 / kTrustSkill.
constexpr double kErrorWeight = 6.0, kFirstConfidenceError = 0.16, kFirstPositionError = 0.24, kTrustSkill = 2.5;
constexpr double kMostFirst = 1e5;            // first drafts: beyond, half of the count is forgotten
constexpr double kTurn = 3.5, kTurnKeeps = 2.0;  // log likelihood ratio of a text that became easier; drafts kept then
constexpr double kBlend = 0.5;                // of a trusted confidence in what a draft tells of its text
constexpr double kMostTrials = 1.0 / (1.0 - kKeepBin) + 1.0;  // that a discounted count can reach

static_assert(kBinEdges.size() + 1 == Acceptance::kBins);

double odds(double p) {
  p = std::clamp(p, kLeastOdds, 1.0 - kLeastOdds);
  return p / (1.0 - p);
}

double probability(double ratio) { return ratio / (1.0 + ratio); }

// What a source's confidence is taken for before any of its drafts was judged: the middle of the bin, drawn in a bit.
double bin_prior(Source source, size_t bin) {
  if (source == Source::kGrammar) return 0.97;
  const double low = bin == 0 ? 0.0 : static_cast<double>(kBinEdges[bin - 1]);
  const double high = bin == kBinEdges.size() ? 1.0 : static_cast<double>(kBinEdges[bin]);
  return 0.05 + 0.9 * (low + high) / 2.0;
}

double bin_weight(Source source) { return source == Source::kGrammar ? kForcedWeight : kBinWeight; }

}  // namespace

void Acceptance::Count::add(double hit, double weight, double keep) {
  hits = hits * keep + hit * weight;
  trials = trials * keep + weight;
}

void Acceptance::Count::scale(double factor) {
  hits *= factor;
  trials *= factor;
}

void Acceptance::Shift::add(double hit, double expected) {
  hits = hits * kKeepShift + hit;
  misses = misses * kKeepShift + 1.0 - hit;
  expected_hits = expected_hits * kKeepShift + expected;
  expected_misses = expected_misses * kKeepShift + 1.0 - expected;
}

double Acceptance::Shift::odds() const {
  return ((hits + kShiftWeight) / (expected_hits + kShiftWeight)) /
         ((misses + kShiftWeight) / (expected_misses + kShiftWeight));
}

Acceptance::Acceptance(int32_t longest) : longest_(longest) {}

void Acceptance::begin() {
  if (first_.trials > kMostFirst) first_ = {std::floor(first_.hits / 2.0), std::floor(first_.trials / 2.0)};
  for (size_t j = 0; j < kMaxDrafts; ++j) {
    Count& memory = memory_[j];
    const Count& text = whole_[j];
    if (text.trials > 0.0) {
      const double weight = std::min(1.0, kMemoryText / text.trials);
      memory.hits += text.hits * weight;
      memory.trials += text.trials * weight;
      memory.scale(std::min(1.0, kMemoryMost / memory.trials));
    }
  }
  whole_ = {};
  recent_ = {};
  shift_ = {};
  turn_ = 0.0;
}

double Acceptance::novelty() const { return kMemoryPrior / (kMemoryPrior + memory_.front().trials); }

// ---- estimates ----------------------------------------------------------------------------------------------------

// A position's prior is what other texts taught, moved as far as this text has moved the position before it: texts are
// easy or hard as a whole.
Acceptance::ByPosition Acceptance::by_position() const {
  ByPosition chance{};
  double start = kFirst, moved_memory = 1.0, moved = 1.0;
  for (size_t j = 0; j < static_cast<size_t>(longest_); ++j, start *= kLater) {
    const double usual = memory_[j].mean(probability(odds(start) * moved_memory), kMemoryPrior);
    moved_memory = odds(usual) / odds(start);
    const double known = memory_[j].trials / (memory_[j].trials + kMemoryPrior);
    chance[j] = recent_[j].mean(probability(odds(usual) * moved), kPriorWeight * (1.0 + known));
    moved = odds(chance[j]) / odds(usual);
  }
  return chance;
}

Acceptance::Expected Acceptance::expected(const ByPosition& chance) const {
  Expected tokens{};
  double reach = 1.0;
  tokens[0] = 1.0;
  for (size_t j = 0; j < static_cast<size_t>(longest_); ++j) tokens[j + 1] = tokens[j] + (reach *= chance[j]);
  return tokens;
}

size_t Acceptance::bin_of(float confidence) {
  if (!(confidence >= 0.0f)) return 0;
  return static_cast<size_t>(std::upper_bound(kBinEdges.begin(), kBinEdges.end(), confidence) - kBinEdges.begin());
}

// What drafts of this confidence were worth in all texts.
double Acceptance::usual(Source source, size_t bin) const {
  return bins_[static_cast<size_t>(source)][bin].mean(bin_prior(source, bin), bin_weight(source));
}

double Acceptance::by_confidence(Source source, size_t bin) const {
  return probability(odds(usual(source, bin)) * shift_[static_cast<size_t>(source)].odds());
}

double Acceptance::trust() const {
  const double skill = 1.0 - (confidence_error_ + kErrorWeight * kFirstConfidenceError) /
                                 (position_error_ + kErrorWeight * kFirstPositionError);
  return std::clamp(kTrustSkill * skill, 0.0, 1.0);
}

double Acceptance::chance(const Proposal& proposal, int32_t i, double at_position, double trust) const {
  const auto at = static_cast<size_t>(i);
  const double confident = by_confidence(proposal.source[at], bin_of(proposal.confidence[at]));
  if (proposal.source[at] != Source::kDrafter) return confident;
  return trust * confident + (1.0 - trust) * at_position;
}

// ---- learning -----------------------------------------------------------------------------------------------------

void Acceptance::observe(const Proposal& proposal, bool drafted, int32_t verified, int32_t accepted) {
  if (drafted) {
    for (Count& count : recent_) count.scale(kKeepRecent);
  }
  const ByPosition chances = by_position();
  const double trusted = trust();
  size_t drafter_position = 0;
  const int32_t last = std::min({accepted, verified, proposal.count - 1});
  for (int32_t i = 0; i <= last; ++i) {
    const auto at = static_cast<size_t>(i);
    const Source source = proposal.source[at];
    const auto from = static_cast<size_t>(source);
    const double hit = i < accepted ? 1.0 : 0.0;
    const size_t bin = bin_of(proposal.confidence[at]);
    const double expected = by_confidence(source, bin);
    shift_[from].add(hit, usual(source, bin));
    bins_[from][bin].add(hit, 1.0, kKeepBin);
    if (source != Source::kDrafter) continue;
    if (i == 0) {
      first_.add(hit, 1.0, 1.0);
      if (turned_easier(hit, chances[0])) {
        for (Count& count : recent_) count.scale(kTurnKeeps / std::max(kTurnKeeps, count.trials));
        shift_[from] = {};
      }
    }
    const double position_error = hit - chances[drafter_position], confidence_error = hit - expected;
    position_error_ = position_error_ * kKeepBin + position_error * position_error;
    confidence_error_ = confidence_error_ * kKeepBin + confidence_error * confidence_error;
    // A draft that is right half the time tells little by being right; a trusted confidence tells more.
    const double blend = kBlend * trusted;
    recent_[drafter_position].add((1.0 - blend) * hit + blend * expected, 1.0 + trusted, 1.0);
    whole_[drafter_position++].add(hit, 1.0, 1.0);
  }
}

// Whether a text that is half way to certain explains the last first drafts, of which this one was right or not, better
// than what is believed of this text (Page, "Continuous inspection schemes", 1954). A hard text is drafted seldom: its
// few drafts must not have to outweigh all drafts before them.
bool Acceptance::turned_easier(double hit, double believed) {
  const double p = std::clamp(believed, 0.01, 0.99), easier = 0.5 + p / 2.0;
  turn_ = std::max(0.0, turn_ + (hit > 0.0 ? std::log(easier / p) : std::log((1.0 - easier) / (1.0 - p))));
  if (turn_ < kTurn) return false;
  turn_ = 0.0;
  return true;
}

// ---- memory -------------------------------------------------------------------------------------------------------

void Acceptance::Count::save(SavedWriter& text) const {
  text.put(hits);
  text.put(trials);
}

void Acceptance::Count::restore(SavedReader& text, double most) {
  hits = text.get(0.0, most);
  trials = text.get(hits, most);
}

void Acceptance::save_first(SavedWriter& text) const {
  text.put_count(first_drafts());
  text.put_count(first_accepted());
}

void Acceptance::restore_first(SavedReader& text) {
  first_.trials = static_cast<double>(text.get_count(2.0 * kMostFirst));
  first_.hits = static_cast<double>(text.get_count(2.0 * kMostFirst));
  text.require(first_.hits <= first_.trials);
}

void Acceptance::save_errors(SavedWriter& text) const {
  text.put(confidence_error_);
  text.put(position_error_);
}

void Acceptance::restore_errors(SavedReader& text) {
  confidence_error_ = text.get(0.0, kMostTrials);
  position_error_ = text.get(0.0, kMostTrials);
}

void Acceptance::save_counts(SavedWriter& text) const {
  for (const Count& count : memory_) count.save(text);
  for (const auto& source : bins_) {
    for (const Count& count : source) count.save(text);
  }
}

void Acceptance::restore_counts(SavedReader& text) {
  for (Count& count : memory_) count.restore(text, kMemoryMost);
  for (auto& source : bins_) {
    for (Count& count : source) count.restore(text, kMostTrials);
  }
}

}  // namespace edge_mtp
