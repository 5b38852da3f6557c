// Products of a weight's rows with a few rows of activations, from the weight as a file holds it.
//
// Activations of integer weights are rounded to int8, a scale for each row, so that sums of products are exact. A product
// depends on its two rows alone: not on the rows beside them, nor on the instructions, but for how floats are summed up.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edge_mtp {

// How the numbers of a weight are stored. Of two int4 in a byte, the first is in the lower bits.
enum class Stored { kFloat32, kFloat16, kInt8, kInt4 };

// A weight [rows, columns]. Integers have a float scale for each row, or int4 a float16 for each `block` neighbours.
struct Weight {
  const void* data;
  const void* scales;  // float [rows], float16 [rows, columns / block], or null for floats
  Stored stored;
  int32_t columns;  // a multiple of the block, and of 2 for int4
  int32_t block;    // 0 (a scale for each row), 32, or a multiple of 64 up to 256

  bool is_integer() const { return stored == Stored::kInt8 || stored == Stored::kInt4; }
  size_t row_bytes() const {
    const auto count = static_cast<size_t>(columns);
    return stored == Stored::kFloat32 ? 4 * count : stored == Stored::kFloat16 ? 2 * count
         : stored == Stored::kInt8 ? count : count / 2;
  }
  const uint8_t* row(int64_t index) const {
    return static_cast<const uint8_t*>(data) + static_cast<size_t>(index) * row_bytes();
  }
};

constexpr int32_t kGroup = 64;  // columns that are multiplied together

// A row of activations as products want it. For floats it is the row itself.
struct Activations {
  const float* floats;     // [columns]
  const int8_t* integers;  // [columns, filled up to groups with 0]; for int4, in each group the even ones come first
  const int32_t* offsets;  // for int4 in blocks, 8 numbers a group: 8 times the sum of each half, in places 0 and 4
  int32_t offset;          // for int4: 8 times the sum of all
  float scale;             // what 1 stands for; 0 in a row of zeros, NaN in one that is not finite
};

// Bytes that round_row() fills for a row, a multiple of 64; 0 for floats.
size_t rounded_bytes(const Weight& weight);

// Rounds a row for `weight` to scale * integers, with scale = largest / 127, halves to even; `memory` has room for
// rounded_bytes(). A row without a number of size 1e-30 counts as zeros.
Activations round_row(const Weight& weight, const float* row, void* memory);

constexpr int32_t kWeightTile = 4, kRowTile = 4;

// out[w][r] = row `first` + w of the weight, times rows[r], for `weights` up to kWeightTile and `count` up to kRowTile.
using MultiplyTile = void (*)(const Weight& weight, int64_t first, int32_t weights, const Activations* rows,
                              int32_t count, float (*out)[kRowTile]);

// The same code for several instruction sets; best_multiply_tile() is the best that this machine has.
void multiply_tile_baseline(const Weight&, int64_t, int32_t, const Activations*, int32_t, float (*)[kRowTile]);
#if defined(__x86_64__)
void multiply_tile_avx2(const Weight&, int64_t, int32_t, const Activations*, int32_t, float (*)[kRowTile]);
#elif defined(__aarch64__)
void multiply_tile_dotprod(const Weight&, int64_t, int32_t, const Activations*, int32_t, float (*)[kRowTile]);
#endif
MultiplyTile best_multiply_tile();

}  // namespace edge_mtp
