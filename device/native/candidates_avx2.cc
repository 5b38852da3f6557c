// Compiled for AVX2 and FMA.
#ifdef __x86_64__
#include "candidates_rows.h"

namespace edge_mtp {

void candidates_part_avx2(const Candidates& call, int32_t index) { candidates_part(call, index); }

}  // namespace edge_mtp
#endif
