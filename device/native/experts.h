// A mixture of experts that reads the chosen ones' weights where they lie, each once for all rows of a call: the kernel of
// edge_mtp.experts (docs/experts-op.md).
//
// What a row gives depends on it, its choice and the weights alone: not on the other rows of the call, on the place of an
// expert in the choice, nor on the number of threads.
#pragma once

#include <cstdint>

#include "matrix.h"

namespace edge_mtp {

class WorkerPool;

// One call. Expert e has the rows from 2 * inner * e on of `gate_up`, first the gate's and then those of `up`, and the
// rows from hidden * e on of `down`.
struct Experts {
  const float* rows;      // [count, hidden]
  const int32_t* chosen;  // [count, choices], the experts of a row
  const float* shares;    // [count, choices]
  Matrix gate_up;         // [experts * 2 * inner, hidden]
  Matrix down;            // [experts * hidden, inner]
  float* out;             // [count, hidden]; NaN in a row that chooses what there is not
  int32_t count, choices, experts, hidden, inner;
};

// Computes the call in this thread and those of `pool`, which may be null. Keeps memory for the largest call so far of
// the thread, and allocates nothing else.
void mix_experts(const Experts& call, WorkerPool* pool);

}  // namespace edge_mtp
