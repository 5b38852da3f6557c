// Wall time in laps.
#pragma once

#include <chrono>
#include <utility>

namespace edge_mtp {

class Clock {
 public:
  // Microseconds since the last lap, or since the start.
  double lap() { return since(std::exchange(last_, std::chrono::steady_clock::now())); }
  double elapsed() const { return since(start_); }
  void restart() { start_ = last_ = std::chrono::steady_clock::now(); }

 private:
  static double since(std::chrono::steady_clock::time_point then) {
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - then).count();
  }

  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now(), last_ = start_;
};

}  // namespace edge_mtp
