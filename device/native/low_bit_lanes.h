// Vectors of bytes and what low_bit_tile.h does with them, with the instructions that the including file is compiled
// for. Everything here has internal linkage: files of one program are compiled for different machines.
//
// Ints and Floats have a lane for each four of the Bytes. kUnit<bits> is what unpacked weights are multiples of, kOffset
// what is added to a quantized number to make it a byte: it is unsigned where the instructions want that. The products
// of kSteps<bits> steps are added up in lanes of whatever width add() takes, and wide() then makes them Ints.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace edge_mtp {
namespace {

constexpr int32_t kAnySteps = 1 << 20;

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)

constexpr int32_t kStep = 64, kOffset = 128;
constexpr int32_t kMostSums = 20;  // of 32 registers
using Bytes = __m512i;
using Ints = __m512i;
using Floats = __m512;

// Weights lie in the highest bits of their bytes: so the sign needs no work.
template <int kBits>
constexpr int32_t kUnit = 1 << (8 - kBits);

inline Bytes load(const uint8_t* from) { return _mm512_loadu_si512(from); }
inline Bytes load_some(const uint8_t* from, int32_t count) {
  return _mm512_maskz_loadu_epi8((1ull << count) - 1, from);
}
// The weights that lie `place` weights up in each byte.
template <int kBits>
inline Bytes unpack(Bytes packed, int32_t place) {
  if constexpr (kBits == 8) return packed;
  const Bytes mask = _mm512_set1_epi8(static_cast<char>(0xff << (8 - kBits)));
  return _mm512_and_si512(_mm512_slli_epi16(packed, static_cast<unsigned>(8 - kBits * (place + 1))), mask);
}
template <int kBits>
constexpr int32_t kSteps = kAnySteps;
template <int kBits>
inline Ints add(Ints sums, Bytes numbers, Bytes weights) {
  return _mm512_dpbusd_epi32(sums, numbers, weights);
}
template <int kBits>
inline Ints wide(Ints sums) { return sums; }
inline Ints plus(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
inline Floats floats(Ints of) { return _mm512_cvtepi32_ps(of); }
inline Floats fused(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats all(float value) { return _mm512_set1_ps(value); }
// `count` (1, 2 or 4) numbers, each for as many neighbouring lanes.
inline Floats spread(const float* from, int32_t count) {
  if (count == 1) return _mm512_set1_ps(*from);
  const __m512i pairs = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
  const __m512i quads = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
  return _mm512_permutexvar_ps(count == 2 ? pairs : quads, _mm512_castps128_ps512(_mm_loadu_ps(from)));
}
// The sum of each of four vectors, all in the same order.
inline void sums(Ints a, Ints b, Ints c, Ints d, int32_t* out) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
  const __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                   _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1)));
}
inline void sums(Floats a, Floats b, Floats c, Floats d, float* out) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
  const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
  const __m512 all = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all),
                                    _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(all), 1)));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

constexpr int32_t kStep = 32, kOffset = 128;
constexpr int32_t kMostSums = 10;  // of 16 registers
using Bytes = __m256i;
using Ints = __m256i;
using Floats = __m256;

template <int kBits>
constexpr int32_t kUnit = 1;

inline Bytes load(const uint8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
inline Bytes load_some(const uint8_t* from, int32_t count) {
  alignas(32) uint8_t whole[kStep] = {};
  std::memcpy(whole, from, static_cast<size_t>(count));
  return load(whole);
}
template <int kBits>
inline Bytes unpack(Bytes packed, int32_t place) {
  if constexpr (kBits == 8) return packed;
  const __m256i of_4 = _mm256_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1,  //
                                        0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
  const __m256i of_2 = _mm256_setr_epi8(0, 1, -2, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,  //
                                        0, 1, -2, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  const __m256i low = _mm256_and_si256(_mm256_srli_epi16(packed, kBits * place), _mm256_set1_epi8((1 << kBits) - 1));
  return _mm256_shuffle_epi8(kBits == 4 ? of_4 : of_2, low);
}
// A lane of 16 bits is the sum of two products. The largest of kSteps steps is 8 * 2 * 255 * 8 with 4 bits.
template <int kBits>
constexpr int32_t kSteps = kBits == 8 ? kAnySteps : kBits == 4 ? 4 : 8;
template <int kBits>
inline Ints add(Ints sums, Bytes numbers, Bytes weights) {
  if constexpr (kBits < 8) return _mm256_add_epi16(sums, _mm256_maddubs_epi16(numbers, weights));
  // Two products of 8 bits do not fit: those of even and of odd bytes apart, in 32 bits.
  const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(weights, 8), 8), odd = _mm256_srai_epi16(weights, 8);
  sums = _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_and_si256(numbers, _mm256_set1_epi16(0xff)), even));
  return _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_srli_epi16(numbers, 8), odd));
}
template <int kBits>
inline Ints wide(Ints sums) {
  if constexpr (kBits == 8) return sums;
  return _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
}
inline Ints plus(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
inline Floats floats(Ints of) { return _mm256_cvtepi32_ps(of); }
inline Floats fused(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats all(float value) { return _mm256_set1_ps(value); }
inline Floats spread(const float* from, int32_t count) {
  if (count == 1) return _mm256_set1_ps(*from);
  return _mm256_setr_m128(_mm_set1_ps(from[0]), _mm_set1_ps(from[1]));
}
inline void sums(Ints a, Ints b, Ints c, Ints d, int32_t* out) {
  const __m256i all = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                   _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1)));
}
inline void sums(Floats a, Floats b, Floats c, Floats d, float* out) {
  const __m256 all = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}

#else

constexpr int32_t kStep = 16, kOffset = 0;
typedef int32_t Ints __attribute__((vector_size(16)));
typedef float Floats __attribute__((vector_size(16)));

#ifdef __aarch64__

constexpr int32_t kMostSums = 20;  // of 32 registers
using Bytes = int8x16_t;

template <int kBits>
constexpr int32_t kUnit = 1;

inline Bytes load(const uint8_t* from) { return vreinterpretq_s8_u8(vld1q_u8(from)); }
template <int kBits>
inline Bytes unpack(Bytes packed, int32_t place) {
  if constexpr (kBits == 8) return packed;
  const int8x16_t up = vdupq_n_s8(static_cast<int8_t>(8 - kBits * (place + 1)));
  return vshrq_n_s8(vshlq_s8(packed, up), kBits == 8 ? 1 : 8 - kBits);
}
#ifdef __ARM_FEATURE_DOTPROD
template <int kBits>
constexpr int32_t kSteps = kAnySteps;
template <int kBits>
inline Ints add(Ints sums, Bytes numbers, Bytes weights) {
  return (Ints)vdotq_s32((int32x4_t)sums, numbers, weights);
}
template <int kBits>
inline Ints wide(Ints sums) { return sums; }
#else
// A lane of 16 bits is the sum of two products in each place of a step: at most 8 * 2 * 128 * 8 with 4 bits.
template <int kBits>
constexpr int32_t kSteps = kBits == 8 ? kAnySteps : kBits == 4 ? 4 : 8;
template <int kBits>
inline Ints add(Ints sums, Bytes numbers, Bytes weights) {
  if constexpr (kBits < 8) {
    const int16x8_t low = vmlal_s8((int16x8_t)sums, vget_low_s8(numbers), vget_low_s8(weights));
    return (Ints)vmlal_high_s8(low, numbers, weights);
  }
  const int16x8_t low = vmull_s8(vget_low_s8(numbers), vget_low_s8(weights));
  const int16x8_t high = vmull_high_s8(numbers, weights);
  return (Ints)vpadalq_s16(vpadalq_s16((int32x4_t)sums, low), high);
}
template <int kBits>
inline Ints wide(Ints sums) {
  if constexpr (kBits == 8) return sums;
  return (Ints)vpaddlq_s16((int16x8_t)sums);
}
#endif
inline Floats floats(Ints of) { return (Floats)vcvtq_f32_s32((int32x4_t)of); }
inline Floats fused(Floats a, Floats b, Floats c) {
  return (Floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}

#else

constexpr int32_t kMostSums = 4;
typedef int8_t Bytes __attribute__((vector_size(16)));

template <int kBits>
constexpr int32_t kUnit = 1;

inline Bytes load(const uint8_t* from) {
  Bytes bytes;
  std::memcpy(&bytes, from, sizeof bytes);
  return bytes;
}
template <int kBits>
inline Bytes unpack(Bytes packed, int32_t place) {
  if constexpr (kBits == 8) return packed;
  typedef uint8_t Unsigned __attribute__((vector_size(16)));
  return (Bytes)((Unsigned)packed << static_cast<uint8_t>(8 - kBits * (place + 1))) >> (8 - kBits);
}
typedef int16_t Shorts __attribute__((vector_size(16)));
// A lane of 16 bits is the sum of two products in each place of a step, as above.
template <int kBits>
constexpr int32_t kSteps = kBits == 8 ? kAnySteps : kBits == 4 ? 4 : 8;
// A vector of 16 bits in sums of two, in 32.
inline Ints pairs(Shorts of) { return (((Ints)of << 16) >> 16) + ((Ints)of >> 16); }
template <int kBits>
inline Ints add(Ints sums, Bytes numbers, Bytes weights) {
  const Shorts even = (((Shorts)numbers << 8) >> 8) * (((Shorts)weights << 8) >> 8);
  const Shorts odd = ((Shorts)numbers >> 8) * ((Shorts)weights >> 8);
  if constexpr (kBits < 8) return (Ints)((Shorts)sums + even + odd);
  return sums + pairs(even) + pairs(odd);
}
template <int kBits>
inline Ints wide(Ints sums) {
  if constexpr (kBits == 8) return sums;
  return pairs((Shorts)sums);
}
inline Floats floats(Ints of) { return __builtin_convertvector(of, Floats); }
inline Floats fused(Floats a, Floats b, Floats c) { return a * b + c; }  // rounded twice: there is no instruction

#endif

inline Bytes load_some(const uint8_t* from, int32_t count) {
  uint8_t whole[kStep] = {};
  std::memcpy(whole, from, static_cast<size_t>(count));
  return load(whole);
}
inline Ints plus(Ints a, Ints b) { return a + b; }
inline Floats all(float value) { return Floats{value, value, value, value}; }
inline Floats spread(const float* from, int32_t) { return all(*from); }
inline int32_t sum(Ints of) { return (of[0] + of[1]) + (of[2] + of[3]); }
inline float sum(Floats of) { return (of[0] + of[1]) + (of[2] + of[3]); }
template <typename Vector, typename Number>
inline void sums(Vector a, Vector b, Vector c, Vector d, Number* out) {
  out[0] = sum(a), out[1] = sum(b), out[2] = sum(c), out[3] = sum(d);
}

#endif

// float16, as the matrix has its blocks' scales.
inline float widened(uint16_t half) {
#if defined(__F16C__)
  return _cvtsh_ss(half);
#elif defined(__aarch64__)
  __fp16 value;
  std::memcpy(&value, &half, sizeof value);
  return value;
#else
  // In its place, a float16 is a float32 whose exponent is too small by 112; so it is for subnormal numbers.
  const uint32_t bits = static_cast<uint32_t>(half & 0x7fff) << 13;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  value *= 0x1p112f;
  return (half & 0x8000) != 0 ? -value : value;
#endif
}

// `count` of them, divided by `unit`.
inline void widen(const uint16_t* from, int32_t count, float unit, float* to) {
  int32_t i = 0;
#if defined(__F16C__)
  const __m256 factor = _mm256_set1_ps(1 / unit);
  for (; i + 8 <= count; i += 8) {
    const __m256 eight = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
    _mm256_storeu_ps(to + i, _mm256_mul_ps(eight, factor));
  }
#endif
  for (; i < count; ++i) to[i] = widened(from[i]) / unit;
}

}  // namespace
}  // namespace edge_mtp
