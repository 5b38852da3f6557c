// Compiled for what every machine of its kind has.
#include "low_bit_tile.h"

namespace edge_mtp {

const LowBitCode kLowBitBaseline{kStep, quantize_here, multiply_part_here};

}  // namespace edge_mtp
