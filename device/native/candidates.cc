#include "candidates.h"

#include <algorithm>
#include <limits>

#include "worker_pool.h"

namespace edge_mtp {
namespace {

// Bytes of rows below which waking a thread costs more than it saves.
constexpr int64_t kWorthSharing = 1 << 18;

CandidatesPart best_candidates_part() {
#if defined(__x86_64__) && !defined(EDGE_CANDIDATES_BASELINE)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return candidates_part_avx2;
#endif
  return candidates_part_baseline;
}

}  // namespace

void find_candidates(const Candidates& call, WorkerPool* pool) {
  static const CandidatesPart part = best_candidates_part();
  const auto run = [&](int32_t index) {
    const int32_t centroid = call.nearest[index];
    float* const logits = call.logits + static_cast<int64_t>(index) * call.members;
    int32_t* const ids = call.ids + static_cast<int64_t>(index) * call.members;
    if (centroid < 0 || centroid >= call.centroids) {
      std::fill_n(logits, call.members, std::numeric_limits<float>::quiet_NaN());
      std::fill_n(ids, call.members, 0);
      return;
    }
    part(call, index);
    std::copy_n(call.tokens + static_cast<int64_t>(centroid) * call.members, call.members, ids);
  };
  const int64_t bytes = static_cast<int64_t>(call.count) * call.members * call.head.row_bytes();
  if (pool == nullptr || pool->workers() == 1 || bytes < kWorthSharing) {
    for (int32_t index = 0; index < call.count; ++index) run(index);
  } else {
    pool->run(call.count, run);
  }
}

}  // namespace edge_mtp
