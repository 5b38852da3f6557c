// Compiled for NEON with the dot product.
#ifdef __aarch64__
#include "low_bit_tile.h"

namespace edge_mtp {

const LowBitCode kLowBitDotprod{kStep, quantize_here, multiply_part_here};

}  // namespace edge_mtp
#endif
