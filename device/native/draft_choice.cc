#include "draft_choice.h"

#include <algorithm>
#include <cmath>

namespace edge_mtp {
namespace {

constexpr double kBetter = 1.02;         // hysteresis: what a change of draft length must promise
constexpr double kExploreShare = 0.005;  // of the time spent
constexpr double kLookShare = 0.025, kLookMost = 4.0;  // while drafting is given up for costs that are not the usual
constexpr double kCredit = 0.4;       // plain steps for exploring at a text's start, while no text is known
constexpr double kExploreMost = 2.0;  // plain steps that may be saved up for it
constexpr double kHopeful = 0.95;     // acceptance of a text that deserves a look
constexpr double kDear = 0.8;         // usual costs below this share of the believed ones are worth a look
constexpr double kStale = 0.01, kVeryStale = 0.03;  // variance of a cost that deserves a measurement

// Calls visit(n, expected tokens, microseconds) for each number n of leading drafts that fills a graph, or is all.
template <typename Visit>
void each_part(const CostModel& costs, const Acceptance& acceptance, int32_t position, const Proposal& proposal,
               const Visit& visit) {
  const int32_t count = std::clamp(proposal.count, 0, kMaxDrafts);
  const Prices now = costs.prices(position);
  const Acceptance::ByPosition by_position = acceptance.by_position();
  const double trusted = acceptance.trust();
  size_t drafter_position = 0;
  double reach = 1.0, expected = 1.0;
  visit(0, expected, now.verify_us[0]);
  for (int32_t n = 1; n <= count; ++n) {
    const auto at = static_cast<size_t>(n);
    const int32_t rows = costs.arms().rows_for(n);
    if (rows == 0) break;
    reach *= acceptance.chance(proposal, n - 1, by_position[drafter_position], trusted);
    drafter_position += proposal.source[at - 1] == Source::kDrafter ? 1 : 0;
    expected += reach;
    if (n != count && n + 1 != rows) continue;  // the graph has room for another
    visit(n, expected, now.verify_us[at]);
  }
}

}  // namespace

void DraftChoice::begin(double novelty) {
  drafts_seen_ = 0;
  current_ = -1;
  force_ = false;
  ledger_ = 0.0;
  budget_ = credit_ = kCredit * novelty;
  exploring_ = false;
}

// ---- before a step ------------------------------------------------------------------------------------------------

Plan DraftChoice::plan(const CostModel& costs, const Acceptance& acceptance, int32_t position, int32_t most) {
  force_ = exploring_ = looking_ = false;
  const std::vector<int32_t>&lengths = costs.arms().lengths(), &widths = costs.arms().widths();
  Belief belief;
  belief.prices = costs.prices(position);
  const double plain_us = belief.prices.verify_us[0];
  Plan plan;
  most = std::max(most, 0);
  if (plain_us > 0.0) {
    plan.plain_tokens_per_ms = plan.tokens_per_ms = static_cast<float>(1e3 / plain_us);
    rate_ = 1.0 / plain_us;
  }
  if (lengths.empty()) {
    plan.drafts = widths.empty() ? 0 : std::min(most, widths.back() - 1);
    return plan;
  }
  if (plain_us == 0.0) return plan;
  belief.chance = acceptance.by_position();
  belief.expected = acceptance.expected(belief.chance);
  plan = choose(costs, acceptance, most, belief);
  explore(costs, acceptance, position, most, belief, plan);
  return plan;
}

Plan DraftChoice::choose(const CostModel& costs, const Acceptance& acceptance, int32_t most, const Belief& belief) {
  const std::vector<int32_t>& lengths = costs.arms().lengths();
  const Prices& now = belief.prices;
  const Acceptance::Expected gain = trim_gain(costs, acceptance, belief);
  const double plain_rate = 1.0 / now.verify_us[0];
  int32_t best = 0, kept = current_ == 0 ? 0 : -1;
  double best_rate = plain_rate, kept_rate = plain_rate;
  for (const int32_t k : lengths) {
    if (k > most) break;
    const auto at = static_cast<size_t>(k);
    const double rate = belief.expected[at] / (now.draft_us[at] + now.verify_us[at]) * gain[at];
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
  if (most >= lengths.back()) current_ = best;
  rate_ = std::max(best_rate, plain_rate);
  return {best, false, static_cast<float>(1e3 * best_rate), static_cast<float>(1e3 * plain_rate)};
}

// [K]: how much better it is to verify as many of K drafts as their confidences are worth than to verify all, over the
// last drafts and at the best rate known. 1 = confidences do not tell.
Acceptance::Expected DraftChoice::trim_gain(const CostModel& costs, const Acceptance& acceptance,
                                            const Belief& belief) const {
  const Prices& prices = belief.prices;
  Acceptance::Expected gain{}, tokens_all{}, us_all{}, tokens{}, us{}, seen{};
  const double trusted = acceptance.trust();
  std::array<double, Acceptance::kBins> by_confidence;
  for (size_t bin = 0; bin < by_confidence.size(); ++bin) {
    by_confidence[bin] = acceptance.by_confidence(Source::kDrafter, bin);
  }
  const int32_t kept = std::min(drafts_seen_, kRecent);
  for (int32_t i = 0; i < kept; ++i) {
    const Draft& draft = drafts_[static_cast<size_t>(i)];
    double reach = 1.0, expected = 1.0, best = 1.0 - rate_ * prices.verify_us[0];
    double best_tokens = 1.0, best_us = prices.verify_us[0];
    for (int32_t n = 1; n <= std::min(draft.count, costs.arms().longest()); ++n) {
      const auto at = static_cast<size_t>(n);
      const double confident = by_confidence[Acceptance::bin_of(draft.confidence[at - 1])];
      reach *= trusted * confident + (1.0 - trusted) * belief.chance[at - 1];
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
  for (const int32_t k : costs.arms().lengths()) {
    const auto at = static_cast<size_t>(k);
    gain[at] = 1.0;
    if (seen[at] == 0.0) continue;
    const double more = (tokens[at] / us[at]) / (tokens_all[at] / us_all[at]);
    gain[at] += std::max(0.0, more - 1.0) * seen[at] / (seen[at] + 4.0);
  }
  return gain;
}

// ---- to learn -----------------------------------------------------------------------------------------------------

// Replaces the believed best by a step that teaches something, if the budget pays for what it is believed to lose.
void DraftChoice::explore(const CostModel& costs, const Acceptance& acceptance, int32_t position, int32_t most,
                          const Belief& belief, Plan& plan) {
  if (plan.drafts == 0) {
    explore_drafting(costs, position, most, belief, plan);
  } else {
    explore_further(costs, acceptance, position, most, belief, plan);
  }
}

// `loss` in plain steps; `credit` is what the budget may be overdrawn by. False: the plan is too dear, and stays.
bool DraftChoice::spend(int32_t drafts, double loss, double tokens_per_us, Plan& plan, double credit) {
  if (loss > budget_ + std::min(0.0, ledger_) + credit) return false;
  budget_ -= loss;
  plan.drafts = drafts;
  plan.explore = exploring_ = true;
  plan.tokens_per_ms = static_cast<float>(1e3 * tokens_per_us);
  return true;
}

// Where plain decoding is believed best: the shortest draft.
void DraftChoice::explore_drafting(const CostModel& costs, int32_t position, int32_t most, const Belief& belief,
                                   Plan& plan) {
  const std::vector<int32_t>& lengths = costs.arms().lengths();
  const int32_t k = lengths.front();
  if (k > most) return;
  const Prices& now = belief.prices;
  const double plain_us = now.verify_us[0], stale = costs.doubt(kVerify);
  const double usual_verify = costs.usual_share(position, kVerify);
  const double usual_draft = costs.usual_share(position, kDraft);
  bool hopeful = false;    // drafting would pay in a very good text
  bool in_doubt = false;   // in this text, if verifying got cheaper
  bool was_worth = false;  // in this text, at the usual costs
  for (const int32_t length : lengths) {
    const auto l = static_cast<size_t>(length);
    const double tokens = (1.0 - std::pow(kHopeful, length + 1)) / (1.0 - kHopeful);
    const double least_us = now.draft_us[l] + now.verify_us[l] * std::exp(-std::sqrt(stale));
    const double usual_us = now.draft_us[l] * usual_draft + now.verify_us[l] * usual_verify;
    hopeful = hopeful || tokens * plain_us > kBetter * std::min(least_us, usual_us);
    in_doubt = in_doubt || (stale > kVeryStale && belief.expected[l] * plain_us > kBetter * least_us);
    was_worth = was_worth || (std::min(usual_verify, usual_draft) < kDear &&
                              belief.expected[l] * plain_us > kBetter * usual_us);
  }
  if (!hopeful) return;
  const auto at = static_cast<size_t>(k);
  const double us = now.draft_us[at] + now.verify_us[at], rate = belief.expected[at] / us;
  const double loss = std::max(0.0, us / plain_us - belief.expected[at]);
  looking_ = was_worth;
  if (was_worth && loss <= looks_) {
    looks_ -= loss;
    budget_ += loss;  // looks have their own
    force_ = spend(k, loss, rate, plan, kLookMost + kExploreMost);
  } else if (in_doubt && spend(k, loss, rate, plan)) {
    force_ = true;
  } else {
    spend(k, now.draft_us[at] / plain_us, rate, plan);
  }
}

// Where drafting is believed best: a plain step, or the next longer draft.
void DraftChoice::explore_further(const CostModel& costs, const Acceptance& acceptance, int32_t position,
                                  int32_t most, const Belief& belief, Plan& plan) {
  const std::vector<int32_t>& lengths = costs.arms().lengths();
  const Prices& now = belief.prices;
  const double plain_us = now.verify_us[0];
  // In a text that was verified for long both costs are in doubt; where plain steps just ran, only the verify's is.
  const double plain_stale = std::min(costs.doubt(kVerify), costs.plain_doubt());
  if (plain_stale > kStale) {
    // What plain decoding would give is in doubt: one look is due, whatever it costs by the old belief.
    const double credit = plain_stale > kVeryStale ? 1.0 : 0.0;
    if (spend(0, std::max(0.0, 1.0 - 1.0 / (plain_us * rate_)), 1.0 / plain_us, plan, credit)) return;
  }
  const auto longer = std::upper_bound(lengths.begin(), lengths.end(), plan.drafts);
  if (longer == lengths.end() || *longer > most) return;
  const auto at = static_cast<size_t>(*longer);
  if (acceptance.recent_trials(*longer - 1) >= 2.0) return;
  const double cost = now.draft_us[at] + now.verify_us[at];
  const double loss = std::max(0.0, cost - belief.expected[at] / rate_) / plain_us;
  if (!spend(*longer, loss, belief.expected[at] / cost, plan)) return;
  // The graph that verifies so many may never look worth its cost: then only this step shows what it costs.
  force_ = costs.verify_doubt(position, *longer) > kVeryStale;
}

// ---- after drafting -----------------------------------------------------------------------------------------------

int32_t DraftChoice::trim(const CostModel& costs, const Acceptance& acceptance, int32_t position,
                          const Proposal& proposal) const {
  int32_t worth = 0;
  double rate = 0.0, best = -INFINITY;
  each_part(costs, acceptance, position, proposal, [&](int32_t n, double expected, double us) {
    if (n == 0) rate = us > 0.0 ? std::max(rate_, 1.0 / us) : 0.0;
    const double value = n == 0 && force_ ? -INFINITY : expected - rate * us;
    if (value <= best && !force_) return;
    best = value;
    worth = n;
  });
  return worth;
}

float DraftChoice::rate(const CostModel& costs, const Acceptance& acceptance, int32_t position,
                        const Proposal& proposal) {
  double best = 0.0;
  each_part(costs, acceptance, position, proposal, [&](int32_t, double expected, double us) {
    if (us > 0.0) best = std::max(best, expected / us);
  });
  return static_cast<float>(1e3 * best);
}

// ---- after a step -------------------------------------------------------------------------------------------------

void DraftChoice::keep(const Proposal& proposal) {
  Draft& draft = drafts_[static_cast<size_t>(drafts_seen_ % kRecent)];
  draft.count = 0;
  const int32_t count = std::clamp(proposal.count, 0, kMaxDrafts);
  for (int32_t i = 0; i < count; ++i) {
    const auto at = static_cast<size_t>(i);
    if (proposal.source[at] == Source::kDrafter) {
      draft.confidence[static_cast<size_t>(draft.count++)] = proposal.confidence[at];
    }
  }
  drafts_seen_ = drafts_seen_ < 2 * kRecent - 1 ? drafts_seen_ + 1 : kRecent;
}

void DraftChoice::settle(double spent_us, double plain_us, double tokens) {
  budget_ = std::min(budget_ + kExploreShare * spent_us / plain_us, kExploreMost);
  if (looking_) looks_ = std::min(looks_ + kLookShare * spent_us / plain_us, kLookMost);
  if (!exploring_) ledger_ = std::clamp(ledger_ + (tokens - spent_us / plain_us), -credit_, kExploreMost);
}

void DraftChoice::look_again() { looks_ = kLookMost; }

// ---- memory -------------------------------------------------------------------------------------------------------

void DraftChoice::save(SavedWriter& text) const { text.put(looks_); }

void DraftChoice::restore(SavedReader& text) { looks_ = text.get(-kExploreMost, kLookMost); }

}  // namespace edge_mtp
