#ifdef __x86_64__
#include "few_rows_tile.h"

namespace edge_mtp {

void multiply_tile_avx2(const Matrix& weight, int64_t first, int32_t weights, const Activations* rows, int32_t count,
                      float (*out)[kRowTile]) {
  multiply_tile(weight, first, weights, rows, count, out);
}

}  // namespace edge_mtp
#endif
