// What the invocations of a bundle cost on this machine: a Kalman filter over the logarithms of their times.
//
// A pure function with its state, as the controller is (controller.h); docs/controller.md says how and why. Costs are
// in microseconds of wall time, `position` is the context position of a step.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "arms.h"
#include "proposal.h"
#include "saved_text.h"

namespace edge_mtp {

// Believed costs at a position; 0 = not known. verify_us[n]: the step without the drafter, for n drafts; [0] = plain.
struct Prices {
  std::array<double, kMaxDrafts + 1> verify_us, draft_us;  // draft_us[K]
};

class CostModel {
 public:
  explicit CostModel(const Arms& arms);

  const Arms& arms() const { return arms_; }

  // Starts a text: what is known of costs stays, and how they stand now is open again.
  void begin();

  // What a step's invocations took; arguments as in Controller::observe(). `look`: the step was taken to learn.
  // Returns whether a kind that had become dear was found at its usual cost again.
  bool observe(int32_t position, int32_t drafter_k, int32_t rows, double draft_us, double rest_us, bool look);

  // Controller's functions of these names say what these do.
  struct Timing {
    int32_t rows, k;
    double us;
  };
  void calibrate(int32_t position, const Timing& timing);
  bool check(int32_t position, const std::vector<Timing>& timings);
  bool calibrated() const;
  double believed_us(int32_t position, int32_t rows, int32_t k) const;

  Prices prices(int32_t position) const;

  // The usual costs of a kind as a share of those that are believed now, at most 1.
  double usual_share(int32_t position, ArmKind kind) const;
  // Variances of logarithms in this text: the plain step's cost; of what a kind's best known arm costs beside it; of
  // what the graph that verifies `drafts` does, 0 where this text has not yet reached that context.
  double plain_doubt() const { return spread(0, 0); }
  double doubt(ArmKind kind) const;
  double verify_doubt(int32_t position, int32_t drafts) const;

  // The plain step's cost and the arms' are apart in the saved text.
  void save_plain(SavedWriter& text) const;
  void save_arms(SavedWriter& text) const;
  void restore_plain(SavedReader& text);
  void restore_arms(SavedReader& text);

 private:
  static constexpr int32_t kBuckets = 32;  // of context positions, by powers of two

  // An arm costs exp(heat_ + its mean) microseconds; the plain step, arm 0, exp(heat_).
  struct Estimate {
    double mean = 0.0;
    double variance = -1.0;  // when its clock was at `seen`; negative = never measured
    double seen = 0.0;
    bool known() const { return variance >= 0.0; }
    double at(double clock) const;  // the variance once its clock has moved on
  };
  // An arm in this text and context: its mean at the start, and how often it ran.
  struct Stay {
    double start = 0.0;
    int32_t runs = 0;
  };
  // Of all arms of a kind: the variance that they have in common.
  struct Level : Estimate {
    Level();
    double excess = 0.0;    // how far the kind now costs more than it usually does
    int32_t surprises = 0;  // measurements in a row that were far above what was expected
  };

  static int32_t bucket_of(int32_t position);
  const Estimate& cost(int32_t bucket, int32_t arm) const { return costs_[index(bucket, arm)]; }
  Estimate& cost(int32_t bucket, int32_t arm) { return costs_[index(bucket, arm)]; }
  size_t index(int32_t row, int32_t arm) const { return static_cast<size_t>(row * arms_.count() + arm); }
  double& spread(int32_t i, int32_t j) { return covariance_[index(i, j)]; }
  double spread(int32_t i, int32_t j) const { return covariance_[index(i, j)]; }
  int32_t nearest_touched(int32_t bucket) const;  // -1 = none
  int32_t touch(int32_t position);
  double believed_arm_us(int32_t bucket, int32_t arm) const;
  void enter(int32_t bucket, bool from_another);
  void leave();
  void loosen(ArmKind kind, double variance, bool seen);
  void age(int32_t drafter_k, int32_t rows);
  bool measure(int32_t position, int32_t arm, double us, bool look);
  void guess(int32_t arm, double measured, const Prices& before);
  void set_plain(double log_us);
  void forget();

  Arms arms_;

  // heat_ moves at once with all costs (throttling, a growing context); choices depend on the rest alone. Arm 0 has no
  // estimate: it is the plain step.
  std::vector<Estimate> costs_;  // [kBuckets][arms]
  std::array<std::array<Level, kArmKinds>, kBuckets> levels_;
  std::array<bool, kBuckets> touched_{};
  double heat_ = 0.0;
  bool plain_known_ = false;
  double worn_ = 0.0, apart_ = 0.0;  // clocks of costs_ and levels_: variance gained since the start

  // This text.
  std::vector<Stay> stays_;                  // [arms]
  std::vector<double> covariance_, with_;    // [arms][arms] in bucket_, 0 is the heat; [arms], of a measurement
  int32_t bucket_ = -1;                      // of the last step, -1 = this text has none yet
  std::array<bool, kArmKinds> dear_{};       // found so in one context: fewer witnesses are needed in the others
  int32_t surprises_ = 0;                    // as a Level's, over all kinds
  std::array<int32_t, 2> last_arm_{-1, -1};  // of the target's graphs, of the drafter's
};

}  // namespace edge_mtp
