// Compiled for AVX-512 with VNNI.
#ifdef __x86_64__
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 finds it in its own headers
#endif
#include "low_bit_tile.h"

namespace edge_mtp {

const LowBitCode kLowBitAvx512{kStep, quantize_here, multiply_part_here};

}  // namespace edge_mtp
#endif
