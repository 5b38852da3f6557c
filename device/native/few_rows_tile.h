// The products of few_rows.h, for the instruction set that the including file is compiled for (lanes.h).
//
// A tile multiplies some rows of the weight with some rows of activations, group by group: a group of weights is unpacked
// once for all rows, and a group of activations read once for all weights. Below 8 bits a weight is raised by 8, which
// makes it unsigned; what that adds is known from the activations alone, and taken off again.
#pragma once

#include "few_rows.h"
#include "lanes.h"

namespace edge_mtp {
namespace {

constexpr int32_t kHalf = kGroup / 2;  // the smallest block
constexpr size_t kAhead = 1024;        // bytes of a row's successors that are fetched early

// Sums of products of a group: of its first half in one part and of its second in another. Int8, Int4 and Int2 are 64
// weights that are ready to be multiplied; `dot` multiplies.
#if defined(__AVX2__) && defined(__FMA__)

struct Sums {
  __m256i lanes = _mm256_setzero_si256();
  void operator+=(Sums other) { lanes = _mm256_add_epi32(lanes, other.lanes); }
  int32_t total() const {
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
  }
};

inline __m256i bytes(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
inline __m256i pairs(__m256i sums) { return _mm256_madd_epi16(sums, _mm256_set1_epi16(1)); }

struct Int8 {
  explicit Int8(const uint8_t* from) : first(bytes(from)), second(bytes(from + 32)) {}
  __m256i first, second;
};

inline Sums dot(const Int8& weights, const int8_t* row) {
  const auto part = [](__m256i of, const int8_t* by) {
    return pairs(_mm256_maddubs_epi16(_mm256_abs_epi8(of), _mm256_sign_epi8(bytes(by), of)));
  };
  return {_mm256_add_epi32(part(weights.first, row), part(weights.second, row + 32))};
}

struct Int4 {
  explicit Int4(const uint8_t* from) {
    const __m256i packed = _mm256_xor_si256(bytes(from), _mm256_set1_epi8(static_cast<char>(0x88)));
    const __m256i low = _mm256_set1_epi8(15);
    even = _mm256_and_si256(packed, low);
    odd = _mm256_and_si256(_mm256_srli_epi16(packed, 4), low);
  }
  __m256i even, odd;

 protected:
  Int4() = default;
};

struct Int2 : Int4 {
  explicit Int2(const uint8_t* from) {
    const __m128i stored = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    const __m128i packed = _mm_xor_si128(stored, _mm_set1_epi8(static_cast<char>(0xaa)));
    const auto place = [&](int32_t bit) {
      const __m128i low = _mm_and_si128(_mm_srli_epi16(packed, bit), _mm_set1_epi8(3));
      return _mm_add_epi8(low, _mm_set1_epi8(6));
    };
    const auto both = [](__m128i a, __m128i b) {
      return _mm256_set_m128i(_mm_unpackhi_epi8(a, b), _mm_unpacklo_epi8(a, b));
    };
    even = both(place(0), place(4));
    odd = both(place(2), place(6));
  }
};

inline Sums dot(const Int4& weights, const int8_t* row) {
  return {pairs(_mm256_add_epi16(_mm256_maddubs_epi16(weights.even, bytes(row)),
                                 _mm256_maddubs_epi16(weights.odd, bytes(row + 32))))};
}

// Floats for the two halves of groups, times a scale each.
struct Scales {
  explicit Scales(float both) : lanes(all(both)) {}
  explicit Scales(const Half* two) {
    int32_t halves;
    std::memcpy(&halves, two, sizeof halves);
    const __m128 floats = _mm_cvtph_ps(_mm_cvtsi32_si128(halves));
    lanes = (Lanes)_mm256_set_m128(_mm_permute_ps(floats, 0x55), _mm_permute_ps(floats, 0));
  }
  Lanes lanes;
};

struct Floats {
  Lanes lanes = {};
  void add(Sums sums, const int32_t* offsets, const Scales& scales) {
    const __m256i whole = _mm256_sub_epi32(sums.lanes, bytes(offsets));
    lanes = fused((Lanes)_mm256_cvtepi32_ps(whole), scales.lanes, lanes);
  }
  float total() const {
    const Lanes of = lanes;
    return ((of[0] + of[1]) + (of[2] + of[3])) + ((of[4] + of[5]) + (of[6] + of[7]));
  }
};

#else

struct Sums {
  Integers first = {}, second = {};
  void operator+=(Sums other) { first += other.first, second += other.second; }
  int32_t total() const {
    const Integers both = first + second;
    return (both[0] + both[1]) + (both[2] + both[3]);
  }
};

#if defined(__ARM_FEATURE_DOTPROD)

inline Integers dot16(int8x16_t a, const int8_t* b, Integers sums = Integers{}) {
  return (Integers)vdotq_s32((int32x4_t)sums, a, vld1q_s8(b));
}

struct Int8 {
  explicit Int8(const uint8_t* from) {
    for (int32_t i = 0; i < 4; ++i) parts[i] = vreinterpretq_s8_u8(vld1q_u8(from + 16 * i));
  }
  int8x16_t parts[4];
};

inline Sums dot(const Int8& of, const int8_t* row) {
  return {dot16(of.parts[1], row + 16, dot16(of.parts[0], row)),
          dot16(of.parts[3], row + 48, dot16(of.parts[2], row + 32))};
}

struct Int4 {
  explicit Int4(const uint8_t* from) {
    for (int32_t i = 0; i < 2; ++i) {
      const uint8x16_t packed = veorq_u8(vld1q_u8(from + 16 * i), vdupq_n_u8(0x88));
      even[i] = vreinterpretq_s8_u8(vandq_u8(packed, vdupq_n_u8(15)));
      odd[i] = vreinterpretq_s8_u8(vshrq_n_u8(packed, 4));
    }
  }
  int8x16_t even[2], odd[2];

 protected:
  Int4() = default;
};

struct Int2 : Int4 {
  explicit Int2(const uint8_t* from) {
    const uint8x16_t packed = veorq_u8(vld1q_u8(from), vdupq_n_u8(0xaa));
    const auto place = [&](int8_t bit) {
      const uint8x16_t low = vandq_u8(vshlq_u8(packed, vdupq_n_s8(static_cast<int8_t>(-bit))), vdupq_n_u8(3));
      return vreinterpretq_s8_u8(vaddq_u8(low, vdupq_n_u8(6)));
    };
    const int8x16_t places[4] = {place(0), place(2), place(4), place(6)};
    even[0] = vzip1q_s8(places[0], places[2]), even[1] = vzip2q_s8(places[0], places[2]);
    odd[0] = vzip1q_s8(places[1], places[3]), odd[1] = vzip2q_s8(places[1], places[3]);
  }
};

inline Sums dot(const Int4& of, const int8_t* row) {
  return {dot16(of.odd[0], row + 32, dot16(of.even[0], row)),
          dot16(of.odd[1], row + 48, dot16(of.even[1], row + 16))};
}

#else

struct Int8 {
  explicit Int8(const uint8_t* from) { std::memcpy(weights, from, sizeof weights); }
  int8_t weights[kGroup];
};

struct Int4 {
  explicit Int4(const uint8_t* from) {
    for (int32_t i = 0; i < kHalf; ++i) {
      even[i] = static_cast<int8_t>((from[i] & 15) ^ 8);
      odd[i] = static_cast<int8_t>(from[i] >> 4 ^ 8);
    }
  }
  int8_t even[kHalf], odd[kHalf];

 protected:
  Int4() = default;
};

struct Int2 : Int4 {
  explicit Int2(const uint8_t* from) {
    const auto place = [&](int32_t i, int32_t bit) { return static_cast<int8_t>(((from[i / 2] >> bit & 3) ^ 2) + 6); };
    for (int32_t i = 0; i < kHalf; ++i) even[i] = place(i, i % 2 * 4), odd[i] = place(i, i % 2 * 4 + 2);
  }
};

inline int32_t dot_some(const int8_t* a, const int8_t* b, int32_t count) {
  int32_t sum = 0;
  for (int32_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

inline Sums dot(const Int8& of, const int8_t* row) {
  return {Integers{dot_some(of.weights, row, kHalf)}, Integers{dot_some(of.weights + kHalf, row + kHalf, kHalf)}};
}

inline Sums dot(const Int4& of, const int8_t* row) {
  constexpr int32_t kQuarter = kHalf / 2;
  const auto part = [&](int32_t at) {
    return Integers{dot_some(of.even + at, row + at, kQuarter) + dot_some(of.odd + at, row + kHalf + at, kQuarter)};
  };
  return {part(0), part(kQuarter)};
}

#endif

struct Scales {
  explicit Scales(float both) : first(all(both)), second(first) {}
  explicit Scales(const Half* two) : first(all(widened(two[0]))), second(all(widened(two[1]))) {}
  Lanes first, second;
};

struct Floats {
  Lanes lanes = {};
  void add(Sums sums, const int32_t* offsets, const Scales& scales) {
    Integers first, second;
    std::memcpy(&first, offsets, sizeof first);
    std::memcpy(&second, offsets + 4, sizeof second);
    lanes = fused(floats(sums.first - first), scales.first, lanes);
    lanes = fused(floats(sums.second - second), scales.second, lanes);
  }
  float total() const { return sum(lanes); }
};

#endif

template <typename Packed>
constexpr size_t kPackedBytes = kGroup;
template <>
constexpr size_t kPackedBytes<Int4> = kGroup / 2;
template <>
constexpr size_t kPackedBytes<Int2> = kGroup / 4;

// Pointers to the tile's rows of weights, the last one again where there are fewer.
struct TileRows {
  TileRows(const Matrix& weight, int64_t first, int32_t weights) {
    for (int32_t w = 0; w < kWeightTile; ++w) {
      const int64_t row = first + (w < weights ? w : weights - 1);
      at[w] = static_cast<const uint8_t*>(weight.data) + row * weight.row_bytes();
    }
  }
  const uint8_t* at[kWeightTile];
};

// Calls step(group, rows of weights, where the group begins in them) for each group. Behind a row's end stand zeros.
template <typename Packed, int32_t kWeights, typename Step>
inline __attribute__((always_inline)) void each_group(const Matrix& weight, const TileRows& rows, const Step& step) {
  constexpr size_t kBytes = kPackedBytes<Packed>;
  const auto size = static_cast<size_t>(weight.row_bytes()), whole = size / kBytes, rest = size % kBytes;
  for (size_t group = 0; group < whole; ++group) step(group, rows.at, group * kBytes);
  if (rest == 0) return;
  uint8_t filled[kWeights][kBytes] = {};
  const uint8_t* here[kWeights];
  for (int32_t w = 0; w < kWeights; ++w) {
    here[w] = filled[w];
    std::memcpy(filled[w], rows.at[w] + whole * kBytes, rest);
  }
  step(whole, here, size_t{0});
}

inline void prefetch(const uint8_t* from) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(from) + kAhead));
}

template <typename Packed, int32_t kWeights, int32_t kRows>
void multiply_rows(const Matrix& weight, int64_t first, int32_t weights, const Activations* rows,
                   float (*out)[kRowTile]) {
  Sums sums[kWeights][kRows];
  const auto step = [&](size_t group, const uint8_t* const* at, size_t begin) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int32_t w = 0; w < kWeights; ++w) {
      prefetch(at[w] + begin);
      const Packed packed(at[w] + begin);
#pragma GCC unroll 4
      for (int32_t r = 0; r < kRows; ++r) sums[w][r] += dot(packed, rows[r].integers + group * kGroup);
    }
  };
  each_group<Packed, kWeights>(weight, {weight, first, weights}, step);
  const auto* const scales = static_cast<const float*>(weight.scales) + first;
  for (int32_t w = 0; w < kWeights && w < weights; ++w) {
    for (int32_t r = 0; r < kRows; ++r) {
      out[w][r] = static_cast<float>(sums[w][r].total() - rows[r].offset) * (scales[w] * rows[r].scale);
    }
  }
}

template <int32_t kWeights, int32_t kRows>
void multiply_blocks(const Matrix& weight, int64_t first, int32_t weights, const Activations* rows,
                     float (*out)[kRowTile]) {
  const int32_t per_row = weight.width / weight.block;
  const Half* scales[kWeights];
  for (int32_t w = 0; w < kWeights; ++w) {
    const int64_t row = first + (w < weights ? w : weights - 1);
    scales[w] = static_cast<const Half*>(weight.scales) + row * per_row;
  }
  Floats sums[kWeights][kRows];
  const auto step = [&](size_t group, const uint8_t* const* at, size_t begin) __attribute__((always_inline)) {
    const size_t column = group * kGroup;
    const size_t block = column / static_cast<size_t>(weight.block);
    const bool is_single = weight.block > kHalf || column + kHalf >= static_cast<size_t>(weight.width);
#pragma GCC unroll 4
    for (int32_t w = 0; w < kWeights; ++w) {
      prefetch(at[w] + begin);
      const Int4 packed(at[w] + begin);
      const Scales scale = is_single ? Scales(widened(scales[w][block])) : Scales(scales[w] + block);
#pragma GCC unroll 4
      for (int32_t r = 0; r < kRows; ++r) {
        sums[w][r].add(dot(packed, rows[r].integers + column), rows[r].offsets + group * 8, scale);
      }
    }
  };
  each_group<Int4, kWeights>(weight, {weight, first, weights}, step);
  for (int32_t w = 0; w < kWeights && w < weights; ++w) {
    for (int32_t r = 0; r < kRows; ++r) out[w][r] = sums[w][r].total() * rows[r].scale;
  }
}

template <typename Number, int32_t kWeights, int32_t kRows>
void multiply_floats(const Matrix& weight, int64_t first, int32_t weights, const Activations* rows,
                     float (*out)[kRowTile]) {
  const TileRows tile(weight, first, weights);
  const Number* at[kWeights];
  for (int32_t w = 0; w < kWeights; ++w) at[w] = reinterpret_cast<const Number*>(tile.at[w]);
  const int32_t whole = weight.width / kLanes * kLanes, rest = weight.width - whole;
  Lanes sums[kWeights][kRows] = {};
  for (int32_t k = 0; k < whole; k += kLanes) {
#pragma GCC unroll 4
    for (int32_t w = 0; w < kWeights; ++w) {
      const Lanes weights_here = load(at[w] + k);
#pragma GCC unroll 4
      for (int32_t r = 0; r < kRows; ++r) sums[w][r] = fused(weights_here, load(rows[r].floats + k), sums[w][r]);
    }
  }
  for (int32_t w = 0; w < kWeights && w < weights; ++w) {
    for (int32_t r = 0; r < kRows; ++r) {
      Lanes all_of = sums[w][r];
      if (rest > 0) {
        Number last[kLanes] = {};
        std::memcpy(last, at[w] + whole, static_cast<size_t>(rest) * sizeof(Number));
        all_of = fused(load(last), load_some(rows[r].floats + whole, rest), all_of);
      }
      float four[4];
      edge_mtp::sums(all_of, all_of, all_of, all_of, four);
      out[w][r] = four[0];
    }
  }
}

template <int32_t kWeights, int32_t kRows>
void multiply_stored(const Matrix& weight, int64_t first, int32_t weights, const Activations* rows,
                     float (*out)[kRowTile]) {
  if (weight.block > 0) return multiply_blocks<kWeights, kRows>(weight, first, weights, rows, out);
  switch (weight.type) {
    case Matrix::Type::kFloat32: return multiply_floats<float, kWeights, kRows>(weight, first, weights, rows, out);
    case Matrix::Type::kFloat16: return multiply_floats<Half, kWeights, kRows>(weight, first, weights, rows, out);
    case Matrix::Type::kInt8: return multiply_rows<Int8, kWeights, kRows>(weight, first, weights, rows, out);
    case Matrix::Type::kInt4: return multiply_rows<Int4, kWeights, kRows>(weight, first, weights, rows, out);
    case Matrix::Type::kInt2: return multiply_rows<Int2, kWeights, kRows>(weight, first, weights, rows, out);
  }
}

// As many rows of weights at once as registers allow; a row alone shares nothing but what it reads of the activations.
template <int32_t kRows>
void multiply(const Matrix& weight, int64_t first, int32_t weights, const Activations* rows, float (*out)[kRowTile]) {
  constexpr int32_t kWeights = kRows == 1 ? 4 : 2;
  for (int32_t w = 0; w < weights; w += kWeights) {
    const int32_t count = weights - w < kWeights ? weights - w : kWeights;
    multiply_stored<kWeights, kRows>(weight, first + w, count, rows, out + w);
  }
}

inline void multiply_tile(const Matrix& weight, int64_t first, int32_t weights, const Activations* rows, int32_t count,
                          float (*out)[kRowTile]) {
  switch (count) {
    case 1: return multiply<1>(weight, first, weights, rows, out);
    case 2: return multiply<2>(weight, first, weights, rows, out);
    case 3: return multiply<3>(weight, first, weights, rows, out);
    default: return multiply<4>(weight, first, weights, rows, out);
  }
}

}  // namespace
}  // namespace edge_mtp
