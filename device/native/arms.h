// The invocations that a bundle offers to a step, numbered: arm 0 is the plain step, then the verify graphs by their
// rows, then the drafter's invocations by their K.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace edge_mtp {

// What the bundle can do, and how. Entries that no step can use (a graph wider than kMaxDrafts + 1 rows, a draft
// length that no verify graph holds) are left aside.
struct Capabilities {
  std::vector<int32_t> draft_lengths;  // K of each drafter invocation, ascending; empty = no drafter
  std::vector<int32_t> verify_widths;  // T of each verify graph, ascending; T rows serve any 1..T-1 drafts
};

// Arms of a kind share what moves their costs.
enum ArmKind { kPlain, kVerify, kDraft };
constexpr int32_t kArmKinds = 3;

class Arms {
 public:
  explicit Arms(const Capabilities& capabilities);

  const std::vector<int32_t>& lengths() const { return lengths_; }
  const std::vector<int32_t>& widths() const { return widths_; }
  int32_t count() const { return count_; }
  int32_t longest() const { return longest_; }  // drafts that any graph can have

  int32_t of_rows(int32_t rows) const;  // -1 = the bundle has no such graph
  int32_t of_draft(int32_t k) const;    // -1 = nor such an invocation
  int32_t rows_for(int32_t drafts) const;  // of the narrowest graph that holds them, 0 = none

  ArmKind kind(int32_t arm) const { return arm == 0 ? kPlain : arm < first_draft_ ? kVerify : kDraft; }
  int32_t rows(int32_t arm) const { return arm == 0 ? 1 : widths_[static_cast<size_t>(arm - 1)]; }
  int32_t draft(int32_t arm) const { return lengths_[static_cast<size_t>(arm - 1) - widths_.size()]; }

 private:
  std::vector<int32_t> lengths_, widths_;
  int32_t first_draft_ = 1, count_ = 1, longest_ = 1;  // the first arm of the drafter
};

}  // namespace edge_mtp
