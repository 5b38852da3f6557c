// Attention that reads the used positions of a cache only: the kernel of edge_mtp.attention (docs/attention-op.md).
//
// What a row gives depends on its query, its span and the cache alone: not on the other rows of the call, nor on the
// number of threads. Every sum has a fixed order, and blocks of positions lie at fixed places. Nothing is allocated.
#pragma once

#include <cstdint>

namespace edge_mtp {

class WorkerPool;

// One call: `rows` rows of queries for each of `heads` heads. Row r belongs to token r % tokens, and sees the positions
// from seen[2 * token] up to, without, seen[2 * token + 1].
struct Attention {
  const float* query;   // [heads, rows, dim]
  const void* keys;     // [heads, context, dim], float or int8_t
  const void* values;   // [heads, dim, context], the same type
  const int32_t* seen;  // [tokens, 2]
  float* out;           // [heads, rows, dim]; 0 in a row that sees nothing
  int32_t heads, rows, tokens, context;
  int32_t dim;          // a multiple of kAttentionDim
  bool int8;            // keys and values are int8_t, read as the numbers that they are
};

constexpr int32_t kAttentionDim = 8;

// Computes the call in this thread and those of `pool`, which may be null.
void attend(const Attention& call, WorkerPool* pool);

// A part of a call: `count` rows of one head from `first` on, at most kAttentionRows.
struct AttentionPart {
  int32_t head, first, count;
};
constexpr int32_t kAttentionRows = 16;

// The same code for several instruction sets. attend() takes the best that this machine has.
using AttendPart = void (*)(const Attention& call, AttentionPart part);
void attend_part_baseline(const Attention& call, AttentionPart part);
#ifdef __x86_64__
void attend_part_avx2(const Attention& call, AttentionPart part);
#endif
AttendPart best_attend_part();

}  // namespace edge_mtp
