// Chooses the prefill graphs that take the least time for a prompt.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace edge_mtp {

class PrefillPlan {
 public:
  // The rows of the prefill graphs, ascending. One row (the decode graph) is always available.
  explicit PrefillPlan(const std::vector<int32_t>& lengths);

  // The chunks, in order, that cache `count` tokens from entry `first` on in a cache of `context` entries. The last one
  // may be padded. None reaches past the end, where LiteRT would shift the whole write back onto valid entries.
  const std::vector<int32_t>& chunks(int32_t count, int32_t first, int32_t context);
  // Records that a chunk of `rows` rows took `us` microseconds.
  void observe(int32_t rows, double us);

  // The measured times as text, for a later run; restore() ignores times that do not fit.
  std::string save() const;
  void restore(const std::string& text);

 private:
  double time(size_t length) const;

  std::vector<int32_t> lengths_;  // including 1
  std::vector<double> us_;        // running average by length; 0 = not measured
  double unit_us_ = 1.0;          // time per row, from the measured lengths
  std::vector<double> best_;      // least time to cache n tokens
  std::vector<int32_t> choice_, chunks_;
};

}  // namespace edge_mtp
