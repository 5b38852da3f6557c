// The kernel of the candidates, for the instruction set that the including file is compiled for (lanes.h).
//
// Products are of floats, as the decomposition's are: rounding the state to 8 bits would cost accepted drafts, and at
// one row for each weight the reading of the weights takes the time. Integers below 8 bits lie several in a byte, so
// the state is taken apart likewise: plane p has what belongs to weight p of each byte. Tiles of four rows keep four
// sums going.
#pragma once

#include "candidates.h"
#include "lanes.h"

namespace edge_mtp {
namespace {

constexpr int32_t kRows = 4;

// Products of `count` stored units with planes of the state that lie `width` apart, added to sum[kRows].
template <typename Unit, int kBits>
inline void multiply(const Unit* const* rows, const float* state, int32_t width, int32_t count, Lanes* sum) {
  constexpr int kPerUnit = kBits < 8 ? 8 / kBits : 1;
  const auto step = [&](const auto& integers_of, const auto& floats_of, const auto& state_at) __attribute__((always_inline)) {
    if constexpr (kPerUnit == 1) {
      const Lanes x = state_at(0);
      for (int r = 0; r < kRows; ++r) sum[r] = fused(floats_of(r), x, sum[r]);
    } else {
      Integers units[kRows];
      for (int r = 0; r < kRows; ++r) units[r] = integers_of(r);
      for (int p = 0; p < kPerUnit; ++p) {
        const Lanes x = state_at(p);
        for (int r = 0; r < kRows; ++r) {
          // Shifted to the top and arithmetically back, which extends the sign.
          const Integers weight = (Integers)((Words)units[r] << (32 - kBits * (p + 1))) >> (32 - kBits);
          sum[r] = fused(floats(weight), x, sum[r]);
        }
      }
    }
  };
  int32_t at = 0;
  for (; at + kLanes <= count; at += kLanes) {
    step([&](int r) { return integers(reinterpret_cast<const int8_t*>(rows[r] + at)); },
         [&](int r) { return load(rows[r] + at); }, [&](int p) { return load(state + p * width + at); });
  }
  if (const int32_t some = count - at; some > 0) {
    const auto bytes = [&](int r) {
      int8_t padded[kLanes] = {};
      std::memcpy(padded, rows[r] + at, static_cast<size_t>(some));
      return integers(padded);
    };
    step(bytes, [&](int r) { return load_some(rows[r] + at, some); },
         [&](int p) { return load_some(state + p * width + at, some); });
  }
}

// The logits of `call.members` rows from `first` on.
template <typename Unit, int kBits>
inline void logits_of(const Candidates& call, int64_t first, float* logits) {
  constexpr int32_t kPerUnit = kBits < 8 ? 8 / kBits : 1;
  const Matrix& head = call.head;
  const int32_t width = head.width / kPerUnit;  // units in a row
  const int32_t block = head.block > 0 ? head.block / kPerUnit : width, blocks = width / block;
  float planes[kMostCandidateWidth];
  const float* state = call.state;
  if (kPerUnit > 1) {
    for (int32_t i = 0; i < head.width; ++i) planes[i % kPerUnit * width + i / kPerUnit] = call.state[i];
    state = planes;
  }
  for (int32_t m = 0; m < call.members; m += kRows) {
    const Unit* rows[kRows];
    int64_t number[kRows];
    for (int32_t r = 0; r < kRows; ++r) {
      number[r] = first + (m + r < call.members ? m + r : call.members - 1);
      rows[r] = static_cast<const Unit*>(head.data) + number[r] * width;
    }
    Lanes total[kRows] = {};
    for (int32_t b = 0; b < blocks; ++b) {
      Lanes sum[kRows] = {};
      multiply<Unit, kBits>(rows, state + b * block, width, block, head.block > 0 ? sum : total);
      for (int32_t r = 0; r < kRows && head.block > 0; ++r) {
        rows[r] += block;
        const Half scale = static_cast<const Half*>(head.scales)[number[r] * blocks + b];
        total[r] = fused(sum[r], all(widened(scale)), total[r]);
      }
    }
    float tile[kRows];
    sums(total[0], total[1], total[2], total[3], tile);
    for (int32_t r = 0; r < kRows && m + r < call.members; ++r) {
      const bool scaled = head.is_integer() && head.block == 0;
      logits[m + r] = scaled ? tile[r] * static_cast<const float*>(head.scales)[number[r]] : tile[r];
    }
  }
}

inline void candidates_part(const Candidates& call, int32_t index) {
  const int64_t first = static_cast<int64_t>(call.nearest[index]) * call.members;
  float* const logits = call.logits + static_cast<int64_t>(index) * call.members;
  switch (call.head.type) {
    case Matrix::Type::kFloat32: return logits_of<float, 32>(call, first, logits);
    case Matrix::Type::kFloat16: return logits_of<Half, 16>(call, first, logits);
    case Matrix::Type::kInt8: return logits_of<int8_t, 8>(call, first, logits);
    case Matrix::Type::kInt4: return logits_of<int8_t, 4>(call, first, logits);
    case Matrix::Type::kInt2: return logits_of<int8_t, 2>(call, first, logits);
  }
}

}  // namespace
}  // namespace edge_mtp
