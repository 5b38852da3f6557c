// Compiled for AVX2, FMA and F16C.
#ifdef __x86_64__
#include "low_bit_tile.h"

namespace edge_mtp {

const LowBitCode kLowBitAvx2{kStep, quantize_here, multiply_part_here};

}  // namespace edge_mtp
#endif
