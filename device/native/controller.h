// The draft length of every step: never slower than plain decoding. docs/controller.md says how and why.
//
// A pure function with its state: no clock, no randomness, no allocation after construction (save() and restore()
// apart); the same observations give the same plans. Costs are in microseconds of wall time. One thread at a time.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "proposal.h"

namespace edge_mtp {

// What the bundle can do, and how. Entries that no step can use (a graph wider than kMaxDrafts + 1 rows, a draft
// length that no verify graph holds) are left aside.
struct Capabilities {
  std::vector<int32_t> draft_lengths;  // K of each drafter invocation, ascending; empty = no drafter
  std::vector<int32_t> verify_widths;  // T of each verify graph, ascending; T rows serve any 1..T-1 drafts
};

// What a controller decided before a step, and the estimates that made it; all of it goes into the trace.
struct Plan {
  // K to ask of the drafter: one of draft_lengths, or 0 = a plain step. Without a drafter: how many free drafts
  // (look-up, grammar) are welcome at most. Free drafts may be proposed beside any plan; trim() judges them.
  int32_t drafts = 0;
  bool explore = false;         // taken to learn, not because it is believed best
  float tokens_per_ms = 0.0f;   // believed of this plan; 0 = nothing known yet
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
  // Either all of the proposal or as many as fill a verify graph, so that no row of it is idle.
  int32_t trim(int32_t position, const Proposal& proposal) const;

  // Tokens a millisecond that verifying `proposal`, or a part of it, is believed to give now; drafts that were free to
  // get (look-up, grammar) compare with plan().tokens_per_ms, which counts the drafter's time.
  float rate(int32_t position, const Proposal& proposal) const;

  // What a step did. `drafter_k`: K that was asked of the drafter, 0 = it did not run. `rows`: of the graph that
  // ran, 1 = plain. `draft_us`: of the drafter; `rest_us`: all of the step but that.
  // `proposal`: best all that was proposed, trimmed away or not; the first rows - 1 of it were verified. `accepted`:
  // how many leading drafts equal the tokens that the step gave, the one after the last verified row included: it
  // is compared for free, so even a plain step after a draft tells whether the first draft was right. (A proposal
  // cut to what was verified, with `accepted` of that, is right too, and teaches less.)
  void observe(int32_t position, int32_t drafter_k, int32_t rows, const Proposal& proposal, int32_t accepted,
               double draft_us, double rest_us);

  // A cost measured outside any reply (at load): one invocation. rows = 0 means a drafter invocation of `k`.
  void calibrate(int32_t position, int32_t rows, int32_t k, double us);
  // Whether what is remembered agrees with what was timed at load, the plain step first; costs that do not are forgotten.
  // What is dearer than it was timed is believed to be so for now.
  struct Timing {
    int32_t rows, k;  // as calibrate()'s
    double us;
  };
  bool check(int32_t position, const std::vector<Timing>& timings);
  // What an invocation is believed to cost, microseconds; 0 = not known.
  double believed_us(int32_t position, int32_t rows, int32_t k) const;
  // Whether costs are known well enough to need no calibration: a plain step, two verify graphs with the widest
  // among them, and one drafter invocation, as far as the bundle has them.
  bool calibrated() const;

  // Of the drafter's first drafts that any text has judged, how many there were and how many were right (the latest
  // hundred thousand or so).
  int64_t first_drafts() const { return static_cast<int64_t>(first_.trials); }
  int64_t first_accepted() const { return static_cast<int64_t>(first_.hits); }

  // Text form, to be remembered per device, bundle, threads; restore() ignores (returns false) what does not fit.
  // Holds costs and, as a weak prior, acceptance; nothing of the running text.
  std::string save() const;
  bool restore(const std::string& text);

 private:
  static constexpr int32_t kBuckets = 32;      // of context positions, by powers of two
  static constexpr int32_t kBins = 8;          // of a draft's confidence
  static constexpr int32_t kRecent = 16;       // drafts whose confidences are kept
  static constexpr int32_t kMostArms = 1 + 2 * kMaxDrafts;

  // What an invocation costs is exp(heat_ + the graph's mean) microseconds; of a plain step, arm 0, exp(heat_).
  enum Kind { kPlain, kVerify, kDraft };
  static constexpr int32_t kKinds = 3;
  struct Estimate {
    double mean = 0.0;
    double variance = -1.0;  // when its clock was `seen`; negative = never measured
    double seen = 0.0;
    bool known() const { return variance >= 0.0; }
    double at(double clock) const;  // the variance when its clock has moved on
  };
  // A graph in this text and context: its mean at the start, and how often it ran.
  struct Stay {
    double start = 0.0;
    int32_t runs = 0;
  };
  // Of all invocations of a kind: the variance that they have in common.
  struct Level : Estimate {
    Level();
    double excess = 0.0;    // how far the kind now costs more than it usually does
    int32_t surprises = 0;  // measurements in a row that were far above what was expected
  };
  // Successes and trials, old ones discounted.
  struct Count {
    double hits = 0.0, trials = 0.0;
    void add(double hit, double weight, double keep);
    double mean(double prior, double weight) const { return (hits + weight * prior) / (trials + weight); }
  };
  // Believed costs at a position. verify_us[n]: the step without the drafter, for n drafts; [0] = plain.
  struct Prices {
    std::array<double, kMaxDrafts + 1> verify_us, draft_us;
  };
  struct Draft {
    int32_t count = 0;
    std::array<float, kMaxDrafts> confidence{};
  };

  int32_t arm_of_rows(int32_t rows) const;  // -1 = the bundle has no such graph
  int32_t arm_of_draft(int32_t k) const;
  int32_t rows_for(int32_t drafts) const;   // of the narrowest graph that holds them, 0 = none
  int32_t bucket_of(int32_t position) const;
  const Estimate& cost(int32_t bucket, int32_t arm) const { return costs_[static_cast<size_t>(bucket * arms_ + arm)]; }
  Estimate& cost(int32_t bucket, int32_t arm) { return costs_[static_cast<size_t>(bucket * arms_ + arm)]; }
  int32_t nearest_touched(int32_t bucket) const;  // -1 = none
  int32_t touch(int32_t position);
  Kind kind_of(int32_t arm) const;
  int32_t rows_of(int32_t arm) const { return arm == 0 ? 1 : widths_[static_cast<size_t>(arm - 1)]; }
  int32_t draft_of(int32_t arm) const { return lengths_[static_cast<size_t>(arm - 1) - widths_.size()]; }
  const Level& level(int32_t position, Kind kind) const;
  double& spread(int32_t i, int32_t j) { return covariance_[static_cast<size_t>(i * arms_ + j)]; }
  double spread(int32_t i, int32_t j) const { return covariance_[static_cast<size_t>(i * arms_ + j)]; }
  void enter(int32_t bucket, bool from_another);
  void leave();
  void loosen(Kind kind, double variance, bool seen);
  double doubt(Kind kind) const;
  double believed_us(int32_t bucket, int32_t arm) const;
  void measure(int32_t position, int32_t arm, double us);
  void set_plain(double log_us);
  void forget_costs();
  Prices prices(int32_t position) const;

  // By position or number of drafts, up to longest_.
  using Accept = std::array<double, kMaxDrafts>;
  using Expected = std::array<double, kMaxDrafts + 1>;
  void fill_accept(Accept& accept) const;
  void fill_expected(const Accept& accept, Expected& expected) const;
  double accept_confidence(Source source, float confidence) const;
  double accept_bin(Source source, size_t bin) const;
  double trust() const;
  double accept(const Proposal& proposal, int32_t i, double at_position, double trust) const;
  bool turned_easier(double hit, double believed);
  void learn(const Proposal& proposal, int32_t verified, int32_t accepted);
  // Calls visit(n, expected tokens, microseconds) for each number n of leading drafts that fills a graph, or is all.
  template <typename Visit>
  void each_part(int32_t position, const Proposal& proposal, const Visit& visit) const;
  void fill_trim_gain(const Prices& prices, const Accept& accept, Expected& gain) const;
  Plan choose(int32_t most, const Prices& prices);
  bool explore(int32_t position, int32_t most, const Prices& prices, Plan& plan);

  std::string header() const;  // of the saved text: format and bundle

  // The bundle.
  std::vector<int32_t> lengths_, widths_;
  int32_t arms_ = 1;
  int32_t longest_ = 1;  // drafts that any of it can have

  // Costs: heat_ moves at once with all of them (throttling, a growing context); choices depend on the rest alone. No
  // arm 0: that is the plain step.
  std::vector<Estimate> costs_;                                   // [kBuckets][arms_]
  std::array<std::array<Level, kKinds>, kBuckets> levels_;
  std::array<bool, kBuckets> touched_{};
  double heat_ = 0.0;
  std::vector<Stay> stays_;                                     // [arms_]
  std::vector<double> covariance_, with_;                         // [arms_][arms_] in `bucket_`; 0 is the heat
  bool plain_known_ = false;
  int32_t bucket_ = -1;                    // of the last step, -1 = this text has none yet
  std::array<bool, kKinds> dear_{};        // found so in one context: in the others fewer witnesses are needed
  int32_t surprises_ = 0;                  // as a Level's, over all
  std::array<int32_t, 2> last_arm_{-1, -1};  // of the target's graphs, of the drafter's
  double worn_ = 0.0, apart_ = 0.0;        // clocks of costs_ and levels_: variance gained since the start

  // Acceptance over all texts.
  std::array<Count, kMaxDrafts> memory_;
  Count first_;                            // of first drafts, not discounted
  std::array<std::array<Count, kBins>, kSources> bins_;
  double confidence_error_ = 0.0, position_error_ = 0.0;  // squares, discounted: which of the two foretells a draft

  // This text.
  std::array<Count, kMaxDrafts> recent_;   // by draft position, discounted
  std::array<Count, kMaxDrafts> whole_;    // by draft position, for memory_
  struct Shift {
    double hits = 0.0, misses = 0.0, expected_hits = 0.0, expected_misses = 0.0;
    double odds() const;
  };
  std::array<Shift, kSources> shift_;      // how this text departs from what confidence says
  std::array<Draft, kRecent> drafts_;      // a ring
  double turn_ = 0.0;                      // evidence that the text has become easier
  int32_t drafts_seen_ = 0;
  int32_t current_ = -1;                   // the draft length in use, -1 = none chosen yet
  bool force_ = false;                     // this step verifies whatever trim() believes, to learn its cost

  // Exploration.
  double budget_ = 0.0;      // plain steps that may be spent to learn
  double rate_ = 0.0;        // believed best, tokens per microsecond
  double credit_ = 0.0;      // what of it a text starts with
  double ledger_ = 0.0;      // plain steps that believed plans have gained in this text; a loss uses up credit_
  double looks_ = 0.0;       // plain steps that may be spent to see whether costs are the usual ones again
  bool looking_ = false;     // whether this step adds to them
  bool exploring_ = false;   // the step under way
};

}  // namespace edge_mtp
