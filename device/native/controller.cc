#include "controller.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <sstream>
#include <utility>

namespace edge_mtp {
namespace {

// ---- costs, as logarithms
constexpr double kLeastUs = 1e-2, kMostUs = 1e10;
constexpr double kNoise = 0.1 * 0.1;          // variance of one measurement
constexpr double kLoadVariance = 0.15 * 0.15;  // of a mean measured once
constexpr double kHeatDrift = 3e-3;           // variance that the common factor gains in a step
constexpr double kLevelDrift = 1.5e-4;         // and the level of a kind of invocation
constexpr double kOwnDrift = 1e-5;            // and one graph's distance from it
constexpr double kNewLevel = 3e-3;             // after a load
constexpr double kApart = 0.4;                // how far levels may part when the common factor moves, a share of the move
constexpr double kShared = 0.7;                // of a graph's move between two texts, taken for that of all its kind
constexpr double kMostVariance = 0.1;
constexpr double kMostExcess = 3.0;
constexpr double kRested = 4.0;         // of the common factor between two replies
constexpr double kOtherContext = 0.02;  // that it gains where a text comes into costs measured in others
constexpr double kFirstNoise = 1.0;  // of a text's first step, whose caches are cold: it tells of no other cost
constexpr double kSurprise = 0.3;             // more than this above what was expected needs witnesses:
constexpr int32_t kWitnesses = 4;              // so many in a row, of one kind or of all;
constexpr int32_t kColdWitnesses = 16;         // or so many that ran after another graph, whose data fill the caches
constexpr double kClipUp = 2.5, kClipDown = 4.0;  // standard deviations: what slows a machine down is often a moment's
constexpr double kFar = 0.69;    // remembered costs that part so far from those timed at load are forgotten;
constexpr double kFarAll = 2.1;  // or all of them together
constexpr double kBack = 0.6;    // of what a cost is above the usual one, gone in one measurement: it is the usual again
// How soon a cost above the usual one becomes the usual: a share of it for each look, and for each other measurement.
constexpr double kUsualLook = 1.0 / 64.0, kUsual = 1.0 / 2048.0, kUsualFall = 1.0 / 16.0;
// Where nothing was measured: shares of a plain step.
constexpr double kGuessVerify = 1.2, kGuessRow = 0.08, kGuessDraft = 0.06;
constexpr double kFixedDraft = 0.1;           // of a drafter invocation, whatever its K

// ---- acceptance
constexpr double kFirst = 0.7, kLater = 0.98;  // believed of a new drafter's first draft; of each next, times this
constexpr double kPriorWeight = 2.0;
constexpr double kKeepRecent = 0.98;          // a step: the text of the last 25 drafts counts
constexpr double kMemoryPrior = 16.0, kMemoryText = 8.0, kMemoryMost = 32.0;  // drafts that weigh like that many
constexpr double kKeepBin = 0.99, kBinWeight = 4.0, kForcedWeight = 20.0;
constexpr double kKeepShift = 0.95, kShiftWeight = 1.5;
constexpr std::array<float, 7> kBinEdges = {0.1f, 0.25f, 0.4f, 0.55f, 0.7f, 0.85f, 0.95f};
constexpr double kLeastOdds = 1e-3;
// Squared errors of a new drafter's drafts by confidence and by position, believed like this many drafts; and how much
// less must be the error of the former for it alone to be believed: 1 / kTrustSkill.
constexpr double kErrorWeight = 6.0, kFirstConfidenceError = 0.16, kFirstPositionError = 0.24, kTrustSkill = 2.5;

constexpr double kMostFirst = 1e5;            // first drafts, beyond which half of the count is forgotten
constexpr double kTurn = 3.5, kTurnKeeps = 2.0;  // log likelihood ratio of a text that became easier; drafts kept then
constexpr double kBlend = 0.5;                // of a trusted confidence in what a draft tells of its text

// ---- choice
constexpr double kBetter = 1.02;              // hysteresis: what a change of draft length must promise
constexpr double kExploreShare = 0.005;       // of the time spent
constexpr double kLookShare = 0.025, kLookMost = 4.0;  // while drafting is given up for costs that are not the usual ones
constexpr double kCredit = 0.4;               // plain steps for it at a text's start, while no text is known
constexpr double kExploreMost = 2.0;          // plain steps that may be saved up for it
constexpr double kHopeful = 0.95;             // acceptance of a text that deserves a look
constexpr double kDear = 0.8;                 // usual costs below this share of the believed ones are worth a look
constexpr double kStale = 0.01, kVeryStale = 0.03;  // variance of a cost that deserves a measurement

// What a graph costs beside a plain step, in logarithms, as far as times between the least and the most can part.
double bounded(double beside) {
  const double widest = std::log(kMostUs / kLeastUs);
  return std::clamp(beside, -widest, widest);
}

double odds(double p) {
  p = std::clamp(p, kLeastOdds, 1.0 - kLeastOdds);
  return p / (1.0 - p);
}

double probability(double ratio) { return ratio / (1.0 + ratio); }

size_t bin_of(float confidence) {
  if (!(confidence >= 0.0f)) return 0;
  return static_cast<size_t>(std::upper_bound(kBinEdges.begin(), kBinEdges.end(), confidence) - kBinEdges.begin());
}

// What a source's confidence is taken for before its drafts were seen judged. The middle of the bin, drawn in a bit.
double bin_prior(Source source, size_t bin) {
  if (source == Source::kGrammar) return 0.97;
  const double low = bin == 0 ? 0.0 : static_cast<double>(kBinEdges[bin - 1]);
  const double high = bin == kBinEdges.size() ? 1.0 : static_cast<double>(kBinEdges[bin]);
  return 0.05 + 0.9 * (low + high) / 2.0;
}

double bin_weight(Source source) { return source == Source::kGrammar ? kForcedWeight : kBinWeight; }

}  // namespace

void Controller::Count::add(double hit, double weight, double keep) {
  hits = hits * keep + hit * weight;
  trials = trials * keep + weight;
}

double Controller::Shift::odds() const {
  return ((hits + kShiftWeight) / (expected_hits + kShiftWeight)) /
         ((misses + kShiftWeight) / (expected_misses + kShiftWeight));
}

Controller::Controller(const Capabilities& capabilities) {
  const auto usable = [](std::vector<int32_t> values, int32_t least, int32_t most) {
    std::sort(values.begin(), values.end());
    values.erase(std::unique(values.begin(), values.end()), values.end());
    values.erase(std::remove_if(values.begin(), values.end(), [&](int32_t v) { return v < least || v > most; }),
                 values.end());
    return values;
  };
  widths_ = usable(capabilities.verify_widths, 2, kMaxDrafts + 1);
  lengths_ = usable(capabilities.draft_lengths, 1, widths_.empty() ? 0 : widths_.back() - 1);
  arms_ = static_cast<int32_t>(1 + widths_.size() + lengths_.size());
  longest_ = widths_.empty() ? 1 : widths_.back() - 1;
  costs_.resize(static_cast<size_t>(kBuckets * arms_));
  covariance_.resize(static_cast<size_t>(arms_ * arms_));
  with_.resize(static_cast<size_t>(arms_));
  stays_.resize(static_cast<size_t>(arms_));
}

void Controller::begin() {
  if (first_.trials > kMostFirst) first_ = {std::floor(first_.hits / 2.0), std::floor(first_.trials / 2.0)};
  for (size_t j = 0; j < kMaxDrafts; ++j) {
    Count& memory = memory_[j];
    const Count& text = whole_[j];
    if (text.trials > 0.0) {
      const double weight = std::min(1.0, kMemoryText / text.trials);
      memory.hits += text.hits * weight;
      memory.trials += text.trials * weight;
      const double shrink = std::min(1.0, kMemoryMost / memory.trials);
      memory.hits *= shrink;
      memory.trials *= shrink;
    }
  }
  whole_ = {};
  recent_ = {};
  shift_ = {};
  turn_ = 0.0;
  drafts_seen_ = 0;
  current_ = -1;
  force_ = false;
  leave();
  spread(0, 0) = kRested;  // the machine may have cooled, and the context is another
  surprises_ = 0;
  ledger_ = 0.0;
  const double news = kMemoryPrior / (kMemoryPrior + memory_.front().trials);
  budget_ = credit_ = kCredit * news;
  exploring_ = false;
}

// ---- the bundle ---------------------------------------------------------------------------------------------------

int32_t Controller::arm_of_rows(int32_t rows) const {
  if (rows == 1) return 0;
  const auto found = std::lower_bound(widths_.begin(), widths_.end(), rows);
  if (found == widths_.end() || *found != rows) return -1;
  return static_cast<int32_t>(1 + (found - widths_.begin()));
}

int32_t Controller::arm_of_draft(int32_t k) const {
  const auto found = std::lower_bound(lengths_.begin(), lengths_.end(), k);
  if (found == lengths_.end() || *found != k) return -1;
  return static_cast<int32_t>(1 + widths_.size()) + static_cast<int32_t>(found - lengths_.begin());
}

int32_t Controller::rows_for(int32_t drafts) const {
  if (drafts == 0) return 1;
  const auto found = std::lower_bound(widths_.begin(), widths_.end(), drafts + 1);
  return found == widths_.end() ? 0 : *found;
}

// ---- costs --------------------------------------------------------------------------------------------------------

int32_t Controller::bucket_of(int32_t position) const {
  int32_t bucket = 0;
  for (uint32_t rest = static_cast<uint32_t>(std::max(position, 0)); rest > 0; rest >>= 1) ++bucket;
  return bucket;
}

int32_t Controller::nearest_touched(int32_t bucket) const {
  for (int32_t away = 0; away < kBuckets; ++away) {
    // The shorter context first: it is where a text comes from.
    if (bucket - away >= 0 && touched_[static_cast<size_t>(bucket - away)]) return bucket - away;
    if (bucket + away < kBuckets && touched_[static_cast<size_t>(bucket + away)]) return bucket + away;
  }
  return -1;
}

int32_t Controller::touch(int32_t position) {
  const int32_t bucket = bucket_of(position), nearest = nearest_touched(bucket);
  if (nearest >= 0 && nearest != bucket) {
    std::copy_n(&cost(nearest, 0), arms_, &cost(bucket, 0));
    levels_[static_cast<size_t>(bucket)] = levels_[static_cast<size_t>(nearest)];
  }
  touched_[static_cast<size_t>(bucket)] = true;
  return bucket;
}

Controller::Kind Controller::kind_of(int32_t arm) const {
  return arm == 0 ? kPlain : arm <= static_cast<int32_t>(widths_.size()) ? kVerify : kDraft;
}

const Controller::Level& Controller::level(int32_t position, Kind kind) const {
  return levels_[static_cast<size_t>(std::max(nearest_touched(bucket_of(position)), 0))][kind];
}

double Controller::believed_us(int32_t bucket, int32_t arm) const {
  return std::exp(heat_ + (arm == 0 ? 0.0 : cost(bucket, arm).mean));
}

double Controller::Estimate::at(double clock) const { return std::min(variance + clock - seen, kMostVariance); }

Controller::Level::Level() { variance = kNewLevel; }

double Controller::believed_us(int32_t position, int32_t rows, int32_t k) const {
  const Prices now = prices(position);
  if (rows > 0) return rows <= longest_ + 1 ? now.verify_us[static_cast<size_t>(rows - 1)] : 0.0;
  return k > 0 && k <= longest_ ? now.draft_us[static_cast<size_t>(k)] : 0.0;
}

// The covariances of a text's first step in this context, from what is remembered of it: what two graphs of a kind have
// in common, and what is each one's own.
void Controller::enter(int32_t bucket, bool from_another) {
  spread(0, 0) = std::min(spread(0, 0) + (from_another ? kOtherContext : 0.0), kRested);
  for (int32_t i = 1; i < arms_; ++i) {
    for (int32_t j = 1; j < arms_; ++j) {
      if (kind_of(i) == kind_of(j)) spread(i, j) = levels_[static_cast<size_t>(bucket)][kind_of(i)].at(apart_);
    }
    const Estimate& own = cost(bucket, i);
    spread(i, i) += own.known() ? own.at(worn_) : kLoadVariance;
  }
  for (int32_t i = 0; i < arms_; ++i) stays_[static_cast<size_t>(i)] = {cost(bucket, i).mean, 0};
  bucket_ = bucket;
}

// And back. A graph that did not run has moved with those of its kind that did: else what a text begins with, always the
// same way, would part them. Each text moves a graph by fixed shares of what it measured of others, so that a stationary
// machine's noise leaves a bounded trace, however many texts there are.
void Controller::leave() {
  if (bucket_ < 0) return;
  for (const Kind kind : {kVerify, kDraft}) {
    double shared = kMostVariance;
    for (int32_t i = 1; i < arms_; ++i) {
      for (int32_t j = 1; j < arms_; ++j) {
        if (kind_of(i) == kind && kind_of(j) == kind) shared = std::min(shared, spread(i, j));
      }
    }
    double moved = 0.0, ran = 0.0;
    for (int32_t i = 1; i < arms_; ++i) {
      const Stay& stay = stays_[static_cast<size_t>(i)];
      if (kind_of(i) == kind && stay.runs > 0) moved += cost(bucket_, i).mean - stay.start, ran += 1.0;
    }
    // What moved far did not move by noise, and its kind moved with it.
    const double share = std::fabs(moved) > kSurprise * ran ? 1.0 : kShared;
    const double shift = ran > 0.0 ? share * moved / (1.0 - share + share * ran) : 0.0;
    Level& level = levels_[static_cast<size_t>(bucket_)][kind];
    level.variance = std::max(shared, 0.0);
    level.seen = apart_;
    for (int32_t i = 1; i < arms_; ++i) {
      Estimate& own = cost(bucket_, i);
      if (kind_of(i) != kind || !own.known()) continue;
      const Stay& stay = stays_[static_cast<size_t>(i)];
      own.mean = bounded(stay.runs == 0 ? stay.start + shift : own.mean);
      own.variance = std::clamp(spread(i, i) - level.variance, 0.0, kMostVariance);
      own.seen = worn_;
    }
  }
  // What holds here says nothing of the text or context that is next: enter() takes that from what was just kept.
  heat_ = std::clamp(heat_, std::log(kLeastUs), std::log(kMostUs));
  const double heat_variance = spread(0, 0);
  std::fill(covariance_.begin(), covariance_.end(), 0.0);
  spread(0, 0) = heat_variance;
  bucket_ = -1;
}

// Makes what all graphs of a kind cost beside a plain step less certain. While they run (`seen`) their cost stays known
// and it is the plain step's that is not: else every trend of a text of verify steps would move what they cost beside it.
void Controller::loosen(Kind kind, double variance, bool seen) {
  if (seen) {
    spread(0, 0) += variance;
    for (int32_t i = 1; i < arms_; ++i) {
      if (kind_of(i) != kind) continue;
      spread(0, i) -= variance;
      spread(i, 0) -= variance;
    }
  }
  for (int32_t i = 1; i < arms_; ++i) {
    for (int32_t j = 1; j < arms_; ++j) {
      if (kind_of(i) == kind && kind_of(j) == kind) spread(i, j) += variance;
    }
  }
}

double Controller::doubt(Kind kind) const {
  double least = kMostVariance;
  for (int32_t i = 1; i < arms_; ++i) {
    if (kind_of(i) == kind) least = std::min(least, spread(i, i));
  }
  return least;
}

// A Kalman filter of the common factor and of every graph's cost beside it. Graphs of a kind move together because their
// costs' errors do; and what verify steps alone show is the common factor's, however long they go on, because its error
// and theirs have been seen to cancel: only a text with steps of both kinds parts the two. The drafter, which runs
// beside a verify, never moves the common factor.
void Controller::measure(int32_t position, int32_t arm, double us) {
  if (arm < 0 || !(us > 0.0) || !std::isfinite(us)) return;
  const double measured = std::log(std::clamp(us, kLeastUs, kMostUs));
  const Prices guess = prices(position);
  const bool first = bucket_ < 0;
  if (bucket_of(position) != bucket_) {
    leave();
    touch(position);
    enter(bucket_of(position), !first);
  }
  const int32_t bucket = bucket_;
  const Kind kind = kind_of(arm);
  auto& levels = levels_[static_cast<size_t>(bucket)];
  if (kind == kPlain && !plain_known_) set_plain(measured);
  Estimate& own = cost(bucket, arm);
  if (kind != kPlain && !own.known()) {
    const double us_guess = kind == kDraft ? guess.draft_us[static_cast<size_t>(draft_of(arm))]
                                           : guess.verify_us[static_cast<size_t>(rows_of(arm) - 1)];
    own = {us_guess > 0.0 ? std::log(us_guess) - heat_ : measured - heat_, kLoadVariance, worn_};
    stays_[static_cast<size_t>(arm)].start = own.mean;
  }
  double residual = measured - heat_ - (kind == kPlain ? 0.0 : own.mean);
  bool throttled = false;
  int32_t& last = last_arm_[kind == kDraft ? 1 : 0];
  const int32_t word = std::exchange(last, arm) == arm ? kColdWitnesses / kWitnesses : 1;
  if (residual > kSurprise && !first) {
    surprises_ += kind != kDraft ? word : 0;
    throttled = kind != kDraft && surprises_ >= kColdWitnesses;
    levels[kind].surprises += word;
    if (levels[kind].surprises < (dear_[kind] ? kColdWitnesses / 2 : kColdWitnesses) && !throttled) return;
    dear_[kind] = kind != kPlain;
    if (throttled) spread(0, 0) = kRested;
  }
  if (kind != kDraft) surprises_ = 0;
  levels[kind].surprises = 0;
  // Back to the usual cost: no witness is needed.
  if (residual < -std::max(kSurprise, kBack * levels[kind].excess) && levels[kind].excess > kSurprise) {
    loosen(kind, std::max(0.0, kMostVariance - doubt(kind)), false);
    dear_[kind] = false;
    looks_ = kLookMost;  // see it again at once
  }

  ++stays_[static_cast<size_t>(arm)].runs;

  // The covariance of the measurement with every cost, and its variance.
  const bool with_heat = kind != kDraft;
  for (int32_t i = 0; i < arms_; ++i) {
    with_[static_cast<size_t>(i)] = spread(i, arm) + (with_heat && arm != 0 ? spread(i, 0) : 0.0);
  }
  double total = (first ? kFirstNoise : kNoise) + with_[static_cast<size_t>(arm)];
  if (arm != 0) total += with_heat ? with_[0] : spread(0, 0);
  const double deviation = std::sqrt(total);
  residual = std::clamp(residual, -kClipDown * deviation, kClipUp * deviation);
  std::array<double, kKinds> moved{}, known{};
  for (int32_t i = 0; i < arms_; ++i) {
    const double move = with_[static_cast<size_t>(i)] / total * residual;
    if (i == 0 || cost(bucket, i).known()) {
      (i == 0 ? heat_ : cost(bucket, i).mean) += move;
      moved[kind_of(i)] += move, known[kind_of(i)] += 1.0;
    }
    for (int32_t j = 0; j < arms_; ++j) {
      spread(i, j) -= with_[static_cast<size_t>(i)] * with_[static_cast<size_t>(j)] / total;
    }
  }
  if (throttled) spread(0, 0) = kRested;  // it may yet prove a mistake
  for (const Kind each : {kVerify, kDraft}) {
    double& excess = levels[each].excess;
    if (known[each] > 0.0) excess += moved[each] / known[each];
    excess *= 1.0 - (excess < 0.0 ? kUsualFall : each != kind ? 0.0 : exploring_ ? kUsualLook : kUsual);
    excess = std::clamp(excess, -kMostExcess, kMostExcess);
    if (!first && kind != kDraft && std::fabs(residual) > kSurprise) {
      const double apart = std::min(kApart * kApart * moved[kPlain] * moved[kPlain], kMostVariance);
      apart_ += apart;
      loosen(each, std::max(0.0, std::min(apart, kMostVariance - doubt(each))), each == kind);
    }
  }
}

// Of the first few timings of a graph the least are the truest.
void Controller::calibrate(int32_t position, int32_t rows, int32_t k, double us) {
  const int32_t arm = rows > 0 ? arm_of_rows(rows) : arm_of_draft(k);
  if (arm < 0 || !(us > 0.0) || !std::isfinite(us)) return;
  const int32_t bucket = touch(position);
  const double measured = std::log(std::clamp(us, kLeastUs, kMostUs));
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

bool Controller::check(int32_t position, const std::vector<Timing>& timings) {
  const int32_t bucket = nearest_touched(bucket_of(position));
  double plain = 0.0;
  bool holds = bucket >= 0;
  for (const Timing& timing : timings) {  // the plain step is the first
    const int32_t arm = timing.rows > 0 ? arm_of_rows(timing.rows) : arm_of_draft(timing.k);
    if (!holds || arm < 0 || !(timing.us > 0.0) || (arm == 0 ? !plain_known_ : !cost(bucket, arm).known())) continue;
    const double parted = std::log(timing.us / believed_us(bucket, arm));
    if (arm == 0) {
      plain = parted;
      holds = std::fabs(plain) <= kFarAll;
      continue;
    }
    holds = std::fabs(parted - plain) <= kFar;
    levels_[static_cast<size_t>(bucket)][kind_of(arm)].excess = std::max(0.0, plain - parted);
  }
  if (!holds) forget_costs();
  return holds;
}

// What was measured of other graphs stays as it is.
void Controller::set_plain(double log_us) {
  for (int32_t bucket = 0; bucket < kBuckets; ++bucket) {
    for (int32_t arm = 1; arm < arms_; ++arm) cost(bucket, arm).mean = bounded(cost(bucket, arm).mean - log_us + heat_);
  }
  heat_ = log_us;
  plain_known_ = true;
}

void Controller::forget_costs() {
  std::fill(costs_.begin(), costs_.end(), Estimate{});
  for (auto& bucket : levels_) bucket.fill({});
  touched_ = {};
  bucket_ = -1;
  heat_ = 0.0;
  plain_known_ = false;
}

bool Controller::calibrated() const {
  // A touched bucket starts from its neighbour, so any of them knows what any other does, but for the newest arms.
  const auto known = [&](int32_t arm) {
    for (int32_t bucket = 0; bucket < kBuckets; ++bucket) {
      if (touched_[static_cast<size_t>(bucket)] && cost(bucket, arm).known()) return true;
    }
    return false;
  };
  const auto verifies = static_cast<int32_t>(widths_.size()), drafts = static_cast<int32_t>(lengths_.size());
  int32_t known_verifies = 0, known_drafts = 0;
  for (int32_t i = 1; i <= verifies; ++i) known_verifies += known(i) ? 1 : 0;
  for (int32_t i = 1; i <= drafts; ++i) known_drafts += known(verifies + i) ? 1 : 0;
  return plain_known_ && known_verifies >= std::min(verifies, 2) && (verifies == 0 || known(verifies)) &&
         known_drafts >= std::min(drafts, 1);
}

// Lines through what was measured; monotone between and beyond.
Controller::Prices Controller::prices(int32_t position) const {
  Prices prices;
  prices.verify_us.fill(0.0);
  prices.draft_us.fill(0.0);
  const int32_t bucket = nearest_touched(bucket_of(position));
  if (bucket < 0 || !plain_known_) return prices;
  const auto believed = [&](int32_t arm) { return believed_us(bucket, arm); };
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
  for (size_t i = 0; i < widths_.size(); ++i) {
    const auto arm = static_cast<int32_t>(1 + i);
    if (!cost(bucket, arm).known()) continue;
    x[points] = widths_[i];
    y[points++] = believed(arm);
  }
  for (int32_t n = 1; n <= longest_; ++n) {
    const int32_t rows = rows_for(n);
    if (rows == 0) break;
    const int32_t arm = arm_of_rows(rows);
    prices.verify_us[static_cast<size_t>(n)] = cost(bucket, arm).known() ? believed(arm)
                                               : points > 1 ? line(rows)
                                                            : plain * (kGuessVerify + kGuessRow * (rows - 1));
  }

  points = 0;
  for (const int32_t k : lengths_) {
    const int32_t arm = arm_of_draft(k);
    if (!cost(bucket, arm).known()) continue;
    if (points == 0) {  // what a drafter costs before it drafts
      x[0] = 0.0;
      y[points++] = kFixedDraft * believed(arm);
    }
    x[points] = k;
    y[points++] = believed(arm);
  }
  for (const int32_t k : lengths_) {
    const int32_t arm = arm_of_draft(k);
    prices.draft_us[static_cast<size_t>(k)] =
        cost(bucket, arm).known() ? believed(arm) : points > 1 ? line(k) : plain * kGuessDraft * k;
  }
  // Less never costs more. What has not run for long, its level having moved on without it, may be believed to.
  for (int32_t n = longest_ - 1; n >= 1; --n) {
    double& us = prices.verify_us[static_cast<size_t>(n)];
    const double more = prices.verify_us[static_cast<size_t>(n) + 1];
    if (more > 0.0) us = std::min(us, more);
  }
  for (size_t i = lengths_.size(); i-- > 1;) {
    double& us = prices.draft_us[static_cast<size_t>(lengths_[i - 1])];
    us = std::min(us, prices.draft_us[static_cast<size_t>(lengths_[i])]);
  }
  return prices;
}

// ---- acceptance ---------------------------------------------------------------------------------------------------

// The chance that the drafter's j-th draft is right if those before it are. A position's prior is what other texts
// taught, moved as far as this text moved the position before it: texts are easy or hard as a whole.
void Controller::fill_accept(Accept& accept) const {
  double start = kFirst, moved_memory = 1.0, moved = 1.0;
  for (size_t j = 0; j < static_cast<size_t>(longest_); ++j, start *= kLater) {
    const double usual = memory_[j].mean(probability(odds(start) * moved_memory), kMemoryPrior);
    moved_memory = odds(usual) / odds(start);
    const double known = memory_[j].trials / (memory_[j].trials + kMemoryPrior);
    accept[j] = recent_[j].mean(probability(odds(usual) * moved), kPriorWeight * (1.0 + known));
    moved = odds(accept[j]) / odds(usual);
  }
}

// expected[k]: tokens of a step with k drafts.
void Controller::fill_expected(const Accept& accept, Expected& expected) const {
  double reach = 1.0;
  expected[0] = 1.0;
  for (size_t j = 0; j < static_cast<size_t>(longest_); ++j) expected[j + 1] = expected[j] + (reach *= accept[j]);
}

double Controller::accept_confidence(Source source, float confidence) const {
  return accept_bin(source, bin_of(confidence));
}

double Controller::accept_bin(Source source, size_t bin) const {
  const auto from = static_cast<size_t>(source);
  const double usual = bins_[from][bin].mean(bin_prior(source, bin), bin_weight(source));
  return probability(odds(usual) * shift_[from].odds());
}

// How far the drafter's confidence is to be believed, 0 to 1: by how much less it errs than the draft's position.
double Controller::trust() const {
  const double skill = 1.0 - (confidence_error_ + kErrorWeight * kFirstConfidenceError) /
                                 (position_error_ + kErrorWeight * kFirstPositionError);
  return std::clamp(kTrustSkill * skill, 0.0, 1.0);
}

// The chance that draft `i` is right if those before it are.
double Controller::accept(const Proposal& proposal, int32_t i, double at_position, double trust) const {
  const auto at = static_cast<size_t>(i);
  const double confident = accept_confidence(proposal.source[at], proposal.confidence[at]);
  if (proposal.source[at] != Source::kDrafter) return confident;
  return trust * confident + (1.0 - trust) * at_position;
}

void Controller::learn(const Proposal& proposal, int32_t verified, int32_t accepted) {
  Accept by_position{};
  fill_accept(by_position);
  const double trusted = trust();
  size_t drafter_position = 0;
  const int32_t last = std::min({accepted, verified, proposal.count - 1});
  for (int32_t i = 0; i <= last; ++i) {
    const auto at = static_cast<size_t>(i);
    const Source source = proposal.source[at];
    const auto from = static_cast<size_t>(source);
    const double hit = i < accepted ? 1.0 : 0.0;
    const size_t bin = bin_of(proposal.confidence[at]);
    const double usual = bins_[from][bin].mean(bin_prior(source, bin), bin_weight(source));
    const double expected = accept_confidence(source, proposal.confidence[at]);
    Shift& shift = shift_[from];
    shift.hits = shift.hits * kKeepShift + hit;
    shift.misses = shift.misses * kKeepShift + 1.0 - hit;
    shift.expected_hits = shift.expected_hits * kKeepShift + usual;
    shift.expected_misses = shift.expected_misses * kKeepShift + 1.0 - usual;
    bins_[from][bin].add(hit, 1.0, kKeepBin);
    if (source != Source::kDrafter) continue;
    if (i == 0) {
      first_.add(hit, 1.0, 1.0);
      if (turned_easier(hit, by_position[0])) {
        for (Count& count : recent_) {
          const double keep = kTurnKeeps / std::max(kTurnKeeps, count.trials);
          count = {count.hits * keep, count.trials * keep};
        }
        shift_[from] = {};
      }
    }
    const double position_error = hit - by_position[drafter_position], confidence_error = hit - expected;
    position_error_ = position_error_ * kKeepBin + position_error * position_error;
    confidence_error_ = confidence_error_ * kKeepBin + confidence_error * confidence_error;
    // A draft that is right half the time tells little by being right; a trusted confidence tells more.
    const double blend = kBlend * trusted;
    recent_[drafter_position].add((1.0 - blend) * hit + blend * expected, 1.0 + trusted, 1.0);
    whole_[drafter_position++].add(hit, 1.0, 1.0);
  }
}

// Whether the last first drafts, of which this one was right or not, are better told by a text that is half way to certain
// than by what is believed of it (Page, "Continuous inspection schemes", 1954). Hard texts are drafted seldom: their few drafts
// must not have to outweigh all that was drafted before.
bool Controller::turned_easier(double hit, double believed) {
  const double p = std::clamp(believed, 0.01, 0.99), easier = 0.5 + p / 2.0;
  turn_ = std::max(0.0, turn_ + (hit > 0.0 ? std::log(easier / p) : std::log((1.0 - easier) / (1.0 - p))));
  if (turn_ < kTurn) return false;
  turn_ = 0.0;
  return true;
}

// How much better than verifying all K drafts it is to verify as many as their confidences are worth: over the last
// drafts, at the best rate known. 1 = confidences do not tell.
void Controller::fill_trim_gain(const Prices& prices, const Accept& by_position, Expected& gain) const {
  Expected tokens_all{}, us_all{}, tokens{}, us{}, seen{};
  const double trusted = trust();
  std::array<double, kBins> by_confidence;
  for (size_t bin = 0; bin < by_confidence.size(); ++bin) by_confidence[bin] = accept_bin(Source::kDrafter, bin);
  const int32_t kept = std::min(drafts_seen_, kRecent);
  for (int32_t i = 0; i < kept; ++i) {
    const Draft& draft = drafts_[static_cast<size_t>(i)];
    double reach = 1.0, expected = 1.0, best = 1.0 - rate_ * prices.verify_us[0];
    double best_tokens = 1.0, best_us = prices.verify_us[0];
    for (int32_t n = 1; n <= std::min(draft.count, longest_); ++n) {
      const auto at = static_cast<size_t>(n);
      reach *= trusted * by_confidence[bin_of(draft.confidence[at - 1])] + (1.0 - trusted) * by_position[at - 1];
      expected += reach;
      const double cost = prices.verify_us[at], value = expected - rate_ * cost;
      if (value > best) {
        best = value;
        best_tokens = expected;
        best_us = cost;
      }
      tokens_all[at] += expected;
      us_all[at] += prices.draft_us[at] + cost;
      tokens[at] += best_tokens;
      us[at] += prices.draft_us[at] + best_us;
      seen[at] += 1.0;
    }
  }
  for (const int32_t k : lengths_) {
    const auto at = static_cast<size_t>(k);
    gain[at] = 1.0;
    if (seen[at] == 0.0) continue;
    const double more = (tokens[at] / us[at]) / (tokens_all[at] / us_all[at]);
    gain[at] += std::max(0.0, more - 1.0) * seen[at] / (seen[at] + 4.0);
  }
}

// ---- the choice ---------------------------------------------------------------------------------------------------

Plan Controller::plan(int32_t position, int32_t most) {
  force_ = exploring_ = looking_ = false;
  const Prices now = prices(position);
  const double plain_us = now.verify_us[0];
  Plan plan;
  most = std::max(most, 0);
  if (plain_us > 0.0) {
    plan.plain_tokens_per_ms = plan.tokens_per_ms = static_cast<float>(1e3 / plain_us);
    rate_ = 1.0 / plain_us;
  }
  if (lengths_.empty()) {
    plan.drafts = widths_.empty() ? 0 : std::min(most, widths_.back() - 1);
    return plan;
  }
  if (plain_us == 0.0) return plan;
  plan = choose(most, now);
  explore(position, most, now, plan);
  return plan;
}

Plan Controller::choose(int32_t most, const Prices& now) {
  Accept accept{};
  Expected expected, gain;
  fill_accept(accept);
  fill_expected(accept, expected);
  fill_trim_gain(now, accept, gain);
  const double plain_rate = 1.0 / now.verify_us[0];
  int32_t best = 0, kept = current_ == 0 ? 0 : -1;
  double best_rate = plain_rate, kept_rate = plain_rate;
  for (const int32_t k : lengths_) {
    if (k > most) break;
    const auto at = static_cast<size_t>(k);
    const double rate = expected[at] / (now.draft_us[at] + now.verify_us[at]) * gain[at];
    if (rate > best_rate) {
      best = k;
      best_rate = rate;
    }
    if (k == current_) {
      kept = k;
      kept_rate = rate;
    }
  }
  if (kept >= 0 && best_rate < kept_rate * kBetter) {
    best = kept;
    best_rate = kept_rate;
  } else if (kept < 0 && best_rate < plain_rate * kBetter) {
    best = 0;
    best_rate = plain_rate;
  }
  if (most >= lengths_.back()) current_ = best;
  rate_ = std::max(best_rate, plain_rate);
  return {best, false, static_cast<float>(1e3 * best_rate), static_cast<float>(1e3 * plain_rate)};
}

// Replaces the believed best by a step that teaches something, if the budget pays for what it is believed to lose.
bool Controller::explore(int32_t position, int32_t most, const Prices& now, Plan& plan) {
  Accept accept{};
  Expected expected;
  fill_accept(accept);
  fill_expected(accept, expected);
  const double plain_us = now.verify_us[0];
  const auto spend = [&](int32_t drafts, double loss, double tokens_per_us, double credit = 0.0) {
    if (loss > budget_ + std::min(0.0, ledger_) + credit) return false;
    budget_ -= loss;
    plan.drafts = drafts;
    plan.explore = exploring_ = true;
    plan.tokens_per_ms = static_cast<float>(1e3 * tokens_per_us);
    return true;
  };
  const double stale = doubt(kVerify);
  if (plan.drafts == 0) {
    const int32_t k = lengths_.front();
    if (k > most) return false;
    const auto at = static_cast<size_t>(k);
    // What drafting would cost if its costs were the usual ones again, a share of what is believed.
    const double usual_verify = std::exp(-std::max(0.0, level(position, kVerify).excess));
    const double usual_draft = std::exp(-std::max(0.0, level(position, kDraft).excess));
    bool hopeful = false, in_doubt = false, was_worth = false;  // a very good text would pay; this one, if verifying
    for (const int32_t length : lengths_) {                     // got cheaper; this one, at the usual costs
      const auto l = static_cast<size_t>(length);
      const double tokens = (1.0 - std::pow(kHopeful, length + 1)) / (1.0 - kHopeful);
      const double least_us = now.draft_us[l] + now.verify_us[l] * std::exp(-std::sqrt(stale));
      const double usual_us = now.draft_us[l] * usual_draft + now.verify_us[l] * usual_verify;
      hopeful = hopeful || tokens * plain_us > kBetter * std::min(least_us, usual_us);
      in_doubt = in_doubt || (stale > kVeryStale && expected[l] * plain_us > kBetter * least_us);
      was_worth = was_worth || (std::min(usual_verify, usual_draft) < kDear &&
                                expected[l] * plain_us > kBetter * usual_us);
    }
    if (!hopeful) return false;
    const double us = now.draft_us[at] + now.verify_us[at], rate = expected[at] / us;
    const double loss = std::max(0.0, us / plain_us - expected[at]);
    looking_ = was_worth;
    if (was_worth && loss <= looks_) {
      looks_ -= loss;
      budget_ += loss;  // looks have their own
      force_ = spend(k, loss, rate, kLookMost + kExploreMost);
      return force_;
    }
    if (in_doubt && spend(k, loss, rate)) {
      force_ = true;
      return true;
    }
    return spend(k, now.draft_us[at] / plain_us, rate);
  }
  // In a text that was verified for long both are in doubt; where plain steps just ran, only the other is.
  const double plain_stale = std::min(stale, spread(0, 0));
  if (plain_stale > kStale) {
    // What plain decoding would give is in doubt: one look is due, whatever it costs by the old belief.
    const double credit = plain_stale > kVeryStale ? 1.0 : 0.0;
    if (spend(0, std::max(0.0, 1.0 - 1.0 / (plain_us * rate_)), 1.0 / plain_us, credit)) return true;
  }
  const auto longer = std::upper_bound(lengths_.begin(), lengths_.end(), plan.drafts);
  if (longer == lengths_.end() || *longer > most) return false;
  const auto at = static_cast<size_t>(*longer);
  if (recent_[at - 1].trials >= 2.0) return false;
  const double cost = now.draft_us[at] + now.verify_us[at];
  if (!spend(*longer, std::max(0.0, cost - expected[at] / rate_) / plain_us, expected[at] / cost)) return false;
  // The graph that would verify so many may be one that never looks worth its cost: then only this shows what it costs.
  const int32_t verify = arm_of_rows(rows_for(*longer));
  force_ = bucket_ == bucket_of(position) && verify > 0 && spread(verify, verify) > kVeryStale;
  return true;
}

template <typename Visit>
void Controller::each_part(int32_t position, const Proposal& proposal, const Visit& visit) const {
  const int32_t count = std::clamp(proposal.count, 0, kMaxDrafts);
  const Prices now = prices(position);
  Accept by_position{};
  fill_accept(by_position);
  const double trusted = trust();
  size_t drafter_position = 0;
  double reach = 1.0, expected = 1.0;
  visit(0, expected, now.verify_us[0]);
  for (int32_t n = 1; n <= count; ++n) {
    const auto at = static_cast<size_t>(n);
    const int32_t rows = rows_for(n);
    if (rows == 0) break;
    reach *= accept(proposal, n - 1, by_position[drafter_position], trusted);
    drafter_position += proposal.source[at - 1] == Source::kDrafter ? 1 : 0;
    expected += reach;
    if (n != count && n + 1 != rows) continue;  // the graph has room for another
    visit(n, expected, now.verify_us[at]);
  }
}

int32_t Controller::trim(int32_t position, const Proposal& proposal) const {
  int32_t worth = 0;
  double rate = 0.0, best = -INFINITY;
  each_part(position, proposal, [&](int32_t n, double expected, double us) {
    if (n == 0) rate = us > 0.0 ? std::max(rate_, 1.0 / us) : 0.0;
    const double value = n == 0 && force_ ? -INFINITY : expected - rate * us;
    if (value <= best && !force_) return;
    best = value;
    worth = n;
  });
  return worth;
}

float Controller::rate(int32_t position, const Proposal& proposal) const {
  double best = 0.0;
  each_part(position, proposal, [&](int32_t, double expected, double us) {
    if (us > 0.0) best = std::max(best, expected / us);
  });
  return static_cast<float>(1e3 * best);
}

void Controller::observe(int32_t position, int32_t drafter_k, int32_t rows, const Proposal& proposal,
                         int32_t accepted, double draft_us, double rest_us) {
  worn_ += kOwnDrift;
  apart_ += kLevelDrift;
  if (bucket_ >= 0) {
    spread(0, 0) = std::min(spread(0, 0) + kHeatDrift, kRested);
    for (const Kind kind : {kVerify, kDraft}) {
      if (doubt(kind) < kMostVariance) loosen(kind, kLevelDrift, kind == kVerify && rows > 1);
    }
    for (int32_t i = 1; i < arms_; ++i) {
      if (i != arm_of_rows(rows) && i != arm_of_draft(drafter_k)) spread(i, i) += kOwnDrift;
    }
  }
  measure(position, arm_of_rows(rows), rest_us);
  if (drafter_k > 0) measure(position, arm_of_draft(drafter_k), draft_us);

  const int32_t count = std::clamp(proposal.count, 0, kMaxDrafts);
  const int32_t verified = std::clamp(rows - 1, 0, count);
  if (drafter_k > 0) {
    for (Count& position_count : recent_) {
      position_count.hits *= kKeepRecent;
      position_count.trials *= kKeepRecent;
    }
    Draft& draft = drafts_[static_cast<size_t>(drafts_seen_ % kRecent)];
    draft.count = 0;
    for (int32_t i = 0; i < count; ++i) {
      const auto at = static_cast<size_t>(i);
      if (proposal.source[at] == Source::kDrafter) {
        draft.confidence[static_cast<size_t>(draft.count++)] = proposal.confidence[at];
      }
    }
    drafts_seen_ = drafts_seen_ < 2 * kRecent - 1 ? drafts_seen_ + 1 : kRecent;
  }
  learn(proposal, verified, std::clamp(accepted, 0, std::min(count, verified + 1)));

  const Prices now = prices(position);
  if (now.verify_us[0] > 0.0) {
    const double drafted = drafter_k > 0 && drafter_k <= kMaxDrafts ? now.draft_us[static_cast<size_t>(drafter_k)] : 0;
    const double spent = drafted + now.verify_us[static_cast<size_t>(std::clamp(rows - 1, 0, kMaxDrafts))];
    budget_ = std::min(budget_ + kExploreShare * spent / now.verify_us[0], kExploreMost);
    if (looking_) looks_ = std::min(looks_ + kLookShare * spent / now.verify_us[0], kLookMost);
    if (!exploring_) {
      const double gain = std::clamp(accepted, 0, verified) + 1.0 - spent / now.verify_us[0];
      ledger_ = std::clamp(ledger_ + gain, -credit_, kExploreMost);
    }
  }
}

// ---- memory -------------------------------------------------------------------------------------------------------

namespace {

constexpr double kMostTrials = 1.0 / (1.0 - kKeepBin) + 1.0;
constexpr char kFormat[] = "edge-mtp-controller-3";

// Exact and the same in every locale: the bits of a double, in hexadecimal.
void put(std::ostringstream& out, double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  char digits[17];
  for (int i = 0; i < 16; ++i) digits[i] = "0123456789abcdef"[bits >> (60 - 4 * i) & 15];
  digits[16] = '\0';
  out << ' ' << digits;
}

// Reads what put() wrote; after a failure, and beyond the bounds, `good` stays false.
struct Reader {
  std::istringstream in;
  bool good = true;

  int64_t count() {
    int64_t value = 0;
    good = good && (in >> value) && value >= 0 && static_cast<double>(value) <= 2.0 * kMostFirst;
    return good ? value : 0;
  }

  double get(double least, double most) {
    std::string digits;
    uint64_t bits = 0;
    good = good && (in >> digits) && digits.size() == 16;
    for (size_t i = 0; good && i < digits.size(); ++i) {
      const char c = digits[i];
      const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
      good = digit >= 0;
      bits = bits << 4 | static_cast<uint64_t>(digit & 15);
    }
    double value;
    std::memcpy(&value, &bits, sizeof value);
    good = good && value >= least && value <= most;  // false for NaN
    return good ? value : 0.0;
  }
};

}  // namespace

std::string Controller::header() const {
  std::ostringstream out;
  out << kFormat << " lengths";
  for (const int32_t k : lengths_) out << ' ' << k;
  out << " widths";
  for (const int32_t rows : widths_) out << ' ' << rows;
  out << " first";
  return out.str();
}

std::string Controller::save() const {
  Controller rested = *this;
  rested.begin();
  std::ostringstream out;
  const auto put_estimate = [&](const Estimate& estimate, double clock) {
    put(out, estimate.mean);
    put(out, estimate.known() ? estimate.at(clock) : -1.0);
  };
  out << header() << ' ' << static_cast<int64_t>(rested.first_.trials) << ' ' << static_cast<int64_t>(rested.first_.hits);
  out << " state";
  put(out, rested.plain_known_ ? rested.heat_ : -INFINITY);
  put(out, rested.confidence_error_);
  put(out, rested.position_error_);
  put(out, rested.looks_);
  for (int32_t bucket = 0; bucket < kBuckets; ++bucket) {
    const bool touched = rested.touched_[static_cast<size_t>(bucket)];
    put(out, touched ? 1.0 : 0.0);
    if (!touched) continue;
    for (const Level& level : rested.levels_[static_cast<size_t>(bucket)]) {
      put(out, level.at(rested.apart_));
      put(out, level.excess);
    }
    for (int32_t arm = 1; arm < arms_; ++arm) put_estimate(rested.cost(bucket, arm), rested.worn_);
  }
  const auto put_count = [&](const Count& count) {
    put(out, count.hits);
    put(out, count.trials);
  };
  for (const Count& count : rested.memory_) put_count(count);
  for (const auto& source : rested.bins_) {
    for (const Count& count : source) put_count(count);
  }
  return out.str();
}

bool Controller::restore(const std::string& text) {
  const std::string expected = header();
  if (text.compare(0, expected.size(), expected) != 0) return false;
  Reader reader{std::istringstream(text.substr(expected.size()))};
  Controller fresh({lengths_, widths_});
  fresh.first_.trials = static_cast<double>(reader.count());
  fresh.first_.hits = static_cast<double>(reader.count());
  std::string state;
  reader.good = reader.good && (reader.in >> state) && state == "state" && fresh.first_.hits <= fresh.first_.trials;
  const auto get_estimate = [&](Estimate& estimate) {
    estimate.mean = reader.get(bounded(-INFINITY), bounded(INFINITY));
    estimate.variance = reader.get(-1.0, kMostVariance);
  };
  fresh.heat_ = reader.get(-INFINITY, std::log(kMostUs));
  fresh.plain_known_ = fresh.heat_ >= std::log(kLeastUs);
  if (!fresh.plain_known_) fresh.heat_ = 0.0;
  fresh.confidence_error_ = reader.get(0.0, kMostTrials);
  fresh.position_error_ = reader.get(0.0, kMostTrials);
  fresh.looks_ = reader.get(-kExploreMost, kLookMost);
  for (int32_t bucket = 0; bucket < kBuckets && reader.good; ++bucket) {
    const bool touched = reader.get(0.0, 1.0) > 0.0;
    fresh.touched_[static_cast<size_t>(bucket)] = touched;
    if (!touched) continue;
    for (Level& level : fresh.levels_[static_cast<size_t>(bucket)]) {
      level.variance = reader.get(0.0, kMostVariance);
      level.excess = reader.get(-kMostExcess, kMostExcess);
    }
    for (int32_t arm = 1; arm < arms_; ++arm) get_estimate(fresh.cost(bucket, arm));
  }
  const auto get_count = [&](Count& count, double most) {
    count.hits = reader.get(0.0, most);
    count.trials = reader.get(count.hits, most);
  };
  for (Count& count : fresh.memory_) get_count(count, kMemoryMost);
  for (auto& source : fresh.bins_) {
    for (Count& count : source) get_count(count, kMostTrials);
  }
  std::string rest;
  if (!reader.good || reader.in >> rest) return false;
  fresh.begin();
  *this = std::move(fresh);
  return true;
}

}  // namespace edge_mtp
