// Compiled for what every machine of its kind has: NEON, SSE2, or vectors that the compiler takes apart.
#include "attention_rows.h"

namespace edge_mtp {

void attend_part_baseline(const Attention& call, AttentionPart part) { attend_part(call, part); }

}  // namespace edge_mtp
