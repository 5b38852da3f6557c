// Vectors of floats, of the width and with the instructions that the including file is compiled for. Everything here has
// internal linkage: files of one program are compiled for different machines.
#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "half.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace edge_mtp {
namespace {

struct Half {
  uint16_t bits;
};

#if defined(__AVX2__) && defined(__FMA__)

constexpr int32_t kLanes = 8;
typedef float Lanes __attribute__((vector_size(32)));
typedef uint32_t Words __attribute__((vector_size(32)));
typedef int32_t Integers __attribute__((vector_size(32)));

inline Lanes fused(Lanes a, Lanes b, Lanes c) { return (Lanes)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
inline Lanes larger(Lanes a, Lanes b) { return (Lanes)_mm256_max_ps((__m256)a, (__m256)b); }
inline Integers integers(const int8_t* from) {
  return (Integers)_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
}
inline Lanes floats(Integers of) { return (Lanes)_mm256_cvtepi32_ps((__m256i)of); }
// Every processor with AVX2 has F16C.
inline Lanes load(const Half* from) {
  return (Lanes)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
inline float widened(Half half) { return _cvtsh_ss(half.bits); }

// The sum of each of four vectors.
inline void sums(Lanes a, Lanes b, Lanes c, Lanes d, float* out) {
  const __m256 low = _mm256_hadd_ps((__m256)a, (__m256)b), high = _mm256_hadd_ps((__m256)c, (__m256)d);
  const __m256 both = _mm256_hadd_ps(low, high);
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1)));
}

#else

constexpr int32_t kLanes = 4;
typedef float Lanes __attribute__((vector_size(16)));
typedef uint32_t Words __attribute__((vector_size(16)));
typedef int32_t Integers __attribute__((vector_size(16)));

#ifdef __aarch64__
inline Lanes fused(Lanes a, Lanes b, Lanes c) { return (Lanes)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
inline Integers integers(const int8_t* from) {
  uint32_t four;
  std::memcpy(&four, from, sizeof four);
  const int16x8_t wide = vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(four)));
  return (Integers)vmovl_s16(vget_low_s16(wide));
}
inline Lanes floats(Integers of) { return (Lanes)vcvtq_f32_s32((int32x4_t)of); }
inline Lanes load(const Half* from) {
  uint16x4_t four;
  std::memcpy(&four, from, sizeof four);
  return (Lanes)vcvt_f32_f16(vreinterpret_f16_u16(four));
}
inline float widened(Half half) {
  __fp16 value;
  std::memcpy(&value, &half, sizeof value);
  return value;
}
#else
inline Lanes fused(Lanes a, Lanes b, Lanes c) { return a * b + c; }  // rounded twice: there is no instruction
inline Integers integers(const int8_t* from) { return Integers{from[0], from[1], from[2], from[3]}; }
inline Lanes floats(Integers of) {
  return Lanes{static_cast<float>(of[0]), static_cast<float>(of[1]), static_cast<float>(of[2]),
               static_cast<float>(of[3])};
}
inline float widened(Half half) { return half_to_float(half.bits); }
inline Lanes load(const Half* from) {
  return Lanes{widened(from[0]), widened(from[1]), widened(from[2]), widened(from[3])};
}
#endif

inline Lanes larger(Lanes a, Lanes b) {
  const Words above = (Words)(a > b);
  return (Lanes)((above & (Words)a) | (~above & (Words)b));
}

inline float sum(Lanes of) { return (of[0] + of[1]) + (of[2] + of[3]); }

inline void sums(Lanes a, Lanes b, Lanes c, Lanes d, float* out) {
  out[0] = sum(a), out[1] = sum(b), out[2] = sum(c), out[3] = sum(d);
}

#endif

inline Lanes load(const float* from) {
  Lanes lanes;
  std::memcpy(&lanes, from, sizeof lanes);
  return lanes;
}

inline Lanes load(const int8_t* from) { return floats(integers(from)); }

inline void store(Lanes lanes, float* to) { std::memcpy(to, &lanes, sizeof lanes); }

inline Lanes all(float value) { return Lanes{} + value; }

// The first `count` lanes; the rest are 0.
template <typename Number>
inline Lanes load_some(const Number* from, int32_t count) {
  Number some[kLanes] = {};
  std::memcpy(some, from, static_cast<size_t>(count) * sizeof(Number));
  return load(some);
}

// exp of numbers up to 0, within 2 units in the last place; 0 from -87 down, exactly 1 at 0, NaN of NaN. As in Cephes:
// 2^n times a polynomial.
inline Lanes exp_of(Lanes x) {
  const float to_integer = 12582912.0f;  // 1.5 * 2^23: added, it leaves no bits behind the point
  const Words is_lost = (Words)(x <= -87.0f);
  const Lanes shifted = fused(x, all(1.44269504f), all(to_integer)), n = shifted - to_integer;
  const Lanes r = fused(n, all(2.12194440e-4f), fused(n, all(-0.693359375f), x));
  Lanes p = all(1.9875691500e-4f);
  for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) {
    p = fused(p, r, all(c));
  }
  p = fused(p * r, r, r) + 1.0f;
  return (Lanes)(((Words)p + ((Words)shifted << 23)) & ~is_lost);
}

}  // namespace
}  // namespace edge_mtp
