// How likely a draft is right: estimated by its position in the drafts and by its source's confidence.
//
// A pure function with its state, as the controller is (controller.h); docs/controller.md says how and why. A chance is
// always that of a draft whose predecessors in the step are right.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "proposal.h"
#include "saved_text.h"

namespace edge_mtp {

class Acceptance {
 public:
  static constexpr size_t kBins = 8;  // of a draft's confidence
  using ByPosition = std::array<double, kMaxDrafts>;
  using Expected = std::array<double, kMaxDrafts + 1>;

  explicit Acceptance(int32_t longest);  // the most drafts that a step of the bundle verifies

  // Starts a text: what other texts taught stays, what was known of this one goes into it.
  void begin();

  // What a step taught: the leading `accepted` drafts were right and the next was wrong, as far as one draft behind the
  // `verified`. `drafted`: the drafter ran.
  void observe(const Proposal& proposal, bool drafted, int32_t verified, int32_t accepted);

  // The chance of the drafter's draft at each position.
  ByPosition by_position() const;
  // [k]: tokens of a step with k drafts.
  Expected expected(const ByPosition& chance) const;
  // The chance of a draft whose confidence is in `bin`.
  double by_confidence(Source source, size_t bin) const;
  static size_t bin_of(float confidence);
  // How far the drafter's confidence is believed, 0 to 1: more, the less it errs than the draft's position does.
  double trust() const;
  // The chance of draft `i` of a proposal. The drafter's draft has `at_position` by its position; `trust` is trust().
  double chance(const Proposal& proposal, int32_t i, double at_position, double trust) const;

  // How little is known of other texts: 1 = nothing, towards 0 with each.
  double novelty() const;
  // How many drafts at position `i` this text has judged lately, discounted.
  double recent_trials(int32_t i) const { return recent_[static_cast<size_t>(i)].trials; }
  // The drafter's first drafts of all texts that were judged, and those that were right.
  int64_t first_drafts() const { return static_cast<int64_t>(first_.trials); }
  int64_t first_accepted() const { return static_cast<int64_t>(first_.hits); }

  // First drafts, errors and counts are apart in the saved text, which is saved at a text's start.
  void save_first(SavedWriter& text) const;
  void save_errors(SavedWriter& text) const;
  void save_counts(SavedWriter& text) const;
  void restore_first(SavedReader& text);
  void restore_errors(SavedReader& text);
  void restore_counts(SavedReader& text);

 private:
  // Successes and trials; old ones are discounted.
  struct Count {
    double hits = 0.0, trials = 0.0;
    void add(double hit, double weight, double keep);
    void scale(double factor);
    double mean(double prior, double weight) const { return (hits + weight * prior) / (trials + weight); }
    void save(SavedWriter& text) const;
    void restore(SavedReader& text, double most);
  };
  // How this text departs from what a source's confidence says.
  struct Shift {
    double hits = 0.0, misses = 0.0, expected_hits = 0.0, expected_misses = 0.0;
    void add(double hit, double expected);
    double odds() const;
  };

  double usual(Source source, size_t bin) const;
  bool turned_easier(double hit, double believed);

  int32_t longest_;

  // All texts.
  std::array<Count, kMaxDrafts> memory_;  // by draft position
  Count first_;                           // of first drafts, not discounted
  std::array<std::array<Count, kBins>, kSources> bins_;
  double confidence_error_ = 0.0, position_error_ = 0.0;  // squares, discounted: which of the two foretells a draft

  // This text.
  std::array<Count, kMaxDrafts> recent_;  // by draft position, discounted
  std::array<Count, kMaxDrafts> whole_;   // by draft position, for memory_
  std::array<Shift, kSources> shift_;
  double turn_ = 0.0;  // evidence that the text has become easier
};

}  // namespace edge_mtp
