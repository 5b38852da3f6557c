// What one engine computed on a fixed text, to be compared with what another one did, and what its passes cost.
//
// A wrong accelerator seldom says so: it crashes, or leaves garbage with a good status. So every output of each kind of
// pass is compared with the CPU's.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace edge_mtp {

struct Trial {
  // An output of one pass, or the cache behind the prompt.
  struct Output {
    std::string name;
    bool is_logits = false;  // [rows, vocabulary]
    std::vector<float> values;
  };
  std::vector<Output> outputs;
  std::string fault;  // what a pass did that no right one does; empty = nothing

  // Microseconds of a pass: a plain step, verify graphs by their rows, drafts by their length.
  double plain_us = 0.0;
  std::map<int32_t, double> verify_us, draft_us;
};

// Why `found` is not what `reference` is, in a few words; empty = it is. Rounding may differ: values by a fifth of the
// largest, and a row may choose another token if the reference holds that nearly as likely.
std::string difference(const Trial& reference, const Trial& found, int32_t vocabulary);

// The most tokens a millisecond, over all draft lengths and plain decoding, if each draft is right with probability
// `acceptance`.
double best_rate(const Trial& trial, double acceptance);

// How fast the reference and an accelerator are, each at its best draft length, by the acceptance of drafts: one may be
// the faster on easy texts and the slower on hard ones. Rates are in tokens for the time of the reference's plain step.
class SpeedUp {
 public:
  SpeedUp(const Trial& reference, const Trial& found);
  double reference(double acceptance) const { return at(reference_, acceptance); }
  double found(double acceptance) const { return at(found_, acceptance); }
  double times(double acceptance) const { return found(acceptance) / reference(acceptance); }

  // Numbers in one line, and back; nothing if the line has others.
  std::string text() const;
  static std::optional<SpeedUp> read(const std::string& line);

 private:
  using Points = std::array<double, 21>;  // at an acceptance of 0, 0.05, ..., 1; straight lines between them
  SpeedUp() = default;
  static double at(const Points& points, double acceptance);
  Points reference_{}, found_{};
};

// What texts have taught of a bundle's drafts: how many first drafts of steps were judged, and how many were right.
struct FirstDrafts {
  int64_t judged = 0, right = 0;
  bool decoded = false;  // there were texts, with drafts or without
};

// The acceptance to expect of all drafts of a step.
double expected_acceptance(const FirstDrafts& known);

// Which one to take, and why it is not just the fastest at that acceptance.
struct Taken {
  size_t index = 0;     // 0 = the reference, else 1 + an index of the others
  bool to_learn = false;  // texts have taught nothing of drafts, and here they will
};
Taken take(const std::vector<SpeedUp>& others, const FirstDrafts& known);

}  // namespace edge_mtp
