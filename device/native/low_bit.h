// Products of a few rows with a matrix of 2, 4 or 8 bits that is read where it lies in the file, once for all rows: the
// kernel of edge_mtp.product (docs/product-op.md), and what others need of it.
//
// A row of floats is quantized to 8 bits, as XNNPACK does it: q = round(x * s) + z, with s and z from its smallest and
// its largest number. Sums of integers are exact, and floats are added in an order that depends on the matrix alone. So
// a row's result does not depend on the other rows, nor on the threads. Nothing is allocated but scratch memory, once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace edge_mtp {

class WorkerPool;

// A matrix [rows, columns] as LiteRT's FULLY_CONNECTED stores it: row after row, the first weight in the lowest bits.
struct LowBitMatrix {
  const uint8_t* weights;        // rows * columns * bits / 8 bytes
  const float* scales;           // [rows]; null if there are blocks
  const uint16_t* block_scales;  // float16 [rows, columns / block]; null if there are none
  const float* sums;             // [rows]: row_sums()
  int32_t rows, columns;
  int32_t bits;                  // 2, 4 or 8
  int32_t block;                 // weights of a row that share a scale: 32, 64, 128 or 256 of 4 bits; 0: the whole row
};

// The sums of more weights than this need not fit 32 bits.
constexpr int32_t kMostColumns = 1 << 16;

// Why the kernel does not take such a matrix; null if it does. Pointers are not looked at.
const char* unsupported(const LowBitMatrix& matrix);

// A row of floats, quantized. Its bytes are in an order that suits the machine and the matrix's bits.
struct QuantizedRow {
  const uint8_t* bytes;  // quantized_bytes() of them
  float unit;            // of the integers: 1 / s
  int32_t zero;          // the integer of 0.0
};
size_t quantized_bytes(int32_t columns, int32_t bits);
// Quantizes `row`, float32 [columns], into `bytes`, for a matrix of `bits`.
QuantizedRow quantize(const float* row, int32_t columns, int32_t bits, uint8_t* bytes);

// out[t][n] for the `count` rows t, and the rows n of the matrix from `first` up to, without, `last`. Any number of
// threads may compute parts at once. Each weight is read once for up to 8 rows.
void multiply_part(const LowBitMatrix& matrix, const QuantizedRow* rows, int32_t count, int32_t first, int32_t last,
                   float* const* out);

// The sum of each row's weights, which are integers, or these times their blocks' scales: `out` float32 [rows]. They are
// what the zeros of quantized rows add to a product. Reads the whole matrix; `matrix.sums` is not looked at.
void row_sums(const LowBitMatrix& matrix, float* out, WorkerPool* pool);

// The sums of the matrices that have been multiplied, by where they lie: made with the first product of each.
class RowSums {
 public:
  const float* of(const LowBitMatrix& matrix, WorkerPool* pool);

 private:
  std::unordered_map<const void*, std::vector<float>> sums_;
};

// Rows of the matrix that make a part for one thread: about 64 KiB.
int32_t part_rows(const LowBitMatrix& matrix);

// The whole product: `rows` float32 [count, columns] to `out` float32 [count, matrix.rows], in this thread and those of
// `pool`, which may be null here and above.
void multiply(const LowBitMatrix& matrix, const float* rows, int32_t count, float* out, WorkerPool* pool);

// The same code for several instruction sets; the functions above take the best that this machine has.
struct LowBitCode {
  int32_t step;  // bytes of a weight row that are taken at once
  QuantizedRow (*quantize)(const float* row, int32_t columns, int32_t bits, uint8_t* bytes);
  void (*multiply_part)(const LowBitMatrix& matrix, const QuantizedRow* rows, int32_t count, int32_t first,
                        int32_t last, float* const* out);
};
extern const LowBitCode kLowBitBaseline;
#if defined(__x86_64__)
extern const LowBitCode kLowBitAvx2, kLowBitAvx512;
#elif defined(__aarch64__)
extern const LowBitCode kLowBitDotprod;
#endif

}  // namespace edge_mtp
