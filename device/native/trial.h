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

// How many times as fast as the reference an accelerator is at its best draft length, by the acceptance of drafts: one
// may be the faster on easy texts and the slower on hard ones.
class SpeedUp {
 public:
  SpeedUp(const Trial& reference, const Trial& found);
  double at(double acceptance) const;

  // Numbers in one line, and back; nothing if the line has others.
  std::string text() const;
  static std::optional<SpeedUp> read(const std::string& line);

 private:
  SpeedUp() = default;
  std::array<double, 21> points_{};  // at an acceptance of 0, 0.05, ..., 1; straight lines between them
};

// The acceptance to expect of all drafts of a step, from the first drafts of steps that texts have judged.
double expected_acceptance(int64_t judged, int64_t right);

}  // namespace edge_mtp
