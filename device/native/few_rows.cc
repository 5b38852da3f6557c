#include "few_rows.h"

#include <cmath>
#include <cstring>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace edge_mtp {
namespace {

constexpr float kSmallest = 1e-30f;     // 127 divided by less may be infinite
constexpr float kToInteger = 12582912;  // 1.5 * 2^23: added, it leaves no bits behind the point
constexpr int32_t kMostColumns = 1 << 16;  // the sums of more products of bytes need not fit 32 bits
constexpr uint32_t kInfinite = 0x7f800000;

inline uint32_t bits(float number) {
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof bits);
  return bits;
}

inline size_t padded(const Matrix& weight) {
  return (static_cast<size_t>(weight.width) + kGroup - 1) / kGroup * kGroup;
}

// The size of the largest number of a row; NaN if one is not finite. Of floats, larger ones have larger bits.
float largest(const float* row, int32_t count) {
  uint32_t most = 0;
  for (int32_t i = 0; i < count; ++i) {
    const uint32_t size = bits(row[i]) & 0x7fffffff;
    most = size > most ? size : most;
  }
  if (most >= kInfinite) return NAN;
  float size;
  std::memcpy(&size, &most, sizeof size);
  return size;
}

}  // namespace

bool can_multiply(const Matrix& weight) {
  if (weight.rows < 1 || weight.width < 1 || weight.width > kMostColumns || weight.width * weight.bits() % 8 != 0) {
    return false;
  }
  if (weight.block == 0) return true;
  const bool is_block = weight.block == kGroup / 2 || (weight.block > 0 && weight.block % kGroup == 0);
  return weight.type == Matrix::Type::kInt4 && is_block && weight.width % weight.block == 0;
}

size_t rounded_bytes(const Matrix& weight) {
  if (!weight.is_integer()) return 0;
  return padded(weight) + (weight.block > 0 ? padded(weight) / kGroup * 8 * sizeof(int32_t) : 0);
}

Activations round_row(const Matrix& weight, const float* row, void* memory) {
  Activations rounded{row, nullptr, nullptr, 0, 1.0f};
  if (!weight.is_integer()) return rounded;
  const size_t length = padded(weight);
  auto* const integers = static_cast<int8_t*>(memory);
  std::memset(memory, 0, rounded_bytes(weight));
  rounded.integers = integers;
  rounded.offsets = reinterpret_cast<int32_t*>(integers + length);
  const float most = largest(row, weight.width);
  rounded.scale = most < kSmallest ? 0.0f : most / 127.0f;
  if (!(most >= kSmallest)) return rounded;
  const float factor = 127.0f / most;
  for (int32_t i = 0; i < weight.width; ++i) {
    integers[i] = static_cast<int8_t>(bits(row[i] * factor + kToInteger) - bits(kToInteger));
  }
  if (weight.type == Matrix::Type::kInt8) return rounded;
  auto* const offsets = reinterpret_cast<int32_t*>(integers + length);
  for (size_t group = 0; group < length / kGroup; ++group) {
    int8_t* const to = integers + group * kGroup;
    int8_t from[kGroup];
    std::memcpy(from, to, sizeof from);
    int32_t sums[2] = {};
    for (int32_t i = 0; i < kGroup; ++i) {
      to[i / 2 + i % 2 * (kGroup / 2)] = from[i];
      sums[i / (kGroup / 2)] += 8 * from[i];
    }
    rounded.offset += sums[0] + sums[1];
    if (weight.block > 0) offsets[group * 8] = sums[0], offsets[group * 8 + 4] = sums[1];
  }
  return rounded;
}

MultiplyTile best_multiply_tile() {
#if defined(EDGE_EXPERTS_BASELINE)
#elif defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    return multiply_tile_avx2;
  }
#elif defined(__aarch64__) && defined(__linux__)
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) return multiply_tile_dotprod;
#endif
  return multiply_tile_baseline;
}

}  // namespace edge_mtp
