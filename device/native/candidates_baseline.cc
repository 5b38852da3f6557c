// Compiled for what every machine of its kind has: NEON, SSE2, or vectors that the compiler takes apart.
#include "candidates_rows.h"

namespace edge_mtp {

void candidates_part_baseline(const Candidates& call, int32_t index) { candidates_part(call, index); }

}  // namespace edge_mtp
