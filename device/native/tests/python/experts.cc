// The kernel of experts for Python.
#include "experts.h"

#include "worker_pool.h"

using edge_mtp::Stored;
using edge_mtp::Weight;
using edge_mtp::WorkerPool;

extern "C" {

WorkerPool* experts_pool(int32_t workers) { return new WorkerPool(workers); }
void experts_pool_destroy(WorkerPool* pool) { delete pool; }

void experts(const float* rows, const int32_t* chosen, const float* shares, const void* gate_up,
             const void* gate_up_scales, const void* down, const void* down_scales, float* out, int32_t count,
             int32_t choices, int32_t experts, int32_t hidden, int32_t inner, int32_t gate_up_stored,
             int32_t gate_up_block, int32_t down_stored, int32_t down_block, WorkerPool* pool) {
  edge_mtp::mix_experts({rows, chosen, shares,
                         Weight{gate_up, gate_up_scales, static_cast<Stored>(gate_up_stored), hidden, gate_up_block},
                         Weight{down, down_scales, static_cast<Stored>(down_stored), inner, down_block}, out, count,
                         choices, experts, hidden, inner},
                        pool);
}

}  // extern "C"
