// The draft length of every step: never slower than plain decoding. docs/controller.md says how and why.
//
// A pure function with its state: no clock, no randomness, no allocation after construction; the same observations
// give the same plans. Costs are in microseconds of wall time.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "proposal.h"

namespace edge_mtp {

// What the bundle can do, and how.
struct Capabilities {
  std::vector<int32_t> draft_lengths;   // K of each drafter invocation, ascending; empty = no drafter
  std::vector<int32_t> verify_widths;   // T of each verify graph, ascending; T rows serve any 1..T-1 drafts
};

// What a controller decided before a step, and the estimates that made it; all of it goes into the trace.
struct Plan {
  int32_t drafts = 0;           // K to ask of the drafter; 0 = plain step
  bool explore = false;         // taken to learn, not because it is believed best
  float tokens_per_ms = 0.0f;   // believed of this plan
  float plain_tokens_per_ms = 0.0f;
};

class Controller {
 public:
  explicit Controller(const Capabilities& capabilities);

  // Starts a request: what is known of costs and acceptance stays, what was known of this text goes.
  void begin();

  // How many tokens to ask of the drafter at context position `position`, at most `most` (what the context, the
  // request and max_tokens leave).
  Plan plan(int32_t position, int32_t most);

  // How many leading drafts of `proposal` are worth verifying, 0 = none (a plain step). The drafting is paid for.
  int32_t trim(int32_t position, const Proposal& proposal) const;

  // What a step did. `drafter_k`: K that was asked of the drafter, 0 = it did not run. `rows`: of the graph that
  // ran, 1 = plain. `proposal`: what was verified, `accepted` of it. `rest_us`: all of the step but the drafter.
  void observe(int32_t position, int32_t drafter_k, int32_t rows, const Proposal& proposal, int32_t accepted,
               double draft_us, double rest_us);

  // A cost measured outside any reply (at load): one invocation. rows = 0 means a drafter invocation of `k`.
  void calibrate(int32_t position, int32_t rows, int32_t k, double us);
  // Whether costs are known well enough to need no calibration.
  bool calibrated() const;

  // Text form, to be remembered per device, bundle, threads; restore() ignores (returns false) what does not fit.
  std::string save() const;
  bool restore(const std::string& text);
};

}  // namespace edge_mtp
