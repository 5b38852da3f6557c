#include "arms.h"

#include <algorithm>

#include "proposal.h"

namespace edge_mtp {
namespace {

// Sorted, each once, without those below `least` or above `most`.
std::vector<int32_t> usable(std::vector<int32_t> values, int32_t least, int32_t most) {
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  values.erase(std::remove_if(values.begin(), values.end(), [&](int32_t v) { return v < least || v > most; }),
               values.end());
  return values;
}

// The place of `value` among ascending values, -1 = it is none of them.
int32_t place(const std::vector<int32_t>& values, int32_t value) {
  const auto found = std::lower_bound(values.begin(), values.end(), value);
  return found == values.end() || *found != value ? -1 : static_cast<int32_t>(found - values.begin());
}

}  // namespace

Arms::Arms(const Capabilities& capabilities) : widths_(usable(capabilities.verify_widths, 2, kMaxDrafts + 1)) {
  lengths_ = usable(capabilities.draft_lengths, 1, widths_.empty() ? 0 : widths_.back() - 1);
  first_draft_ = static_cast<int32_t>(1 + widths_.size());
  count_ = first_draft_ + static_cast<int32_t>(lengths_.size());
  if (!widths_.empty()) longest_ = widths_.back() - 1;
}

int32_t Arms::of_rows(int32_t rows) const {
  if (rows == 1) return 0;
  const int32_t at = place(widths_, rows);
  return at < 0 ? -1 : 1 + at;
}

int32_t Arms::of_draft(int32_t k) const {
  const int32_t at = place(lengths_, k);
  return at < 0 ? -1 : first_draft_ + at;
}

int32_t Arms::rows_for(int32_t drafts) const {
  if (drafts == 0) return 1;
  const auto found = std::lower_bound(widths_.begin(), widths_.end(), drafts + 1);
  return found == widths_.end() ? 0 : *found;
}

}  // namespace edge_mtp
