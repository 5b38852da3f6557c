// The draft length of every step: never slower than plain decoding. docs/controller.md says how and why.
//
// A pure function with its state: no clock, no randomness, no allocation after construction (save() and restore()
// apart); the same observations give the same plans. Costs are in microseconds of wall time. One thread at a time.
// Its parts: what steps cost (cost_model.h), what drafts are worth (acceptance.h), what follows (draft_choice.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "acceptance.h"
#include "arms.h"
#include "cost_model.h"
#include "draft_choice.h"
#include "plan.h"
#include "proposal.h"

namespace edge_mtp {

class Controller {
 public:
  explicit Controller(const Capabilities& capabilities);

  // Starts a request: what is known of costs and acceptance stays, what was known of this text goes.
  void begin();

  // How many tokens to ask of the drafter at context position `position`, at most `most` (what the context, the
  // request and max_tokens leave).
  Plan plan(int32_t position, int32_t most) { return choice_.plan(costs_, acceptance_, position, most); }

  // How many leading drafts of `proposal` are worth verifying, 0 = none (a plain step). The drafting is paid for.
  // Either all of the proposal or as many as fill a verify graph, so that no row of it is idle.
  int32_t trim(int32_t position, const Proposal& proposal) const {
    return choice_.trim(costs_, acceptance_, position, proposal);
  }

  // Tokens a millisecond that verifying `proposal`, or a part of it, is believed to give now. For drafts that were free
  // to get (look-up, grammar): compare it with plan().tokens_per_ms, which counts the drafter's time.
  float rate(int32_t position, const Proposal& proposal) const {
    return DraftChoice::rate(costs_, acceptance_, position, proposal);
  }

  // What a step did. `drafter_k`: K that was asked of the drafter, 0 = it did not run. `rows`: of the graph that
  // ran, 1 = plain. `draft_us`: of the drafter; `rest_us`: all of the step but that.
  // `proposal`: best all that was proposed, trimmed away or not; the first rows - 1 of it were verified. `accepted`:
  // how many leading drafts equal the tokens that the step gave. The token after the last verified row counts too: it
  // is compared for free, so even a plain step after a draft tells whether the first draft was right. (A proposal
  // cut to what was verified, with `accepted` of that, is right too, and teaches less.)
  void observe(int32_t position, int32_t drafter_k, int32_t rows, const Proposal& proposal, int32_t accepted,
               double draft_us, double rest_us);

  // A cost measured outside any reply (at load): one invocation. rows = 0 means a drafter invocation of `k`.
  void calibrate(int32_t position, int32_t rows, int32_t k, double us) { costs_.calibrate(position, {rows, k, us}); }
  // Whether the remembered costs agree with those that were timed at load, the plain step first; if not, they are all
  // forgotten. A cost that is remembered as higher than it was timed counts as high for now only.
  using Timing = CostModel::Timing;  // as calibrate()'s arguments
  bool check(int32_t position, const std::vector<Timing>& timings) { return costs_.check(position, timings); }
  // What an invocation is believed to cost, microseconds; 0 = not known.
  double believed_us(int32_t position, int32_t rows, int32_t k) const { return costs_.believed_us(position, rows, k); }
  // Whether costs are known well enough to need no calibration: a plain step, two verify graphs with the widest
  // among them, and one drafter invocation, as far as the bundle has them.
  bool calibrated() const { return costs_.calibrated(); }

  // Of the drafter's first drafts that any text has judged, how many there were and how many were right (the latest
  // hundred thousand or so).
  int64_t first_drafts() const { return acceptance_.first_drafts(); }
  int64_t first_accepted() const { return acceptance_.first_accepted(); }
  // Adds those of a saved text to the counts. Returns false if it is none.
  static bool add_first_drafts(const std::string& saved, int64_t& judged, int64_t& right);

  // Text form, to be remembered per device, bundle, threads; restore() ignores (returns false) what does not fit.
  // Holds costs and, as a weak prior, acceptance; nothing of the running text.
  std::string save() const;
  bool restore(const std::string& text);

 private:
  explicit Controller(const Arms& arms);
  std::string header() const;  // of the saved text: format and bundle

  CostModel costs_;
  Acceptance acceptance_;
  DraftChoice choice_;
};

}  // namespace edge_mtp
