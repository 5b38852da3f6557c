// The logits of a drafter's candidates, straight from its encoded head: the kernel of edge_mtp.candidates
// (docs/candidates-op.md).
//
// A logit depends on the state and its own row alone, and its sums have a fixed order. Nothing is allocated.
#pragma once

#include <cstdint>

#include "matrix.h"

namespace edge_mtp {

class WorkerPool;

// One call: the `members` rows of each of the `count` centroids `nearest`.
struct Candidates {
  const float* state;      // [head.width]
  const int32_t* nearest;  // [count]
  Matrix head;             // [centroids * members, width], the rows of a centroid one after another
  const int32_t* tokens;   // [centroids, members]: the token of each row
  float* logits;           // [count, members]; NaN for what is no centroid
  int32_t* ids;            // [count, members]; 0 for what is no centroid
  int32_t count, centroids, members;
};

constexpr int32_t kMostCandidateWidth = 8192;  // of the state: it is rearranged on the stack

// Computes the call in this thread and those of `pool`, which may be null.
void find_candidates(const Candidates& call, WorkerPool* pool);

// A part of a call: the logits of number `index` of the centroids. The same code for several instruction sets.
using CandidatesPart = void (*)(const Candidates& call, int32_t index);
void candidates_part_baseline(const Candidates& call, int32_t index);
#ifdef __x86_64__
void candidates_part_avx2(const Candidates& call, int32_t index);
#endif

}  // namespace edge_mtp
