// Products of a weight's rows with a few rows of activations, from the weight as a file holds it.
//
// Activations of integer weights are rounded to int8, a scale for each row, so that sums of products are exact. A
// product depends on its two rows alone, not on the rows beside them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "matrix.h"

namespace edge_mtp {

// Whether products take such a weight: blocks are of 4 bits, and of 32 neighbours or a multiple of 64.
bool can_multiply(const Matrix& weight);

constexpr int32_t kGroup = 64;  // columns that are multiplied together

// A row of activations as products want it. For floats it is the row itself.
struct Activations {
  const float* floats;     // [columns]
  const int8_t* integers;  // [columns, filled up to groups with 0]; below 8 bits, in each group the even ones come first
  const int32_t* offsets;  // with blocks, 8 a group: 8 times the sum of each half, in places 0 and 4
  int32_t offset;          // below 8 bits, 8 times the sum of all
  float scale;             // what 1 stands for; 0 in a row of zeros, NaN in one that is not finite
};

// Bytes that round_row() fills for a row, a multiple of 64; 0 for floats.
size_t rounded_bytes(const Matrix& weight);

// Rounds a row for `weight` to scale * integers, with scale = largest / 127, halves to even; `memory` has room for
// rounded_bytes(). A row without a number of size 1e-30 counts as zeros.
Activations round_row(const Matrix& weight, const float* row, void* memory);

constexpr int32_t kWeightTile = 4, kRowTile = 4;

// out[w][r] = row `first` + w of the weight, times rows[r], for `weights` up to kWeightTile and `count` up to kRowTile.
using MultiplyTile = void (*)(const Matrix& weight, int64_t first, int32_t weights, const Activations* rows,
                              int32_t count, float (*out)[kRowTile]);

// The same code for several instruction sets; best_multiply_tile() is the best that this machine has.
void multiply_tile_baseline(const Matrix&, int64_t, int32_t, const Activations*, int32_t, float (*)[kRowTile]);
#if defined(__x86_64__)
void multiply_tile_avx2(const Matrix&, int64_t, int32_t, const Activations*, int32_t, float (*)[kRowTile]);
#elif defined(__aarch64__)
void multiply_tile_dotprod(const Matrix&, int64_t, int32_t, const Activations*, int32_t, float (*)[kRowTile]);
#endif
MultiplyTile best_multiply_tile();

}  // namespace edge_mtp
