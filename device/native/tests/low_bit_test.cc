// The kernel of low-bit products on buffers of exactly the contract's sizes, so that a sanitizer sees a read or write past
// them, against the plainest possible product. Values are checked at length in tests/oracle/test_product.py.
#include "../low_bit.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "../worker_pool.h"

namespace {

using edge_mtp::LowBitMatrix;
using edge_mtp::WorkerPool;

std::mt19937 random_numbers(1);

int32_t between(int32_t least, int32_t most) {
  return std::uniform_int_distribution<int32_t>(least, most)(random_numbers);
}

size_t size(int32_t a, int32_t b) { return static_cast<size_t>(a) * static_cast<size_t>(b); }

constexpr int32_t kBlocks[] = {0, 32, 64, 128, 256};
constexpr uint16_t kHalf = 0x3800;  // 0.5 as float16

int32_t weight(const LowBitMatrix& matrix, int32_t row, int32_t column) {
  const int32_t per_byte = 8 / matrix.bits, shift = column % per_byte * matrix.bits;
  const uint8_t byte = matrix.weights[size(row, matrix.columns / per_byte) + static_cast<size_t>(column / per_byte)];
  return static_cast<int8_t>(byte << (8 - matrix.bits - shift)) >> (8 - matrix.bits);
}

void check_case(WorkerPool& pool) {
  LowBitMatrix matrix{};
  matrix.bits = 1 << between(1, 3);
  matrix.block = matrix.bits == 4 ? kBlocks[between(0, 4)] : 0;
  matrix.columns = matrix.block > 0 ? matrix.block * between(1, 3) : 8 / matrix.bits * between(1, 150);
  matrix.rows = between(1, 40);
  const int32_t count = between(1, 10);
  std::vector<uint8_t> weights(size(matrix.rows, matrix.columns * matrix.bits / 8));
  std::vector<float> scales(static_cast<size_t>(matrix.rows), 0.5f), sums(scales.size());
  std::vector<uint16_t> halves(matrix.block > 0 ? size(matrix.rows, matrix.columns / matrix.block) : 0, kHalf);
  std::vector<float> rows(size(count, matrix.columns)), out(size(count, matrix.rows)), alone(out.size());
  for (uint8_t& each : weights) each = static_cast<uint8_t>(between(0, 255));
  for (float& each : rows) each = static_cast<float>(between(-1000, 1000)) / 500;
  matrix.weights = weights.data();
  matrix.scales = matrix.block > 0 ? nullptr : scales.data();
  matrix.block_scales = matrix.block > 0 ? halves.data() : nullptr;
  edge_mtp::row_sums(matrix, sums.data(), &pool);
  matrix.sums = sums.data();
  edge_mtp::multiply(matrix, rows.data(), count, out.data(), &pool);
  edge_mtp::multiply(matrix, rows.data(), count, alone.data(), nullptr);
  if (std::memcmp(out.data(), alone.data(), out.size() * sizeof(float)) != 0) {
    std::fprintf(stderr, "threads change a result\n");
    std::exit(1);
  }
  for (int32_t t = 0; t < count; ++t) {
    for (int32_t n = 0; n < matrix.rows; ++n) {
      double wanted = 0, error = 0;
      for (int32_t k = 0; k < matrix.columns; ++k) {
        const double by = 0.5 * weight(matrix, n, k);
        wanted += by * static_cast<double>(rows[size(t, matrix.columns) + static_cast<size_t>(k)]);
        error += std::abs(by) * 4 / 255;  // a step of the row's integers, whose range is at most 4
      }
      const double found = static_cast<double>(out[size(t, matrix.rows) + static_cast<size_t>(n)]);
      if (std::abs(found - wanted) > error + 1e-4) {
        std::fprintf(stderr, "row %d, %d: %g instead of %g\n", t, n, found, wanted);
        std::exit(1);
      }
    }
  }
}

}  // namespace

int main() {
  WorkerPool pool(3);
  for (int i = 0; i < 300; ++i) check_case(pool);
  std::printf("ok\n");
}
