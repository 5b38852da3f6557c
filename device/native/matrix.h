// A weight matrix as a bundle stores it (export/encodings.py), read where it lies in the mapped file.
#pragma once

#include <cstdint>

namespace edge_mtp {

struct Matrix {
  enum class Type : uint8_t { kFloat32, kFloat16, kInt8, kInt4, kInt2 };
  Type type;
  const void* data;    // [rows, width]; packed below 8 bits, the first weight in the lowest bits
  const void* scales;  // only of integers: float [rows], or IEEE halves [rows, width / block]
  int32_t rows, width;
  int32_t block;  // weights in a row that share a scale; 0 = all of them

  bool is_integer() const { return type >= Type::kInt8; }
  int32_t bits() const {
    constexpr int32_t kBits[] = {32, 16, 8, 4, 2};
    return kBits[static_cast<int32_t>(type)];
  }
  int64_t row_bytes() const { return static_cast<int64_t>(width) * bits() / 8; }
};

}  // namespace edge_mtp
