#include "attention.h"

#include <algorithm>

#include "worker_pool.h"

namespace edge_mtp {
namespace {

// Multiplications below which waking a thread costs more than it saves: some 20 us.
constexpr int64_t kWorthSharing = 1 << 19;

int64_t multiplications(const Attention& call) {
  int64_t positions = 0;
  for (int32_t t = 0; t < call.tokens; ++t) {
    const int32_t begin = std::max(0, call.seen[2 * t]), end = std::min(call.context, call.seen[2 * t + 1]);
    positions += end > begin ? end - begin : 0;
  }
  return 2 * positions * (call.rows / call.tokens) * call.heads * call.dim;
}

}  // namespace

AttendPart best_attend_part() {
#if defined(__x86_64__) && !defined(EDGE_ATTENTION_BASELINE)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return attend_part_avx2;
#endif
  return attend_part_baseline;
}

void attend(const Attention& call, WorkerPool* pool) {
  static const AttendPart attend_part = best_attend_part();
  const int32_t workers = pool == nullptr || multiplications(call) < kWorthSharing ? 1 : pool->workers();
  // Rows of a part share what is read of the cache, so parts are large unless a worker would be left without one.
  int32_t size = kAttentionRows;
  const auto parts_per_head = [&] { return (call.rows + size - 1) / size; };
  while (size > 4 && call.heads * parts_per_head() < workers) size /= 2;
  const int32_t per_head = parts_per_head();
  const auto run = [&](int32_t index) {
    const int32_t first = index % per_head * size;
    attend_part(call, {index / per_head, first, std::min(size, call.rows - first)});
  };
  if (workers == 1) {
    for (int32_t index = 0; index < call.heads * per_head; ++index) run(index);
  } else {
    pool->run(call.heads * per_head, run);
  }
}

}  // namespace edge_mtp
