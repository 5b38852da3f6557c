// Which prefill graphs to run for a prompt, in the least time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace edge_mtp {

class PrefillPlan {
 public:
  // Rows of the prefill graphs, ascending. One row (the decode graph) is always there.
  explicit PrefillPlan(const std::vector<int32_t>& lengths);

  // The chunks that cache `count` tokens from entry `first` on of a cache of `context`, in order; the last one may be
  // padded, and none reaches past the cache, where LiteRT would shift the whole write back onto valid entries.
  const std::vector<int32_t>& chunks(int32_t count, int32_t first, int32_t context);
  // A chunk of so many rows took so long.
  void observe(int32_t rows, double us);

  // The measured times, to be remembered; restore() ignores what does not fit.
  std::string save() const;
  void restore(const std::string& text);

 private:
  double time(size_t length) const;

  std::vector<int32_t> lengths_;  // with 1
  std::vector<double> us_;        // by length, running average; 0 = not measured
  double unit_us_ = 1.0;          // time of a row, from those measured
  std::vector<double> best_;      // time of caching n tokens
  std::vector<int32_t> choice_, chunks_;
};

}  // namespace edge_mtp
