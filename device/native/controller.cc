#include "controller.h"

#include <algorithm>
#include <sstream>
#include <utility>

#include "saved_text.h"

namespace edge_mtp {
namespace {

constexpr char kFormat[] = "edge-mtp-controller-3", kFirst[] = " first";

}  // namespace

Controller::Controller(const Capabilities& capabilities) : Controller(Arms(capabilities)) {}

Controller::Controller(const Arms& arms) : costs_(arms), acceptance_(arms.longest()) {}

void Controller::begin() {
  costs_.begin();
  acceptance_.begin();
  choice_.begin(acceptance_.novelty());
}

void Controller::observe(int32_t position, int32_t drafter_k, int32_t rows, const Proposal& proposal,
                         int32_t accepted, double draft_us, double rest_us) {
  if (costs_.observe(position, drafter_k, rows, draft_us, rest_us, choice_.explores())) choice_.look_again();

  const int32_t count = std::clamp(proposal.count, 0, kMaxDrafts);
  const int32_t verified = std::clamp(rows - 1, 0, count);
  if (drafter_k > 0) choice_.keep(proposal);
  acceptance_.observe(proposal, drafter_k > 0, verified, std::clamp(accepted, 0, std::min(count, verified + 1)));

  const Prices now = costs_.prices(position);
  const double plain_us = now.verify_us[0];
  if (plain_us == 0.0) return;
  const double drafted = drafter_k > 0 && drafter_k <= kMaxDrafts ? now.draft_us[static_cast<size_t>(drafter_k)] : 0;
  const double spent = drafted + now.verify_us[static_cast<size_t>(std::clamp(rows - 1, 0, kMaxDrafts))];
  choice_.settle(spent, plain_us, std::clamp(accepted, 0, verified) + 1.0);
}

std::string Controller::header() const {
  std::ostringstream out;
  out << kFormat << " lengths";
  for (const int32_t k : costs_.arms().lengths()) out << ' ' << k;
  out << " widths";
  for (const int32_t rows : costs_.arms().widths()) out << ' ' << rows;
  out << kFirst;
  return out.str();
}

std::string Controller::save() const {
  Controller rested = *this;
  rested.begin();
  SavedWriter text(header());
  rested.acceptance_.save_first(text);
  text.put_word("state");
  rested.costs_.save_plain(text);
  rested.acceptance_.save_errors(text);
  rested.choice_.save(text);
  rested.costs_.save_arms(text);
  rested.acceptance_.save_counts(text);
  return text.text();
}

bool Controller::add_first_drafts(const std::string& saved, int64_t& judged, int64_t& right) {
  const std::string mark = kFirst;
  const size_t place = saved.find(mark);
  if (saved.rfind(kFormat, 0) != 0 || place == std::string::npos) return false;
  Acceptance acceptance(0);
  SavedReader reader(saved.substr(place + mark.size()));
  acceptance.restore_first(reader);
  if (!reader.good()) return false;
  judged += acceptance.first_drafts();
  right += acceptance.first_accepted();
  return true;
}

bool Controller::restore(const std::string& text) {
  const std::string expected = header();
  if (text.compare(0, expected.size(), expected) != 0) return false;
  SavedReader reader(text.substr(expected.size()));
  Controller fresh(costs_.arms());
  fresh.acceptance_.restore_first(reader);
  reader.expect_word("state");
  fresh.costs_.restore_plain(reader);
  fresh.acceptance_.restore_errors(reader);
  fresh.choice_.restore(reader);
  fresh.costs_.restore_arms(reader);
  fresh.acceptance_.restore_counts(reader);
  reader.expect_end();
  if (!reader.good()) return false;
  fresh.begin();
  *this = std::move(fresh);
  return true;
}

}  // namespace edge_mtp
