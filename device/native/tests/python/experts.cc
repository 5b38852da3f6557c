// The kernel of experts for Python.
#include "experts.h"

#include <atomic>

#include "worker_pool.h"

using edge_mtp::Matrix;
using edge_mtp::WorkerPool;

extern "C" {

WorkerPool* experts_pool(int32_t workers) { return new WorkerPool(workers); }
void experts_pool_destroy(WorkerPool* pool) { delete pool; }

void experts(const float* rows, const int32_t* chosen, const float* shares, const void* gate_up,
             const void* gate_up_scales, const void* down, const void* down_scales, float* out, int32_t count,
             int32_t choices, int32_t experts, int32_t hidden, int32_t inner, int32_t gate_up_type,
             int32_t gate_up_block, int32_t down_type, int32_t down_block, WorkerPool* pool) {
  const auto matrix = [](int32_t type, const void* data, const void* scales, int32_t rows, int32_t width,
                         int32_t block) {
    return Matrix{static_cast<Matrix::Type>(type), data, scales, rows, width, block};
  };
  edge_mtp::mix_experts(
      {rows, chosen, shares, matrix(gate_up_type, gate_up, gate_up_scales, experts * 2 * inner, hidden, gate_up_block),
       matrix(down_type, down, down_scales, experts * hidden, inner, down_block), out, count, choices, experts, hidden,
       inner},
      pool);
}

// Reads memory in the pool's threads, as fast as it comes: the sum of its words.
uint64_t read_memory(const uint64_t* words, int64_t count, WorkerPool* pool) {
  constexpr int64_t kPart = 1 << 16, kAtOnce = 8;
  std::atomic<uint64_t> total{0};
  pool->run(static_cast<int32_t>(count / kPart), [&](int32_t part) {
    uint64_t sums[kAtOnce] = {};
    const uint64_t* const from = words + part * kPart;
    for (int64_t i = 0; i < kPart; i += kAtOnce) {
      for (int64_t k = 0; k < kAtOnce; ++k) sums[k] += from[i + k];
    }
    for (const uint64_t sum : sums) total += sum;
  });
  return total;
}

}  // extern "C"
