// The kernel of attention for Python.
#include "attention.h"

#include "worker_pool.h"

using edge_mtp::Attention;
using edge_mtp::WorkerPool;

extern "C" {

WorkerPool* attention_pool(int32_t workers) { return new WorkerPool(workers); }
void attention_pool_destroy(WorkerPool* pool) { delete pool; }

void attention(const float* query, const void* keys, const void* values, const int32_t* seen, float* out, int32_t heads,
               int32_t rows, int32_t tokens, int32_t context, int32_t dim, int32_t int8, WorkerPool* pool) {
  edge_mtp::attend({query, keys, values, seen, out, heads, rows, tokens, context, dim, int8 != 0}, pool);
}

}  // extern "C"
