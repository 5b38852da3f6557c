// The kernel of low-bit products, for the instruction set that the including file is compiled for (low_bit_lanes.h).
//
// A tile is a few rows of the matrix and up to kMostRows rows of numbers. Its weights are unpacked once, in registers,
// and each lane adds up the products of its own weights. Without blocks these sums are integers to the end of the row.
// With blocks, the integers of a block are turned into floats, times its scale, and the lanes are added in a fixed order.
//
// A step takes kStep bytes of a row of weights. Place p of byte b is weight P b + p of a step, for P weights in a byte:
// so the quantized numbers of a step lie place after place.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <type_traits>

#include "low_bit.h"
#include "low_bit_lanes.h"

namespace edge_mtp {
namespace {

constexpr int32_t kMostRows = 8;    // of numbers in a tile
constexpr int32_t kMostTile = 4;    // rows of the matrix in a tile
constexpr int32_t kRun = 32;        // rows of the matrix whose sums are finished together
constexpr int32_t kScales = 64;     // of a row that are widened at a time

// What lanes add up: integers, or floats where there are blocks. (A vector cannot be the argument of a template.)
template <typename Result>
struct Lane;
template <>
struct Lane<int32_t> {
  using Sums = Ints;
};
template <>
struct Lane<float> {
  using Sums = Floats;
};

// The rows `row` .. `row + kTile - 1` of the matrix, of which the last are repeated where it ends, with the rows of
// numbers `numbers`. The results are integers without blocks, else floats: out[row of numbers][row of the matrix].
template <int kBits, int kRows, int kTile, typename Result>
class Tile {
 public:
  Tile(const LowBitMatrix& matrix, const QuantizedRow* numbers, int32_t row, int32_t tile) : matrix_(matrix) {
    bytes_ = matrix.columns * kBits / 8;
    for (int t = 0; t < kRows; ++t) numbers_[t] = numbers[t].bytes;
    for (int r = 0; r < kTile; ++r) {
      row_[r] = row + std::min(r, tile - 1);
      weights_[r] = matrix.weights + static_cast<size_t>(row_[r]) * static_cast<size_t>(bytes_);
    }
  }

  void compute(Result (*out)[kRun], int32_t tile) {
    if constexpr (kHasBlocks) {
      blocks();
    } else {
      Ints sums[kTile][kRows] = {};
      add_up(sums, 0, bytes_);
      std::memcpy(sums_, sums, sizeof sums);
    }
    // Four at a time.
    Result four[4];
    constexpr int kCount = kTile * kRows;
    for (int i = 0; i < kCount; i += 4) {
      const auto at = [&](int k) -> const Sums& { return sums_[std::min(i + k, kCount - 1)]; };
      sums(at(0), at(1), at(2), at(3), four);
      for (int k = i; k < std::min(i + 4, kCount); ++k) {
        if (k / kRows < tile) out[k % kRows][k / kRows] = four[k - i];
      }
    }
  }

 private:
  static constexpr bool kHasBlocks = std::is_same<Result, float>::value;
  static constexpr int kPlaces = 8 / kBits;
  using Sums = typename Lane<Result>::Sums;

  // Adds the products of the bytes from `begin` to `end`.
  inline __attribute__((always_inline)) void add_up(Ints (&sums)[kTile][kRows], int32_t begin, int32_t end) {
    for (int32_t at = begin; at < end;) {
      const int32_t stop = std::min(end, at + kSteps<kBits> * kStep);
      Ints partial[kTile][kRows] = {};
      for (; at + kStep <= stop; at += kStep) step<false>(partial, at);
      if (at < stop) step<true>(partial, at), at = stop;
#pragma GCC unroll 8
      for (int r = 0; r < kTile; ++r) {
#pragma GCC unroll 8
        for (int t = 0; t < kRows; ++t) sums[r][t] = plus(sums[r][t], wide<kBits>(partial[r][t]));
      }
    }
  }

  // Adds the products of the step at byte `at`. The next tile's bytes are asked for: the machine does not foresee that
  // several rows are read at once.
  template <bool kIsLast>
  inline __attribute__((always_inline)) void step(Ints (&sums)[kTile][kRows], int32_t at) {
    Bytes packed[kTile];
#pragma GCC unroll 8
    for (int r = 0; r < kTile; ++r) {
      packed[r] = kIsLast ? load_some(weights_[r] + at, bytes_ - at) : load(weights_[r] + at);
      __builtin_prefetch(weights_[r] + at + kTile * bytes_);
    }
#pragma GCC unroll 8
    for (int place = 0; place < kPlaces; ++place) {
      Bytes weights[kTile];
#pragma GCC unroll 8
      for (int r = 0; r < kTile; ++r) weights[r] = unpack<kBits>(packed[r], place);
#pragma GCC unroll 8
      for (int t = 0; t < kRows; ++t) {
        const Bytes numbers = load(numbers_[t] + at * kPlaces + place * kStep);
#pragma GCC unroll 8
        for (int r = 0; r < kTile; ++r) sums[r][t] = add<kBits>(sums[r][t], numbers, weights[r]);
      }
    }
  }

  void blocks() {
    Floats totals[kTile][kRows] = {};
    const int32_t block_bytes = matrix_.block * kBits / 8;
    // What the integers of one scale, or of the scales of one step, take: a whole number of steps.
    const int32_t segment = std::max(block_bytes, kStep), per_segment = segment / block_bytes;
    const int32_t count = matrix_.columns / matrix_.block;
    float scales[kTile][kScales + 4];
    for (int32_t first = 0; first < count; first += kScales) {
      const int32_t some = std::min(count - first, kScales);
      for (int r = 0; r < kTile; ++r) {
        const uint16_t* const from =
            matrix_.block_scales + static_cast<size_t>(row_[r]) * static_cast<size_t>(count) + first;
        widen(from, some, kUnit<kBits>, scales[r]);
        for (int32_t i = some; i < some + 4; ++i) scales[r][i] = 0.0f;
      }
      for (int32_t i = 0; i < some; i += per_segment) {
        Ints sums[kTile][kRows] = {};
        const int32_t begin = (first + i) * block_bytes, end = std::min(begin + segment, bytes_);
        add_up(sums, begin, end);
#pragma GCC unroll 8
        for (int r = 0; r < kTile; ++r) {
          const Floats scale = spread(scales[r] + i, per_segment);
#pragma GCC unroll 8
          for (int t = 0; t < kRows; ++t) totals[r][t] = fused(floats(sums[r][t]), scale, totals[r][t]);
        }
      }
    }
    std::memcpy(sums_, totals, sizeof totals);
  }

  const LowBitMatrix& matrix_;
  int32_t bytes_;  // of a row of weights
  const uint8_t* numbers_[kRows];
  int32_t row_[kTile];
  const uint8_t* weights_[kTile];
  Sums sums_[kTile * kRows];
};

// The rows of the matrix from `first` to `last` with kRows rows of numbers.
template <int kBits, int kRows, typename Result>
void multiply_rows(const LowBitMatrix& matrix, const QuantizedRow* numbers, int32_t first, int32_t last,
                   float* const* out) {
  // Blocks need a float for each integer.
  constexpr int kSums = std::is_same<Result, float>::value ? kMostSums / 2 : kMostSums;
  constexpr int kTile = kSums / kRows >= 4 ? 4 : kSums / kRows >= 2 ? 2 : 1;
  static_assert(kTile <= kMostTile && kRun % kMostTile == 0, "a run is a whole number of tiles");
  Result sums[kRows][kRun];
  for (int32_t run = first; run < last; run += kRun) {
    const int32_t count = std::min(kRun, last - run);
    for (int32_t row = 0; row < count; row += kTile) {
      const int32_t tile = std::min(kTile, count - row);
      Result part[kRows][kRun];
      Tile<kBits, kRows, kTile, Result>(matrix, numbers, run + row, tile).compute(part, tile);
      for (int t = 0; t < kRows; ++t) std::copy_n(part[t], tile, sums[t] + row);
    }
    for (int t = 0; t < kRows; ++t) {
      float* const to = out[t] + run;
      const float unit = numbers[t].unit;
      const int32_t zero = numbers[t].zero;
      for (int32_t i = 0; i < count; ++i) {
        if constexpr (std::is_same<Result, float>::value) {
          to[i] = (sums[t][i] - static_cast<float>(zero) * matrix.sums[run + i]) * unit;
        } else {
          const int32_t sum = sums[t][i] / kUnit<kBits> - zero * static_cast<int32_t>(matrix.sums[run + i]);
          to[i] = static_cast<float>(sum) * unit * matrix.scales[run + i];
        }
      }
    }
  }
}

template <int kBits, typename Result>
void multiply_bits(const LowBitMatrix& matrix, const QuantizedRow* rows, int32_t count, int32_t first, int32_t last,
                   float* const* out) {
  using Multiply = void (*)(const LowBitMatrix&, const QuantizedRow*, int32_t, int32_t, float* const*);
  constexpr Multiply kByRows[kMostRows] = {
      multiply_rows<kBits, 1, Result>, multiply_rows<kBits, 2, Result>, multiply_rows<kBits, 3, Result>,
      multiply_rows<kBits, 4, Result>, multiply_rows<kBits, 5, Result>, multiply_rows<kBits, 6, Result>,
      multiply_rows<kBits, 7, Result>, multiply_rows<kBits, 8, Result>};
  // Evenly, since each turn unpacks the weights anew.
  for (int32_t left = count, done = 0; left > 0;) {
    const int32_t turns = (left + kMostRows - 1) / kMostRows, some = (left + turns - 1) / turns;
    kByRows[some - 1](matrix, rows + done, first, last, out + done);
    done += some, left -= some;
  }
}

void multiply_part_here(const LowBitMatrix& matrix, const QuantizedRow* rows, int32_t count, int32_t first,
                        int32_t last, float* const* out) {
  if (matrix.block > 0) {
    multiply_bits<4, float>(matrix, rows, count, first, last, out);
  } else if (matrix.bits == 2) {
    multiply_bits<2, int32_t>(matrix, rows, count, first, last, out);
  } else if (matrix.bits == 4) {
    multiply_bits<4, int32_t>(matrix, rows, count, first, last, out);
  } else {
    multiply_bits<8, int32_t>(matrix, rows, count, first, last, out);
  }
}

// The numbers of one step, place after place.
template <int kPlaces>
inline void sort(const uint8_t* numbers, uint8_t* bytes) {
  for (int place = 0; place < kPlaces; ++place) {
    for (int b = 0; b < kStep; ++b) bytes[place * kStep + b] = numbers[b * kPlaces + place];
  }
}

// As XNNPACK's xnn_f32_qd8_asymmetric_quantization_params and its conversion do it, so that the integers are the same.
QuantizedRow quantize_here(const float* row, int32_t columns, int32_t bits, uint8_t* bytes) {
  constexpr int32_t kWide = 16;
  const int32_t step = kStep * (8 / bits);
  constexpr float kLeast = -128.0f, kLargest = 127.0f;
  float smallest[kWide] = {}, largest[kWide] = {}, odd[kWide] = {};  // odd is NaN if a number is not finite
  int32_t k = 0;
  for (; k + kWide <= columns; k += kWide) {
    for (int32_t i = 0; i < kWide; ++i) {
      smallest[i] = row[k + i] < smallest[i] ? row[k + i] : smallest[i];
      largest[i] = row[k + i] > largest[i] ? row[k + i] : largest[i];
      odd[i] += row[k + i] - row[k + i];
    }
  }
  for (; k < columns; ++k) {
    smallest[0] = std::min(smallest[0], row[k]), largest[0] = std::max(largest[0], row[k]);
    odd[0] += row[k] - row[k];
  }
  if (std::isnan(std::accumulate(odd, odd + kWide, 0.0f))) {
    std::memset(bytes, 0, static_cast<size_t>((columns + step - 1) / step * step));
    return {bytes, std::numeric_limits<float>::quiet_NaN(), 0};
  }
  const float low = *std::min_element(smallest, smallest + kWide), high = *std::max_element(largest, largest + kWide);
  const float scale = low == high ? 1.0f : (kLargest - kLeast) / (high - low);
  const float least = low * scale, most = high * scale;
  float zero = (kLeast + least) + (kLargest + most) > 0 ? kLeast - least : kLargest - most;
  zero = std::min(std::max(zero, kLeast), kLargest);
  const auto nudged = static_cast<int32_t>(std::nearbyint(zero));
  const int32_t offset = nudged + kOffset;
  const float above = kLargest - static_cast<float>(nudged), below = kLeast - static_cast<float>(nudged);
  for (int32_t first = 0; first < columns; first += step) {
    uint8_t numbers[4 * kStep];
    const int32_t count = std::min(step, columns - first);
    const float* const from = row + first;
    for (int32_t i = 0; i < count; ++i) {
      float scaled = from[i] * scale;
      scaled = scaled < above ? scaled : above;
      scaled = scaled > below ? scaled : below;
      // Rounded to even: what is added drives the fraction out.
      constexpr float kRounding = 0x1.8p23f;
      numbers[i] = static_cast<uint8_t>(static_cast<int32_t>((scaled + kRounding) - kRounding) + offset);
    }
    for (int32_t i = count; i < step; ++i) numbers[i] = 0;  // times weights of 0
    if (bits == 8) sort<1>(numbers, bytes + first);
    if (bits == 4) sort<2>(numbers, bytes + first);
    if (bits == 2) sort<4>(numbers, bytes + first);
  }
  return {bytes, 1.0f / scale, offset};
}

}  // namespace
}  // namespace edge_mtp
