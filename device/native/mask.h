// The attention mask of one signature. It is kept between steps, so only columns that change are written.
#pragma once

#include <cstdint>
#include <vector>

#include "graph.h"

namespace edge_mtp {

class Mask {
 public:
  // The call's port `mask` [1, 1, T, C]: bool (true = seen), or additive float32 or float16 (0 = seen). Throws Error
  // for another type. Graphs that read the positions that they are given have no such port, and nothing to show.
  explicit Mask(const Call& call);
  // Row r sees cache entries 0 .. first + r * grow - 1.
  void show(int32_t first, int32_t grow);

 private:
  void fill(size_t row, int32_t from, int32_t to, bool seen);

  uint8_t* values_ = nullptr;
  size_t element_ = 0;  // bytes per element
  uint32_t seen_ = 0, hidden_ = 0;
  int32_t columns_ = 0;
  std::vector<int32_t> visible_;  // by row
};

}  // namespace edge_mtp
