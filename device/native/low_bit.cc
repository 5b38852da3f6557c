#include "low_bit.h"

#include <algorithm>
#include <vector>

#include "worker_pool.h"

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace edge_mtp {
namespace {

constexpr size_t kPartBytes = 64 << 10;

// Multiplications below which waking a thread costs more than it saves: some 20 us.
constexpr int64_t kWorthSharing = 1 << 20;

const LowBitCode& best_code() {
#if defined(EDGE_LOW_BIT_BASELINE)
#elif defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("f16c")) {
    return kLowBitAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    return kLowBitAvx2;
  }
#elif defined(__aarch64__) && defined(__linux__)
  constexpr unsigned long kDotprod = 1ul << 20;  // HWCAP_ASIMDDP
  if (getauxval(AT_HWCAP) & kDotprod) return kLowBitDotprod;
#endif
  return kLowBitBaseline;
}

const LowBitCode& code() {
  static const LowBitCode& best = best_code();
  return best;
}

// The product with all rows of the matrix.
void multiply_rows(const LowBitMatrix& matrix, const QuantizedRow* rows, int32_t count, float* const* out,
                   WorkerPool* pool) {
  const int32_t part = part_rows(matrix), parts = (matrix.rows + part - 1) / part;
  const auto run = [&matrix, rows, count, out, part](int32_t index) {
    multiply_part(matrix, rows, count, index * part, std::min(matrix.rows, (index + 1) * part), out);
  };
  const bool is_alone = pool == nullptr || pool->workers() == 1 || parts == 1 ||
                        static_cast<int64_t>(matrix.rows) * matrix.columns * count < kWorthSharing;
  if (is_alone) {
    for (int32_t index = 0; index < parts; ++index) run(index);
  } else {
    pool->run(parts, run);
  }
}

}  // namespace

const char* unsupported(const LowBitMatrix& matrix) {
  if (matrix.bits != 2 && matrix.bits != 4 && matrix.bits != 8) return "weights of 2, 4 or 8 bits";
  if (matrix.rows < 1 || matrix.columns < 1 || matrix.columns * matrix.bits % 8 != 0) return "rows of whole bytes";
  if (matrix.columns > kMostColumns) return "rows of at most 65,536 weights";
  if (matrix.block == 0) return nullptr;
  if (matrix.bits != 4) return "blocks of 4 bits";
  if (matrix.block < 32 || matrix.block > 256 || (matrix.block & (matrix.block - 1)) != 0) {
    return "blocks of 32, 64, 128 or 256";
  }
  return matrix.columns % matrix.block == 0 ? nullptr : "rows of whole blocks";
}

size_t quantized_bytes(int32_t columns, int32_t bits) {
  const auto step = static_cast<size_t>(code().step * (8 / bits));
  return (static_cast<size_t>(columns) + step - 1) / step * step;
}

QuantizedRow quantize(const float* row, int32_t columns, int32_t bits, uint8_t* bytes) {
  return code().quantize(row, columns, bits, bytes);
}

void multiply_part(const LowBitMatrix& matrix, const QuantizedRow* rows, int32_t count, int32_t first, int32_t last,
                   float* const* out) {
  code().multiply_part(matrix, rows, count, first, last, out);
}

int32_t part_rows(const LowBitMatrix& matrix) {
  const size_t row_bytes = static_cast<size_t>(matrix.columns) * static_cast<size_t>(matrix.bits) / 8;
  return static_cast<int32_t>(std::max<size_t>(1, kPartBytes / row_bytes / 4) * 4);
}

void row_sums(const LowBitMatrix& matrix, float* out, WorkerPool* pool) {
  // The product with ones, where a row has no scale.
  std::vector<uint8_t> ones(quantized_bytes(matrix.columns, matrix.bits), 1);
  const std::vector<float> scales(static_cast<size_t>(matrix.rows), 1.0f), none(scales.size(), 0.0f);
  LowBitMatrix plain = matrix;
  plain.scales = scales.data();
  plain.sums = none.data();
  const QuantizedRow row{ones.data(), 1.0f, 0};
  multiply_rows(plain, &row, 1, &out, pool);
}

const float* RowSums::of(const LowBitMatrix& matrix, WorkerPool* pool) {
  std::vector<float>& found = sums_[matrix.weights];
  if (found.empty()) {
    found.resize(static_cast<size_t>(matrix.rows));
    row_sums(matrix, found.data(), pool);
  }
  return found.data();
}

void multiply(const LowBitMatrix& matrix, const float* rows, int32_t count, float* out, WorkerPool* pool) {
  thread_local std::vector<uint8_t> bytes;
  thread_local std::vector<QuantizedRow> quantized;
  thread_local std::vector<float*> results;
  const size_t columns = static_cast<size_t>(matrix.columns), size = quantized_bytes(matrix.columns, matrix.bits);
  const auto rows_count = static_cast<size_t>(count);
  if (bytes.size() < size * rows_count) bytes.resize(size * rows_count);
  if (quantized.size() < rows_count) quantized.resize(rows_count), results.resize(rows_count);
  for (size_t t = 0; t < rows_count; ++t) {
    quantized[t] = quantize(rows + t * columns, matrix.columns, matrix.bits, bytes.data() + t * size);
    results[t] = out + t * static_cast<size_t>(matrix.rows);
  }
  multiply_rows(matrix, quantized.data(), count, results.data(), pool);
}

}  // namespace edge_mtp
