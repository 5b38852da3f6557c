// Compiled for AVX2 and FMA.
#ifdef __x86_64__
#include "attention_rows.h"

namespace edge_mtp {

void attend_part_avx2(const Attention& call, AttentionPart part) { attend_part(call, part); }

}  // namespace edge_mtp
#endif
