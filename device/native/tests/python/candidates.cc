// The kernel of the candidates for Python.
#include "candidates.h"

#include "worker_pool.h"

using edge_mtp::Candidates;
using edge_mtp::Matrix;
using edge_mtp::WorkerPool;

extern "C" {

WorkerPool* candidates_pool(int32_t workers) { return new WorkerPool(workers); }

void candidates(const float* state, const int32_t* nearest, const void* head, const void* scales, const int32_t* tokens,
                float* logits, int32_t* ids, int32_t count, int32_t centroids, int32_t members, int32_t width,
                int32_t type, int32_t block, WorkerPool* pool) {
  const Matrix matrix{static_cast<Matrix::Type>(type), head, scales, centroids * members, width, block};
  edge_mtp::find_candidates({state, nearest, matrix, tokens, logits, ids, count, centroids, members}, pool);
}

}  // extern "C"
