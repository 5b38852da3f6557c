#include "cost_model.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace edge_mtp {
namespace {

// Costs are logarithms; variances are theirs.
constexpr double kLeastUs = 1e-2, kMostUs = 1e10;
constexpr double kNoise = 0.1 * 0.1;           // of one measurement
constexpr double kLoadVariance = 0.15 * 0.15;  // of a mean that was measured once
constexpr double kHeatDrift = 3e-3;            // that the common factor gains in a step
constexpr double kLevelDrift = 1.5e-4;         // that the level of a kind gains
constexpr double kOwnDrift = 1e-5;             // that an arm's distance from its level gains
constexpr double kNewLevel = 3e-3;             // of a level after a load
constexpr double kApart = 0.4;   // how far levels may part when the common factor moves, a share of the move
constexpr double kShared = 0.7;  // of an arm's move between two texts: all of its kind are taken to have moved so
constexpr double kMostVariance = 0.1;
constexpr double kMostExcess = 3.0;
constexpr double kRested = 4.0;         // of the common factor between two replies
constexpr double kOtherContext = 0.02;  // that it gains where a text enters a context
constexpr double kFirstNoise = 1.0;     // of a text's first step: its caches are cold, so it tells of no other cost
// A time that is more than kSurprise above what was expected needs witnesses: so many in a row, of one kind or of all.
// Where each followed another arm's run, which fills the caches with its own data, the cold number of them.
constexpr double kSurprise = 0.3;
constexpr int32_t kWitnesses = 4, kColdWitnesses = 16;
constexpr double kClipUp = 2.5, kClipDown = 4.0;  // standard deviations: a machine is often slow for a moment only
constexpr double kFar = 0.69;    // remembered costs that part so far from those timed at load are forgotten,
constexpr double kFarAll = 2.1;  // or by so much all of them together
constexpr double kBack = 0.6;    // a measurement that takes away this share of a kind's excess ends it
// How soon a cost above the usual one becomes the usual: the share of it for each look, and for each other measurement.
constexpr double kUsualLook = 1.0 / 64.0, kUsual = 1.0 / 2048.0, kUsualFall = 1.0 / 16.0;
// Where nothing was measured: shares of a plain step.
constexpr double kGuessVerify = 1.2, kGuessRow = 0.08, kGuessDraft = 0.06;
constexpr double kFixedDraft = 0.1;  // of a drafter invocation, whatever its K

// What an arm costs beside a plain step, within what times between the least and the most can give.
double bounded(double beside) {
  const double widest = std::log(kMostUs / kLeastUs);
  return std::clamp(beside, -widest, widest);
}

bool is_time(double us) { return us > 0.0 && std::isfinite(us); }

double logarithm(double us) { return std::log(std::clamp(us, kLeastUs, kMostUs)); }

}  // namespace

double CostModel::Estimate::at(double clock) const { return std::min(variance + clock - seen, kMostVariance); }

CostModel::Level::Level() { variance = kNewLevel; }

CostModel::CostModel(const Arms& arms) : arms_(arms) {
  const auto count = static_cast<size_t>(arms.count());
  costs_.resize(kBuckets * count);
  covariance_.resize(count * count);
  with_.resize(count);
  stays_.resize(count);
}

void CostModel::begin() {
  leave();
  spread(0, 0) = kRested;  // the machine may have cooled, and the context is another
  surprises_ = 0;
}

// ---- contexts -----------------------------------------------------------------------------------------------------

int32_t CostModel::bucket_of(int32_t position) {
  int32_t bucket = 0;
  for (uint32_t rest = static_cast<uint32_t>(std::max(position, 0)); rest > 0; rest >>= 1) ++bucket;
  return bucket;
}

int32_t CostModel::nearest_touched(int32_t bucket) const {
  for (int32_t away = 0; away < kBuckets; ++away) {
    // The shorter context first: a text comes from there.
    if (bucket - away >= 0 && touched_[static_cast<size_t>(bucket - away)]) return bucket - away;
    if (bucket + away < kBuckets && touched_[static_cast<size_t>(bucket + away)]) return bucket + away;
  }
  return -1;
}

// A new bucket starts from its neighbour.
int32_t CostModel::touch(int32_t position) {
  const int32_t bucket = bucket_of(position), nearest = nearest_touched(bucket);
  if (nearest >= 0 && nearest != bucket) {
    std::copy_n(&cost(nearest, 0), arms_.count(), &cost(bucket, 0));
    levels_[static_cast<size_t>(bucket)] = levels_[static_cast<size_t>(nearest)];
  }
  touched_[static_cast<size_t>(bucket)] = true;
  return bucket;
}

// Makes the covariances of a text's first step in this context from what is remembered of it: the part that arms of a
// kind have in common, and the part that is each one's own.
void CostModel::enter(int32_t bucket, bool from_another) {
  spread(0, 0) = std::min(spread(0, 0) + (from_another ? kOtherContext : 0.0), kRested);
  for (int32_t i = 1; i < arms_.count(); ++i) {
    for (int32_t j = 1; j < arms_.count(); ++j) {
      const ArmKind kind = arms_.kind(i);
      if (kind == arms_.kind(j)) spread(i, j) = levels_[static_cast<size_t>(bucket)][kind].at(apart_);
    }
    const Estimate& own = cost(bucket, i);
    spread(i, i) += own.known() ? own.at(worn_) : kLoadVariance;
  }
  for (int32_t i = 0; i < arms_.count(); ++i) stays_[static_cast<size_t>(i)] = {cost(bucket, i).mean, 0};
  bucket_ = bucket;
}

// Keeps of the covariances what enter() makes them from. An arm that did not run is moved with those of its kind that
// did: otherwise each text's first steps, which are always the same, would part the two. A text moves an arm by a fixed
// share of what it measured of others, so the noise of a stationary machine leaves a bounded error, however many texts
// there are.
void CostModel::leave() {
  if (bucket_ < 0) return;
  for (const ArmKind kind : {kVerify, kDraft}) {
    double shared = kMostVariance;
    for (int32_t i = 1; i < arms_.count(); ++i) {
      for (int32_t j = 1; j < arms_.count(); ++j) {
        if (arms_.kind(i) == kind && arms_.kind(j) == kind) shared = std::min(shared, spread(i, j));
      }
    }
    double moved = 0.0, ran = 0.0;
    for (int32_t i = 1; i < arms_.count(); ++i) {
      const Stay& stay = stays_[static_cast<size_t>(i)];
      if (arms_.kind(i) == kind && stay.runs > 0) moved += cost(bucket_, i).mean - stay.start, ran += 1.0;
    }
    // A far move is no noise: the whole kind has moved.
    const double share = std::fabs(moved) > kSurprise * ran ? 1.0 : kShared;
    const double shift = ran > 0.0 ? share * moved / (1.0 - share + share * ran) : 0.0;
    Level& level = levels_[static_cast<size_t>(bucket_)][kind];
    level.variance = std::max(shared, 0.0);
    level.seen = apart_;
    for (int32_t i = 1; i < arms_.count(); ++i) {
      Estimate& own = cost(bucket_, i);
      if (arms_.kind(i) != kind || !own.known()) continue;
      const Stay& stay = stays_[static_cast<size_t>(i)];
      own.mean = bounded(stay.runs == 0 ? stay.start + shift : own.mean);
      own.variance = std::clamp(spread(i, i) - level.variance, 0.0, kMostVariance);
      own.seen = worn_;
    }
  }
  // The covariances say nothing of the next text or context: enter() makes its own from what was just kept.
  heat_ = std::clamp(heat_, std::log(kLeastUs), std::log(kMostUs));
  const double heat_variance = spread(0, 0);
  std::fill(covariance_.begin(), covariance_.end(), 0.0);
  spread(0, 0) = heat_variance;
  bucket_ = -1;
}

// ---- the filter ---------------------------------------------------------------------------------------------------

// Makes less certain what all arms of a kind cost beside a plain step. While they run (`seen`) their own cost stays
// known, and the plain step's becomes uncertain: otherwise every trend in a text of verify steps would move what they
// cost beside it.
void CostModel::loosen(ArmKind kind, double variance, bool seen) {
  if (seen) {
    spread(0, 0) += variance;
    for (int32_t i = 1; i < arms_.count(); ++i) {
      if (arms_.kind(i) != kind) continue;
      spread(0, i) -= variance;
      spread(i, 0) -= variance;
    }
  }
  for (int32_t i = 1; i < arms_.count(); ++i) {
    for (int32_t j = 1; j < arms_.count(); ++j) {
      if (arms_.kind(i) == kind && arms_.kind(j) == kind) spread(i, j) += variance;
    }
  }
}

double CostModel::doubt(ArmKind kind) const {
  double least = kMostVariance;
  for (int32_t i = 1; i < arms_.count(); ++i) {
    if (arms_.kind(i) == kind) least = std::min(least, spread(i, i));
  }
  return least;
}

double CostModel::verify_doubt(int32_t position, int32_t drafts) const {
  const int32_t arm = arms_.of_rows(arms_.rows_for(drafts));
  return bucket_ == bucket_of(position) && arm > 0 ? spread(arm, arm) : 0.0;
}

double CostModel::usual_share(int32_t position, ArmKind kind) const {
  const int32_t bucket = std::max(nearest_touched(bucket_of(position)), 0);
  return std::exp(-std::max(0.0, levels_[static_cast<size_t>(bucket)][kind].excess));
}

bool CostModel::observe(int32_t position, int32_t drafter_k, int32_t rows, double draft_us, double rest_us,
                        bool look) {
  age(drafter_k, rows);
  bool usual_again = measure(position, arms_.of_rows(rows), rest_us, look);
  if (drafter_k > 0) usual_again |= measure(position, arms_.of_draft(drafter_k), draft_us, look);
  return usual_again;
}

// What a step adds to the variances, whatever it measures.
void CostModel::age(int32_t drafter_k, int32_t rows) {
  worn_ += kOwnDrift;
  apart_ += kLevelDrift;
  if (bucket_ < 0) return;
  spread(0, 0) = std::min(spread(0, 0) + kHeatDrift, kRested);
  for (const ArmKind kind : {kVerify, kDraft}) {
    if (doubt(kind) < kMostVariance) loosen(kind, kLevelDrift, kind == kVerify && rows > 1);
  }
  for (int32_t i = 1; i < arms_.count(); ++i) {
    if (i != arms_.of_rows(rows) && i != arms_.of_draft(drafter_k)) spread(i, i) += kOwnDrift;
  }
}

// One step of a Kalman filter over the common factor and every arm's cost beside it. Arms of a kind move together, as
// the errors of their costs do. Verify steps alone move the common factor, however long they go on, because its error
// and theirs are known to cancel: only a text with steps of both kinds parts the two. The drafter runs beside a verify
// and never moves the common factor. Returns whether the kind is back at its usual cost.
bool CostModel::measure(int32_t position, int32_t arm, double us, bool look) {
  if (arm < 0 || !is_time(us)) return false;
  const double measured = logarithm(us);
  const Prices before = prices(position);
  const bool first = bucket_ < 0;
  if (bucket_of(position) != bucket_) {
    leave();
    touch(position);
    enter(bucket_of(position), !first);
  }
  const ArmKind kind = arms_.kind(arm);
  auto& levels = levels_[static_cast<size_t>(bucket_)];
  if (kind == kPlain && !plain_known_) set_plain(measured);
  const Estimate& own = cost(bucket_, arm);
  if (kind != kPlain && !own.known()) guess(arm, measured, before);

  // Whether there are witnesses enough for a surprise.
  double residual = measured - heat_ - (kind == kPlain ? 0.0 : own.mean);
  bool throttled = false;
  int32_t& last = last_arm_[kind == kDraft ? 1 : 0];
  const int32_t word = std::exchange(last, arm) == arm ? kColdWitnesses / kWitnesses : 1;
  if (residual > kSurprise && !first) {
    surprises_ += kind != kDraft ? word : 0;
    throttled = kind != kDraft && surprises_ >= kColdWitnesses;
    levels[kind].surprises += word;
    if (levels[kind].surprises < (dear_[kind] ? kColdWitnesses / 2 : kColdWitnesses) && !throttled) return false;
    dear_[kind] = kind != kPlain;
    if (throttled) spread(0, 0) = kRested;
  }
  if (kind != kDraft) surprises_ = 0;
  levels[kind].surprises = 0;
  // The way back to the usual cost needs no witness.
  const bool usual_again =
      residual < -std::max(kSurprise, kBack * levels[kind].excess) && levels[kind].excess > kSurprise;
  if (usual_again) {
    loosen(kind, std::max(0.0, kMostVariance - doubt(kind)), false);
    dear_[kind] = false;
  }

  ++stays_[static_cast<size_t>(arm)].runs;

  // The covariance of the measurement with every cost, and its variance.
  const bool with_heat = kind != kDraft;
  for (int32_t i = 0; i < arms_.count(); ++i) {
    with_[static_cast<size_t>(i)] = spread(i, arm) + (with_heat && arm != 0 ? spread(i, 0) : 0.0);
  }
  double total = (first ? kFirstNoise : kNoise) + with_[static_cast<size_t>(arm)];
  if (arm != 0) total += with_heat ? with_[0] : spread(0, 0);
  const double deviation = std::sqrt(total);
  residual = std::clamp(residual, -kClipDown * deviation, kClipUp * deviation);
  std::array<double, kArmKinds> moved{}, known{};
  for (int32_t i = 0; i < arms_.count(); ++i) {
    const double move = with_[static_cast<size_t>(i)] / total * residual;
    if (i == 0 || cost(bucket_, i).known()) {
      (i == 0 ? heat_ : cost(bucket_, i).mean) += move;
      moved[arms_.kind(i)] += move, known[arms_.kind(i)] += 1.0;
    }
    for (int32_t j = 0; j < arms_.count(); ++j) {
      spread(i, j) -= with_[static_cast<size_t>(i)] * with_[static_cast<size_t>(j)] / total;
    }
  }
  if (throttled) spread(0, 0) = kRested;  // it may yet prove a mistake
  for (const ArmKind each : {kVerify, kDraft}) {
    double& excess = levels[each].excess;
    if (known[each] > 0.0) excess += moved[each] / known[each];
    excess *= 1.0 - (excess < 0.0 ? kUsualFall : each != kind ? 0.0 : look ? kUsualLook : kUsual);
    excess = std::clamp(excess, -kMostExcess, kMostExcess);
    if (!first && kind != kDraft && std::fabs(residual) > kSurprise) {
      const double apart = std::min(kApart * kApart * moved[kPlain] * moved[kPlain], kMostVariance);
      apart_ += apart;
      loosen(each, std::max(0.0, std::min(apart, kMostVariance - doubt(each))), each == kind);
    }
  }
  return usual_again;
}

// The first estimate of an arm: what was believed `before` from the others', else what was measured.
void CostModel::guess(int32_t arm, double measured, const Prices& before) {
  const double us = arms_.kind(arm) == kDraft ? before.draft_us[static_cast<size_t>(arms_.draft(arm))]
                                              : before.verify_us[static_cast<size_t>(arms_.rows(arm) - 1)];
  Estimate& own = cost(bucket_, arm);
  own = {us > 0.0 ? std::log(us) - heat_ : measured - heat_, kLoadVariance, worn_};
  stays_[static_cast<size_t>(arm)].start = own.mean;
}

// ---- at load ------------------------------------------------------------------------------------------------------

// The least of the first few timings of an arm is the truest.
void CostModel::calibrate(int32_t position, const Timing& timing) {
  const int32_t arm = timing.rows > 0 ? arms_.of_rows(timing.rows) : arms_.of_draft(timing.k);
  if (arm < 0 || !is_time(timing.us)) return;
  const int32_t bucket = touch(position);
  const double measured = logarithm(timing.us);
  Estimate& own = cost(bucket, arm);
  if (arm == 0) {
    const double residual = measured - heat_;
    if (!plain_known_ || residual < -kSurprise) {
      set_plain(measured);
    } else if (residual <= kSurprise) {
      set_plain(heat_ + 0.5 * residual);
    }
    return;
  }
  const double residual = measured - heat_ - own.mean;
  if (!own.known() || residual < -kSurprise) {
    own = {measured - heat_, kLoadVariance, worn_};
  } else if (residual <= kSurprise) {
    const double gain = own.at(worn_) / (own.at(worn_) + kNoise);
    own = {own.mean + gain * residual, own.at(worn_) * (1.0 - gain), worn_};
  }
}

bool CostModel::check(int32_t position, const std::vector<Timing>& timings) {
  const int32_t bucket = nearest_touched(bucket_of(position));
  double plain = 0.0;
  bool holds = bucket >= 0;
  for (const Timing& timing : timings) {  // the plain step is the first
    const int32_t arm = timing.rows > 0 ? arms_.of_rows(timing.rows) : arms_.of_draft(timing.k);
    if (!holds || arm < 0 || !(timing.us > 0.0) || (arm == 0 ? !plain_known_ : !cost(bucket, arm).known())) continue;
    const double parted = std::log(timing.us / believed_arm_us(bucket, arm));
    if (arm == 0) {
      plain = parted;
      holds = std::fabs(plain) <= kFarAll;
      continue;
    }
    holds = std::fabs(parted - plain) <= kFar;
    levels_[static_cast<size_t>(bucket)][arms_.kind(arm)].excess = std::max(0.0, plain - parted);
  }
  if (!holds) forget();
  return holds;
}

// Moves the common factor and leaves what was measured of other arms as it is.
void CostModel::set_plain(double log_us) {
  for (int32_t bucket = 0; bucket < kBuckets; ++bucket) {
    for (int32_t arm = 1; arm < arms_.count(); ++arm) {
      cost(bucket, arm).mean = bounded(cost(bucket, arm).mean - log_us + heat_);
    }
  }
  heat_ = log_us;
  plain_known_ = true;
}

void CostModel::forget() {
  std::fill(costs_.begin(), costs_.end(), Estimate{});
  for (auto& bucket : levels_) bucket.fill({});
  touched_ = {};
  bucket_ = -1;
  heat_ = 0.0;
  plain_known_ = false;
}

bool CostModel::calibrated() const {
  // A touched bucket starts from its neighbour, so any of them knows what any other does, but for the newest arms.
  const auto known = [&](int32_t arm) {
    for (int32_t bucket = 0; bucket < kBuckets; ++bucket) {
      if (touched_[static_cast<size_t>(bucket)] && cost(bucket, arm).known()) return true;
    }
    return false;
  };
  const auto verifies = static_cast<int32_t>(arms_.widths().size());
  const auto drafts = static_cast<int32_t>(arms_.lengths().size());
  int32_t known_verifies = 0, known_drafts = 0;
  for (int32_t i = 1; i <= verifies; ++i) known_verifies += known(i) ? 1 : 0;
  for (int32_t i = 1; i <= drafts; ++i) known_drafts += known(verifies + i) ? 1 : 0;
  return plain_known_ && known_verifies >= std::min(verifies, 2) && (verifies == 0 || known(verifies)) &&
         known_drafts >= std::min(drafts, 1);
}

// ---- prices -------------------------------------------------------------------------------------------------------

double CostModel::believed_arm_us(int32_t bucket, int32_t arm) const {
  return std::exp(heat_ + (arm == 0 ? 0.0 : cost(bucket, arm).mean));
}

double CostModel::believed_us(int32_t position, int32_t rows, int32_t k) const {
  const Prices now = prices(position);
  const int32_t longest = arms_.longest();
  if (rows > 0) return rows <= longest + 1 ? now.verify_us[static_cast<size_t>(rows - 1)] : 0.0;
  return k > 0 && k <= longest ? now.draft_us[static_cast<size_t>(k)] : 0.0;
}

// Lines through what was measured; monotone between and beyond.
Prices CostModel::prices(int32_t position) const {
  Prices prices;
  prices.verify_us.fill(0.0);
  prices.draft_us.fill(0.0);
  const int32_t bucket = nearest_touched(bucket_of(position));
  if (bucket < 0 || !plain_known_) return prices;
  const auto believed = [&](int32_t arm) { return believed_arm_us(bucket, arm); };
  const std::vector<int32_t>&lengths = arms_.lengths(), &widths = arms_.widths();
  const int32_t longest = arms_.longest();
  const double plain = believed(0);

  std::array<double, kMaxDrafts + 2> x{}, y{};
  size_t points = 0;
  const auto line = [&](double at) {
    size_t right = 1;
    while (right + 1 < points && x[right] < at) ++right;
    const double slope = std::max(0.0, (y[right] - y[right - 1]) / (x[right] - x[right - 1]));
    return at <= x[right] ? y[right] - slope * (x[right] - at) : y[right] + slope * (at - x[right]);
  };

  prices.verify_us[0] = x[0] = y[0] = plain;
  x[points++] = 1.0;
  for (size_t i = 0; i < widths.size(); ++i) {
    const auto arm = static_cast<int32_t>(1 + i);
    if (!cost(bucket, arm).known()) continue;
    x[points] = widths[i];
    y[points++] = believed(arm);
  }
  for (int32_t n = 1; n <= longest; ++n) {
    const int32_t rows = arms_.rows_for(n);
    if (rows == 0) break;
    const int32_t arm = arms_.of_rows(rows);
    prices.verify_us[static_cast<size_t>(n)] = cost(bucket, arm).known() ? believed(arm)
                                               : points > 1 ? line(rows)
                                                            : plain * (kGuessVerify + kGuessRow * (rows - 1));
  }

  points = 0;
  for (const int32_t k : lengths) {
    const int32_t arm = arms_.of_draft(k);
    if (!cost(bucket, arm).known()) continue;
    if (points == 0) {  // a drafter costs something before it drafts
      x[0] = 0.0;
      y[points++] = kFixedDraft * believed(arm);
    }
    x[points] = k;
    y[points++] = believed(arm);
  }
  for (const int32_t k : lengths) {
    const int32_t arm = arms_.of_draft(k);
    prices.draft_us[static_cast<size_t>(k)] =
        cost(bucket, arm).known() ? believed(arm) : points > 1 ? line(k) : plain * kGuessDraft * k;
  }
  // Less never costs more. The estimates may say so of an arm that has not run while its level moved on.
  for (int32_t n = longest - 1; n >= 1; --n) {
    double& us = prices.verify_us[static_cast<size_t>(n)];
    const double more = prices.verify_us[static_cast<size_t>(n) + 1];
    if (more > 0.0) us = std::min(us, more);
  }
  for (size_t i = lengths.size(); i-- > 1;) {
    double& us = prices.draft_us[static_cast<size_t>(lengths[i - 1])];
    us = std::min(us, prices.draft_us[static_cast<size_t>(lengths[i])]);
  }
  return prices;
}

// ---- memory -------------------------------------------------------------------------------------------------------

void CostModel::save_plain(SavedWriter& text) const { text.put(plain_known_ ? heat_ : -INFINITY); }

void CostModel::restore_plain(SavedReader& text) {
  heat_ = text.get(-INFINITY, std::log(kMostUs));
  plain_known_ = heat_ >= std::log(kLeastUs);
  if (!plain_known_) heat_ = 0.0;
}

void CostModel::save_arms(SavedWriter& text) const {
  for (int32_t bucket = 0; bucket < kBuckets; ++bucket) {
    const bool touched = touched_[static_cast<size_t>(bucket)];
    text.put(touched ? 1.0 : 0.0);
    if (!touched) continue;
    for (const Level& level : levels_[static_cast<size_t>(bucket)]) {
      text.put(level.at(apart_));
      text.put(level.excess);
    }
    for (int32_t arm = 1; arm < arms_.count(); ++arm) {
      const Estimate& own = cost(bucket, arm);
      text.put(own.mean);
      text.put(own.known() ? own.at(worn_) : -1.0);
    }
  }
}

void CostModel::restore_arms(SavedReader& text) {
  for (int32_t bucket = 0; bucket < kBuckets && text.good(); ++bucket) {
    const bool touched = text.get(0.0, 1.0) > 0.0;
    touched_[static_cast<size_t>(bucket)] = touched;
    if (!touched) continue;
    for (Level& level : levels_[static_cast<size_t>(bucket)]) {
      level.variance = text.get(0.0, kMostVariance);
      level.excess = text.get(-kMostExcess, kMostExcess);
    }
    for (int32_t arm = 1; arm < arms_.count(); ++arm) {
      Estimate& own = cost(bucket, arm);
      own.mean = text.get(bounded(-INFINITY), bounded(INFINITY));
      own.variance = text.get(-1.0, kMostVariance);
    }
  }
}

}  // namespace edge_mtp
