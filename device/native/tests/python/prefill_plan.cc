// device/native/prefill_plan.cc for tests/unit/test_prefill_plan.py.
#include "prefill_plan.h"

#include <algorithm>

using edge_mtp::PrefillPlan;

extern "C" {

void* plan_new(const int32_t* lengths, int32_t count) { return new PrefillPlan({lengths, lengths + count}); }
void plan_free(void* plan) { delete static_cast<PrefillPlan*>(plan); }
void plan_observe(void* plan, int32_t rows, double us) { static_cast<PrefillPlan*>(plan)->observe(rows, us); }
// Returns how many chunks there are; writes at most `most` of them.
int32_t plan_chunks(void* plan, int32_t count, int32_t first, int32_t context, int32_t* chunks, int32_t most) {
  const std::vector<int32_t>& found = static_cast<PrefillPlan*>(plan)->chunks(count, first, context);
  std::copy_n(found.begin(), std::min(found.size(), static_cast<size_t>(most)), chunks);
  return static_cast<int32_t>(found.size());
}
// The memory of one, taken over by a new one of the same lengths.
void* plan_copy(const void* plan, const int32_t* lengths, int32_t count) {
  auto* const copy = new PrefillPlan({lengths, lengths + count});
  copy->restore(static_cast<const PrefillPlan*>(plan)->save());
  return copy;
}

}  // extern "C"
