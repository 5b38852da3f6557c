// How many drafts a step asks for and how many it verifies, from what they are believed to cost and to give; and when a
// step is taken to learn instead.
//
// A pure function with its state, as the controller is (controller.h); docs/controller.md says how and why.
#pragma once

#include <array>
#include <cstdint>

#include "acceptance.h"
#include "cost_model.h"
#include "plan.h"
#include "proposal.h"
#include "saved_text.h"

namespace edge_mtp {

class DraftChoice {
 public:
  // Starts a text. `novelty`: Acceptance::novelty().
  void begin(double novelty);

  // Controller's functions of these names say what these do.
  Plan plan(const CostModel& costs, const Acceptance& acceptance, int32_t position, int32_t most);
  int32_t trim(const CostModel& costs, const Acceptance& acceptance, int32_t position, const Proposal& proposal) const;
  static float rate(const CostModel& costs, const Acceptance& acceptance, int32_t position, const Proposal& proposal);

  bool explores() const { return exploring_; }  // whether the step under way is taken to learn

  // The confidences of what the drafter drafted in the step under way.
  void keep(const Proposal& proposal);
  // Settles a step that cost `spent_us` and gave `tokens`, where a plain one costs `plain_us`.
  void settle(double spent_us, double plain_us, double tokens);
  // A kind of invocation was found at its usual cost again.
  void look_again();

  void save(SavedWriter& text) const;
  void restore(SavedReader& text);

 private:
  static constexpr int32_t kRecent = 16;  // drafts whose confidences are kept
  struct Draft {
    int32_t count = 0;
    std::array<float, kMaxDrafts> confidence{};
  };
  // What is believed of the drafter at a step.
  struct Belief {
    Prices prices;
    Acceptance::ByPosition chance;
    Acceptance::Expected expected;
  };

  Acceptance::Expected trim_gain(const CostModel& costs, const Acceptance& acceptance, const Belief& belief) const;
  Plan choose(const CostModel& costs, const Acceptance& acceptance, int32_t most, const Belief& belief);
  void explore(const CostModel& costs, const Acceptance& acceptance, int32_t position, int32_t most,
               const Belief& belief, Plan& plan);
  void explore_drafting(const CostModel& costs, int32_t position, int32_t most, const Belief& belief, Plan& plan);
  void explore_further(const CostModel& costs, const Acceptance& acceptance, int32_t position, int32_t most,
                       const Belief& belief, Plan& plan);
  bool spend(int32_t drafts, double loss, double tokens_per_us, Plan& plan, double credit = 0.0);

  // This text.
  std::array<Draft, kRecent> drafts_;  // a ring
  int32_t drafts_seen_ = 0;
  int32_t current_ = -1;  // the draft length in use, -1 = none chosen yet
  double rate_ = 0.0;     // believed best, tokens per microsecond
  double budget_ = 0.0;   // plain steps that may be spent to learn
  double credit_ = 0.0;   // the part of it that a text starts with
  double ledger_ = 0.0;   // plain steps that believed plans have gained in this text; a loss uses up credit_
  double looks_ = 0.0;    // plain steps that may be spent to see whether costs are the usual ones again; of all texts

  // The step under way.
  bool exploring_ = false;
  bool force_ = false;    // it verifies whatever trim() believes, to learn its cost
  bool looking_ = false;  // it adds to looks_
};

}  // namespace edge_mtp
