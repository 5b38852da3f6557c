// The kernel of low-bit products for Python.
#include "low_bit.h"

#include "worker_pool.h"

using edge_mtp::LowBitMatrix;
using edge_mtp::WorkerPool;

extern "C" {

void low_bit_sums(const uint8_t* weights, const uint16_t* block_scales, int32_t rows, int32_t columns, int32_t bits,
                  int32_t block, float* out, WorkerPool* pool) {
  edge_mtp::row_sums({weights, nullptr, block_scales, nullptr, rows, columns, bits, block}, out, pool);
}

WorkerPool* low_bit_pool(int32_t workers) { return new WorkerPool(workers); }

const char* low_bit_multiply(const uint8_t* weights, const float* scales, const uint16_t* block_scales,
                             const float* sums, int32_t rows, int32_t columns, int32_t bits, int32_t block,
                             const float* numbers, int32_t count, float* out, WorkerPool* pool) {
  const LowBitMatrix matrix{weights, scales, block_scales, sums, rows, columns, bits, block};
  const char* const why = edge_mtp::unsupported(matrix);
  if (why == nullptr) edge_mtp::multiply(matrix, numbers, count, out, pool);
  return why;
}

}  // extern "C"
