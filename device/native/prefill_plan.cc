#include "prefill_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

namespace edge_mtp {
namespace {

// The fixed cost of a pass, reading all weights, as a number of rows. Used for lengths that were never timed (E2B on a
// CPU, mixed recipe: 128 rows take 10.6 plain steps).
constexpr double kOverheadRows = 12.0;
constexpr double kNew = 0.3;      // weight of a new time in the average
constexpr double kOutlier = 3.0;  // times the average; a longer time is due to other programs

}  // namespace

PrefillPlan::PrefillPlan(const std::vector<int32_t>& lengths) : lengths_(lengths) {
  if (lengths_.empty() || lengths_.front() != 1) lengths_.insert(lengths_.begin(), 1);
  us_.assign(lengths_.size(), 0.0);
}

const std::vector<int32_t>& PrefillPlan::chunks(int32_t count, int32_t first, int32_t context) {
  chunks_.clear();
  // Uses the longest graph while it can be filled. The rest is small enough to try all combinations.
  const int32_t longest = lengths_.back();
  while (count > longest) {
    chunks_.push_back(longest);
    count -= longest;
    first += longest;
  }
  const auto left = static_cast<size_t>(count);
  best_.assign(left + 1, std::numeric_limits<double>::infinity());
  choice_.assign(left + 1, 1);
  best_[0] = 0.0;
  // best_[n] is for the last n tokens. Only the last chunk can be padded, and it must fit into the cache.
  for (size_t n = 1; n <= left; ++n) {
    const auto tokens = static_cast<int32_t>(n);
    const int32_t room = context - (first + count - tokens);
    for (size_t i = 0; i < lengths_.size(); ++i) {
      const int32_t rows = lengths_[i];
      if (rows > room) break;
      const double us = time(i) + best_[rows < tokens ? n - static_cast<size_t>(rows) : 0];
      if (us < best_[n]) {
        best_[n] = us;
        choice_[n] = rows;
      }
    }
  }
  for (int32_t rest = count; rest > 0; rest -= chunks_.back()) chunks_.push_back(choice_[static_cast<size_t>(rest)]);
  return chunks_;
}

double PrefillPlan::time(size_t length) const {
  return us_[length] > 0.0 ? us_[length] : unit_us_ * (lengths_[length] + kOverheadRows);
}

void PrefillPlan::observe(int32_t rows, double us) {
  const auto found = std::find(lengths_.begin(), lengths_.end(), rows);
  if (found == lengths_.end() || !(us > 0.0) || !std::isfinite(us)) return;
  double& known = us_[static_cast<size_t>(found - lengths_.begin())];
  known = known == 0.0 ? us : known + kNew * (std::min(us, kOutlier * known) - known);
  double total = 0.0, units = 0.0;
  for (size_t i = 0; i < us_.size(); ++i) {
    if (us_[i] == 0.0) continue;
    total += us_[i];
    units += lengths_[i] + kOverheadRows;
  }
  unit_us_ = total / units;
}

std::string PrefillPlan::save() const {
  std::ostringstream out;
  for (size_t i = 0; i < us_.size(); ++i) {
    if (us_[i] > 0.0) out << lengths_[i] << ' ' << us_[i] << '\n';
  }
  return out.str();
}

void PrefillPlan::restore(const std::string& text) {
  std::istringstream in(text);
  int32_t rows = 0;
  double us = 0.0;
  while (in >> rows >> us) observe(rows, us);
}

}  // namespace edge_mtp
