// The kernel of attention, for the instruction set that the including file is compiled for (lanes.h).
//
// Positions are taken in blocks. A block's scores become weights, relative to the largest score so far; what was summed
// up before is scaled down when a larger one comes. A tile of four rows shares what it loads of two keys, or of the two
// rows of the transposed values. Tiles are filled up with the last row, and each sum runs in the order of positions, so
// no row notices which others there are.
#pragma once

#include "attention.h"
#include "lanes.h"

namespace edge_mtp {
namespace {

constexpr int32_t kBlock = 256;  // positions: long runs of the transposed values, and few rescalings
constexpr int32_t kTile = 4;     // rows
constexpr int32_t kAhead = 6;    // rows of the transposed values, by which they are fetched early
constexpr float kNothing = -__builtin_inff();

// The products of the kTile rows `a` with the two rows `b`, summed up over `count` numbers: out[2][kTile]. `some` numbers
// follow that fill no vector. The sums are written out, because compilers keep no array of them in registers.
template <typename Number>
inline void tile(const float* const* a, const Number* const* b, int32_t count, int32_t some, float (*out)[kTile]) {
  const float *const a0 = a[0], *const a1 = a[1], *const a2 = a[2], *const a3 = a[3];
  const Number *const b0 = b[0], *const b1 = b[1];
  Lanes s00{}, s01{}, s02{}, s03{}, s10{}, s11{}, s12{}, s13{};
  const auto step = [&](Lanes x, Lanes y, int32_t at) __attribute__((always_inline)) {
    const Lanes r0 = load(a0 + at), r1 = load(a1 + at), r2 = load(a2 + at), r3 = load(a3 + at);
    s00 = fused(r0, x, s00), s10 = fused(r0, y, s10);
    s01 = fused(r1, x, s01), s11 = fused(r1, y, s11);
    s02 = fused(r2, x, s02), s12 = fused(r2, y, s12);
    s03 = fused(r3, x, s03), s13 = fused(r3, y, s13);
  };
  int32_t at = 0;
  for (; at < count; at += kLanes) step(load(b0 + at), load(b1 + at), at);
  if (some > 0) step(load_some(b0 + at, some), load_some(b1 + at, some), at);
  sums(s00, s01, s02, s03, out[0]);
  sums(s10, s11, s12, s13, out[1]);
}

template <typename Number>
class Rows {
 public:
  Rows(const Attention& call, AttentionPart part) : call_(call), count_(part.count) {
    const auto dim = static_cast<size_t>(call.dim), context = static_cast<size_t>(call.context);
    const auto head = static_cast<size_t>(part.head);
    const size_t first = (head * static_cast<size_t>(call.rows) + static_cast<size_t>(part.first)) * dim;
    keys_ = static_cast<const Number*>(call.keys) + head * context * dim;
    values_ = static_cast<const Number*>(call.values) + head * context * dim;
    out_ = call.out + first;
    for (int32_t r = 0; r < kAttentionRows; ++r) {
      const int32_t row = r < count_ ? r : count_ - 1;
      const int32_t* const seen = call.seen + 2 * ((part.first + row) % call.tokens);
      begin_[r] = seen[0] < 0 ? 0 : seen[0];
      end_[r] = seen[1] < call.context ? seen[1] : call.context;
      query_[r] = call.query + first + static_cast<size_t>(row) * dim;
      weight_[r] = weights_[row];
      largest_[r] = kNothing;
      total_[r] = 0.0f;
    }
    std::memset(out_, 0, static_cast<size_t>(count_) * dim * sizeof(float));
  }

  void attend() {
    int32_t begin = call_.context, end = 0;
    for (int32_t r = 0; r < count_; ++r) {
      if (begin_[r] >= end_[r]) continue;
      if (begin_[r] < begin) begin = begin_[r];
      if (end_[r] > end) end = end_[r];
    }
    for (int32_t block = begin / kBlock * kBlock; block < end; block += kBlock) {
      const int32_t from = begin > block ? begin / kLanes * kLanes : block;
      const int32_t to = end < block + kBlock ? end : block + kBlock;
      score(from, to);
      for (int32_t r = 0; r < count_; ++r) weigh(r, from, to);
      mix(from, to);
    }
    for (int32_t r = 0; r < count_; ++r) {
      if (total_[r] == 0.0f) continue;
      for (int32_t d = 0; d < call_.dim; ++d) out_[r * call_.dim + d] /= total_[r];
    }
  }

 private:
  // weights_[r][s - from] = query r . key s
  void score(int32_t from, int32_t to) {
    float two[2][kTile];
    for (int32_t s = from; s < to; s += 2) {
      const Number* const keys[2] = {key(s), key(s + 1 < to ? s + 1 : s)};
      for (int32_t r = 0; r < count_; r += kTile) {
        tile(query_ + r, keys, call_.dim, 0, two);
        for (int32_t k = 0; k < 2; ++k) {
          for (int32_t i = 0; i < kTile; ++i) weights_[r + i][s - from + k] = two[k][i];
        }
      }
    }
  }

  // Scores to weights, 0 where row r does not see.
  void weigh(int32_t r, int32_t from, int32_t to) {
    float* const weights = weights_[r];
    const int32_t end = (to - from + kLanes - 1) / kLanes * kLanes;
    for (int32_t s = 0; s < begin_[r] - from && s < end; ++s) weights[s] = kNothing;
    for (int32_t s = end_[r] > from ? end_[r] - from : 0; s < end; ++s) weights[s] = kNothing;
    Lanes most = all(largest_[r]), sum = {};
    for (int32_t s = 0; s < end; s += kLanes) most = larger(most, load(weights + s));
    float largest = most[0];
    for (int32_t lane = 1; lane < kLanes; ++lane) largest = most[lane] > largest ? most[lane] : largest;
    shrink_[r] = largest == largest_[r] ? 1.0f : exp_of(all(largest_[r] - largest))[0];
    const Lanes offset = all(largest == kNothing ? 0.0f : largest);
    for (int32_t s = 0; s < end; s += kLanes) {
      const Lanes weight = exp_of(load(weights + s) - offset);
      store(weight, weights + s);
      sum += weight;
    }
    float added[kTile];
    sums(sum, sum, sum, sum, added);
    total_[r] = total_[r] * shrink_[r] + added[0];
    largest_[r] = largest;
  }

  // out[r][d] = out[r][d] * shrink_[r] + weights_[r] . values[d]
  void mix(int32_t from, int32_t to) {
    float two[2][kTile];
    const int32_t filled = (to - from) / kLanes * kLanes, rest = to - from - filled;
    // What follows is read too, with weight 0, except behind the last position of the cache.
    const bool is_last = from + filled + kLanes > call_.context;
    const int32_t count = rest > 0 && !is_last ? filled + kLanes : filled, some = is_last ? rest : 0;
    for (int32_t d = 0; d < call_.dim; d += 2) {
      const Number* const values[2] = {value(d) + from, value(d + 1) + from};
      // Each row of the values lies in pages of its own, where the machine does not foresee that it is read.
      for (int32_t ahead = d + kAhead; ahead < d + kAhead + 2 && ahead < call_.dim; ++ahead) {
        const auto* const line = reinterpret_cast<const char*>(value(ahead) + from);
        for (size_t at = 0; at < static_cast<size_t>(to - from) * sizeof(Number); at += 64) __builtin_prefetch(line + at);
      }
      for (int32_t r = 0; r < count_; r += kTile) {
        tile(weight_ + r, values, count, some, two);
        for (int32_t i = 0; i < kTile && r + i < count_; ++i) {
          float* const out = out_ + static_cast<size_t>(r + i) * static_cast<size_t>(call_.dim) + d;
          for (int32_t k = 0; k < 2; ++k) out[k] = out[k] * shrink_[r + i] + two[k][i];
        }
      }
    }
  }

  const Number* key(int32_t s) const { return keys_ + static_cast<size_t>(s) * static_cast<size_t>(call_.dim); }
  const Number* value(int32_t d) const { return values_ + static_cast<size_t>(d) * static_cast<size_t>(call_.context); }

  const Attention& call_;
  int32_t count_;
  const Number *keys_, *values_;
  float* out_;
  const float *query_[kAttentionRows], *weight_[kAttentionRows];
  int32_t begin_[kAttentionRows], end_[kAttentionRows];
  float largest_[kAttentionRows], total_[kAttentionRows], shrink_[kAttentionRows];
  float weights_[kAttentionRows][kBlock];
};

inline void attend_part(const Attention& call, AttentionPart part) {
  if (call.int8) {
    Rows<int8_t>(call, part).attend();
  } else {
    Rows<float>(call, part).attend();
  }
}

}  // namespace
}  // namespace edge_mtp
