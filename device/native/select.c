/* See select.h and docs/verify-op.md.
 *
 * The result must depend only on the operands, so every sum is in double and in a fixed order. No expression here adds
 * a product to a sum in a way whose rounding matters; build with -ffp-contract=off all the same, to protect later
 * changes. exp is the C library's: two libraries may differ in its last bit. */
#include "select.h"

#include <math.h>
#include <string.h>

#ifdef __FAST_MATH__
#error "select.c needs IEEE NaN, infinities and the written order of sums: build it without -ffast-math"
#endif

/* ---- the largest allowed logit: one pass that also finds NaN ------------------------------------------------- */

enum { WORD = 32, BLOCK = 32 * WORD }; /* logits per mask word; logits per block */

static inline uint32_t mask_word(const int32_t *mask, int32_t word) {
  return mask ? (uint32_t)mask[word] : UINT32_MAX;
}

static inline int is_allowed(const int32_t *mask, int32_t v) { return mask_word(mask, v / WORD) >> (v % WORD) & 1; }

/* A scan returns the largest allowed one of words * 32 logits, -inf if none, and sets *has_nan if one is NaN. A
 * disallowed lane becomes -inf, so a NaN there is ignored. Maxima are joined pairwise, so only one operation per word
 * depends on the previous word. */
typedef float (*scan)(const float *logits, int32_t words, const int32_t *mask, int *has_nan);

typedef float lanes_f __attribute__((vector_size(16))); /* baseline on x86-64 and aarch64 */
typedef int32_t lanes_i __attribute__((vector_size(16)));

#if defined(__SSE2__)
#include <immintrin.h>
static inline lanes_f lanes_max(lanes_f a, lanes_f b) { return (lanes_f)_mm_max_ps((__m128)a, (__m128)b); }
static inline lanes_i lanes_nan(lanes_f a, lanes_f b) { return (lanes_i)_mm_cmpunord_ps((__m128)a, (__m128)b); }
#else
#if defined(__aarch64__)
#include <arm_neon.h>
static inline lanes_f lanes_max(lanes_f a, lanes_f b) {
  return (lanes_f)vmaxq_f32((float32x4_t)a, (float32x4_t)b);
}
#else
static inline lanes_f lanes_max(lanes_f a, lanes_f b) {
  lanes_i above = a > b;
  return (lanes_f)((above & (lanes_i)a) | (~above & (lanes_i)b));
}
#endif
static inline lanes_i lanes_nan(lanes_f a, lanes_f b) { return (lanes_i)(a != a) | (lanes_i)(b != b); }
#endif

static inline lanes_f lanes_load(const float *p, uint32_t bits) {
  lanes_f v;
  memcpy(&v, p, sizeof v);
  if (bits == UINT32_MAX) return v;
  const lanes_i bit = {1, 2, 4, 8};
  const lanes_f lowest = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
  int32_t word = (int32_t)bits;
  lanes_i allowed = ((lanes_i){word, word, word, word} & bit) != 0;
  return (lanes_f)((allowed & (lanes_i)v) | (~allowed & (lanes_i)lowest));
}

static inline lanes_f half_word_max(const float *p, uint32_t bits, lanes_i *nan) {
  int all = bits == UINT32_MAX;
  lanes_f a = lanes_load(p, bits), b = lanes_load(p + 4, all ? bits : bits >> 4);
  lanes_f c = lanes_load(p + 8, all ? bits : bits >> 8), d = lanes_load(p + 12, all ? bits : bits >> 12);
  *nan |= lanes_nan(a, b) | lanes_nan(c, d);
  return lanes_max(lanes_max(a, b), lanes_max(c, d));
}

static float scan_baseline(const float *logits, int32_t words, const int32_t *mask, int *has_nan) {
  lanes_f top = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
  lanes_i nan = {0, 0, 0, 0};
  for (int32_t w = 0; w < words; ++w, logits += WORD) {
    uint32_t bits = mask_word(mask, w);
    if (bits == UINT32_MAX) {
      lanes_f low = half_word_max(logits, UINT32_MAX, &nan), high = half_word_max(logits + 16, UINT32_MAX, &nan);
      top = lanes_max(top, lanes_max(low, high));
    } else if (bits != 0) {
      lanes_f low = half_word_max(logits, bits & 0xFFFF, &nan), high = half_word_max(logits + 16, bits >> 16, &nan);
      top = lanes_max(top, lanes_max(low, high));
    }
  }
  float max = -INFINITY;
  for (int i = 0; i < 4; ++i) {
    *has_nan |= nan[i] != 0;
    if (top[i] > max) max = top[i];
  }
  return max;
}

/* EDGE_SELECT_BASELINE leaves out the other scans, so that tests can reach this one on any machine. */
#if defined(__x86_64__) && !defined(EDGE_SELECT_BASELINE)
#define HAS_AVX2
#define AVX2 __attribute__((target("avx2")))

AVX2 static inline __m256 load_avx2(const float *p, uint32_t bits) {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  __m256i allowed = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int32_t)bits), bit), bit);
  return _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), _mm256_loadu_ps(p), _mm256_castsi256_ps(allowed));
}

AVX2 static float scan_avx2(const float *logits, int32_t words, const int32_t *mask, int *has_nan) {
  __m256 top = _mm256_set1_ps(-INFINITY), nan = _mm256_setzero_ps();
  for (int32_t w = 0; w < words; ++w, logits += WORD) {
    uint32_t bits = mask_word(mask, w);
    if (bits == 0) continue;
    __m256 a, b, c, d;
    if (bits == UINT32_MAX) {
      a = _mm256_loadu_ps(logits);
      b = _mm256_loadu_ps(logits + 8);
      c = _mm256_loadu_ps(logits + 16);
      d = _mm256_loadu_ps(logits + 24);
    } else {
      a = load_avx2(logits, bits);
      b = load_avx2(logits + 8, bits >> 8);
      c = load_avx2(logits + 16, bits >> 16);
      d = load_avx2(logits + 24, bits >> 24);
    }
    nan = _mm256_or_ps(nan, _mm256_or_ps(_mm256_cmp_ps(a, b, _CMP_UNORD_Q), _mm256_cmp_ps(c, d, _CMP_UNORD_Q)));
    top = _mm256_max_ps(top, _mm256_max_ps(_mm256_max_ps(a, b), _mm256_max_ps(c, d)));
  }
  float lanes[8], max = -INFINITY;
  _mm256_storeu_ps(lanes, top);
  for (int i = 0; i < 8; ++i) {
    if (lanes[i] > max) max = lanes[i];
  }
  *has_nan |= _mm256_movemask_ps(nan) != 0;
  return max;
}
#endif

static scan best_scan(void) {
#ifdef HAS_AVX2
  if (__builtin_cpu_supports("avx2")) return scan_avx2;
#endif
  return scan_baseline;
}

static inline int32_t blocks_of(int32_t count) { return (int32_t)(((int64_t)count + BLOCK - 1) / BLOCK); }

/* Index of the largest allowed logit, the first one on ties, or an EDGE_ERROR. Remembers the best block of the row, and
 * searches for the index only inside it. Writes each block's maximum to `block_maxima` unless NULL. */
static int32_t find_max(const float *logits, int32_t count, const int32_t *mask, float *max, float *block_maxima) {
  scan scan_block = best_scan();
  float best = -INFINITY;
  int32_t best_block = 0;
  int has_nan = 0;
  for (int32_t block = 0; block < count; block += BLOCK) {
    int32_t end = count - block < BLOCK ? count : block + BLOCK, words = (end - block) / WORD;
    float block_max = scan_block(logits + block, words, mask ? mask + block / WORD : NULL, &has_nan);
    for (int32_t v = block + words * WORD; v < end; ++v) {
      if (!is_allowed(mask, v)) continue;
      has_nan |= isnan(logits[v]) != 0;
      if (logits[v] > block_max) block_max = logits[v];
    }
    if (block_maxima) block_maxima[block / BLOCK] = block_max;
    if (block_max > best) {
      best = block_max;
      best_block = block;
    }
  }
  if (has_nan) return EDGE_ERROR_NAN;
  if (best == -INFINITY) return EDGE_ERROR_EMPTY;
  *max = best;
  while (logits[best_block] != best || !is_allowed(mask, best_block)) ++best_block;
  return best_block;
}

/* ---- sampling ------------------------------------------------------------------------------------------------- */

#define LOWEST_Z (-40.0) /* weight 0 below: exp(-40) = 4e-18 is lost in the rounding of a sum of at least 1 */

typedef struct {
  double weight;
  uint32_t key; /* the logit as an unsigned number that sorts in the same order */
  int32_t id;
} candidate;

/* The caller's scratch for a row of n logits: n candidates, two arrays of n for sorting, and the blocks' maxima. */
typedef struct {
  candidate *kept;
  uint64_t *order, *spare;
  float *block_maxima;
} workspace;

size_t edge_select_scratch_bytes(int32_t vocab) {
  return (size_t)vocab * (sizeof(candidate) + 2 * sizeof(uint64_t)) +
         ((size_t)blocks_of(vocab) + 1) / 2 * 2 * sizeof(float);
}

static workspace divide_scratch(void *scratch, int32_t count) {
  workspace space;
  space.kept = scratch;
  space.order = (uint64_t *)(space.kept + count);
  space.spare = space.order + count;
  space.block_maxima = (float *)(space.spare + count);
  return space;
}

static inline uint32_t order_key(float logit) {
  uint32_t bits;
  logit += 0.0f; /* -0 ties with +0 */
  memcpy(&bits, &logit, sizeof bits);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* Sorts by the upper 32 bits, ascending and stable. */
static void sort_by_upper_half(uint64_t *items, uint64_t *spare, int32_t count) {
  for (int shift = 32; shift < 64; shift += 8) {
    int32_t start[257] = {0};
    for (int32_t i = 0; i < count; ++i) ++start[(items[i] >> shift & 255) + 1];
    for (int digit = 0; digit < 255; ++digit) start[digit + 1] += start[digit];
    for (int32_t i = 0; i < count; ++i) spare[start[items[i] >> shift & 255]++] = items[i];
    uint64_t *sorted = spare;
    spare = items;
    items = sorted;
  }
}

/* Keeps exactly the first `quota` in (logit descending, id ascending): finds the key of the last one digit by digit,
 * then keeps everything above it and the first few equal to it. */
static int32_t keep_top_k(candidate *kept, int32_t count, int32_t quota) {
  if (quota >= count) return count;
  uint32_t last = 0, known = 0; /* the digits of the key found so far, and a mask of them */
  for (int shift = 24; shift >= 0; shift -= 8) {
    int32_t seen[256] = {0}, digit = 255;
    for (int32_t i = 0; i < count; ++i) {
      if ((kept[i].key & known) == last) ++seen[kept[i].key >> shift & 255];
    }
    for (; seen[digit] < quota; --digit) quota -= seen[digit];
    last |= (uint32_t)digit << shift;
    known |= 255u << shift;
  }
  int32_t left = 0;
  for (int32_t i = 0; i < count; ++i) {
    if (kept[i].key > last || (kept[i].key == last && quota-- > 0)) kept[left++] = kept[i];
  }
  return left;
}

/* A bound that at least `top_k` allowed logits reach: the top_k-th largest of all blocks' maxima. */
static double top_k_bound(workspace space, int32_t blocks, int32_t top_k) {
  if (top_k == 0 || top_k > blocks) return -INFINITY;
  for (int32_t i = 0; i < blocks; ++i) {
    space.kept[i] = (candidate){space.block_maxima[i], order_key(space.block_maxima[i]), i};
  }
  double bound = INFINITY;
  for (int32_t i = keep_top_k(space.kept, blocks, top_k) - 1; i >= 0; --i) bound = fmin(bound, space.kept[i].weight);
  return bound;
}

/* Collects the allowed logits with a weight above 0, in ascending id order, without those below `bound`, which cannot
 * be in the top k. If `ids` is NULL, a logit's id is its index. Stores z as the weight. */
static int32_t collect(const float *logits, const int32_t *ids, int32_t count, const int32_t *mask, float max,
                       double temperature, double bound, workspace space) {
  if (ids) {
    for (int32_t i = 0; i < count; ++i) space.order[i] = (uint64_t)(uint32_t)ids[i] << 32 | (uint32_t)i;
    sort_by_upper_half(space.order, space.spare, count);
  }
  /* Skips most logits and most blocks without a division. The margin of 1 leaves the exact limit to z. */
  const double skip = fmax(bound, max + (LOWEST_Z - 1) * temperature);
  int32_t kept = 0;
  for (int32_t block = 0; block < count; block += BLOCK) {
    if (!ids && space.block_maxima[block / BLOCK] < skip) continue;
    const int32_t end = count - block < BLOCK ? count : block + BLOCK;
    for (int32_t i = block; i < end; ++i) {
      int32_t v = ids ? (int32_t)(uint32_t)space.order[i] : i;
      if (logits[v] < skip || !is_allowed(mask, v)) continue;
      double z = logits[v] == max ? 0.0 : ((double)logits[v] - (double)max) / temperature; /* inf - inf is 0 */
      if (z < LOWEST_Z) continue;
      space.kept[kept++] = (candidate){z, order_key(logits[v]), ids ? ids[v] : v};
    }
  }
  return kept;
}

static double sum_weights(const candidate *kept, int32_t count) {
  double total = 0;
  for (int32_t i = 0; i < count; ++i) total += kept[i].weight;
  return total;
}

/* A number that orders candidates by descending logit and, for equal logits, by ascending index. */
static inline uint64_t rank_of(const candidate *kept, int32_t index) {
  return (uint64_t)~kept[index].key << 32 | (uint32_t)index;
}

/* Keeps the shortest prefix of (logit descending, id ascending) whose weight reaches top_p of the total. */
static int32_t keep_top_p(workspace space, int32_t count, double top_p) {
  candidate *kept = space.kept;
  const double total = sum_weights(kept, count), goal = top_p * total;
  /* All weights below this sum to less than half of what the prefix leaves out, so the prefix ends before them and they
   * need no sorting. */
  const double light = (1 - top_p) * total / (2.0 * count);
  int32_t heavy = 0;
  for (int32_t i = 0; i < count; ++i) {
    if (kept[i].weight >= light) space.order[heavy++] = rank_of(kept, i);
  }
  sort_by_upper_half(space.order, space.spare, heavy);
  double reached = 0;
  int32_t prefix = 0;
  while (prefix < heavy && reached < goal) reached += kept[(uint32_t)space.order[prefix++]].weight;
  const uint64_t last = space.order[prefix - 1];
  int32_t left = 0;
  for (int32_t i = 0; i < count; ++i) {
    if (rank_of(kept, i) <= last) kept[left++] = kept[i];
  }
  return left;
}

/* The largest weight is exp(0) = 1, and neither top-k nor top-p drops it, so min_p itself is the bound. */
static int32_t keep_min_p(candidate *kept, int32_t count, double min_p) {
  int32_t left = 0;
  for (int32_t i = 0; i < count; ++i) {
    if (kept[i].weight >= min_p) kept[left++] = kept[i];
  }
  return left;
}

/* Philox4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. */
double edge_uniform(const int32_t *control, int32_t position) {
  uint32_t key0 = (uint32_t)control[EDGE_CONTROL_SEED_LOW], key1 = (uint32_t)control[EDGE_CONTROL_SEED_HIGH];
  uint32_t x0 = (uint32_t)position, x1 = 0, x2 = 0, x3 = 0;
  for (int round = 0; round < 10; ++round) {
    uint64_t p0 = (uint64_t)0xD2511F53u * x0, p1 = (uint64_t)0xCD9E8D57u * x2;
    x0 = (uint32_t)(p1 >> 32) ^ x1 ^ key0;
    x2 = (uint32_t)(p0 >> 32) ^ x3 ^ key1;
    x1 = (uint32_t)p1;
    x3 = (uint32_t)p0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  uint64_t bits53 = (uint64_t)(x0 >> 5) << 26 | x1 >> 6;
  return (double)bits53 * 0x1p-53;
}

/* Draws a candidate of a row after find_max has scanned it; the parameters must be valid. */
static const candidate *sample(const float *logits, const int32_t *ids, int32_t count, const int32_t *mask, float max,
                               const int32_t *control, const float *scalars, int32_t position, void *scratch,
                               double *total) {
  workspace space = divide_scratch(scratch, count);
  candidate *kept = space.kept;
  const int32_t top_k = control[EDGE_CONTROL_TOP_K];
  const double bound = top_k_bound(space, blocks_of(count), top_k);
  int32_t left = collect(logits, ids, count, mask, max, scalars[EDGE_SCALAR_TEMPERATURE], bound, space);
  if (top_k > 0) left = keep_top_k(kept, left, top_k);
  for (int32_t i = 0; i < left; ++i) kept[i].weight = exp(kept[i].weight); /* was z */
  if (scalars[EDGE_SCALAR_TOP_P] < 1) left = keep_top_p(space, left, scalars[EDGE_SCALAR_TOP_P]);
  if (scalars[EDGE_SCALAR_MIN_P] > 0) left = keep_min_p(kept, left, scalars[EDGE_SCALAR_MIN_P]);
  *total = sum_weights(kept, left);
  double goal = edge_uniform(control, position) * *total, running = 0;
  for (int32_t i = 0; i < left; ++i) {
    running += kept[i].weight;
    if (running > goal) return &kept[i];
  }
  return &kept[left - 1]; /* the product rounded up to the total */
}

/* ---- the ops -------------------------------------------------------------------------------------------------- */

static int parameters_are_valid(const int32_t *control, const float *scalars) {
  int32_t flags = control[EDGE_CONTROL_FLAGS];
  if (flags & ~(EDGE_FLAG_SAMPLE | EDGE_FLAG_MASK)) return 0;
  for (int i = EDGE_CONTROL_POSITION + 1; i < EDGE_CONTROL_LENGTH; ++i) {
    if (control[i] != 0) return 0;
  }
  for (int i = EDGE_SCALAR_MIN_P + 1; i < EDGE_SCALAR_LENGTH; ++i) {
    if (scalars[i] != 0) return 0;
  }
  if (!(flags & EDGE_FLAG_SAMPLE)) return 1;
  float temperature = scalars[EDGE_SCALAR_TEMPERATURE], top_p = scalars[EDGE_SCALAR_TOP_P];
  float min_p = scalars[EDGE_SCALAR_MIN_P];
  return temperature > 0 && temperature < INFINITY && top_p > 0 && top_p <= 1 && min_p >= 0 && min_p < 1 &&
         control[EDGE_CONTROL_TOP_K] >= 0;
}

static int32_t select_row(const float *logits, int32_t vocab, const int32_t *control, const float *scalars,
                          const int32_t *mask, int32_t position, void *scratch) {
  float max;
  double total;
  int32_t flags = control[EDGE_CONTROL_FLAGS];
  if (!(flags & EDGE_FLAG_MASK)) mask = NULL;
  const int sampled = flags & EDGE_FLAG_SAMPLE;
  int32_t found = find_max(logits, vocab, mask, &max, sampled ? divide_scratch(scratch, vocab).block_maxima : NULL);
  if (found < 0 || !sampled) return found;
  return sample(logits, NULL, vocab, mask, max, control, scalars, position, scratch, &total)->id;
}

static inline int32_t add_wrapping(int32_t a, int32_t b) { return (int32_t)((uint32_t)a + (uint32_t)b); }

int32_t edge_select(const float *logits, int32_t vocab, const int32_t *control, const float *scalars,
                    const int32_t *mask, int32_t position, void *scratch) {
  if (!parameters_are_valid(control, scalars)) return EDGE_ERROR_PARAMETER;
  return select_row(logits, vocab, control, scalars, mask, position, scratch);
}

int32_t edge_verify(const float *logits, int32_t rows, int32_t vocab, const int32_t *draft, const int32_t *control,
                    const float *scalars, const int32_t *token_mask, void *scratch, int32_t *tokens) {
  for (int32_t row = 0; row < rows; ++row) tokens[row] = -1;
  if (!parameters_are_valid(control, scalars)) return EDGE_ERROR_PARAMETER;
  for (int32_t row = 0;; ++row) {
    const int32_t *mask = token_mask ? token_mask + (size_t)row * (size_t)edge_mask_words(vocab) : NULL;
    int32_t position = add_wrapping(control[EDGE_CONTROL_POSITION], row);
    int32_t token =
        select_row(logits + (size_t)row * (size_t)vocab, vocab, control, scalars, mask, position, scratch);
    if (token < 0) return token;
    tokens[row] = token;
    if (row == rows - 1 || token != draft[row]) return row;
  }
}

int32_t edge_draft(const float *logits, const int32_t *ids, int32_t count, const int32_t *control,
                   const float *scalars, int32_t offset, void *scratch, float *confidence) {
  *confidence = 0;
  float max;
  if (!parameters_are_valid(control, scalars)) return -1;
  int32_t found = find_max(logits, count, NULL, &max, divide_scratch(scratch, count).block_maxima);
  if (found < 0) return -1;
  double total = 0;
  if (control[EDGE_CONTROL_FLAGS] & EDGE_FLAG_SAMPLE) {
    int32_t position = add_wrapping(control[EDGE_CONTROL_POSITION], offset);
    const candidate *drawn =
        sample(logits, ids, count, NULL, max, control, scalars, position, scratch, &total);
    *confidence = (float)(drawn->weight / total);
    return drawn->id;
  }
  int32_t token = ids[found];
  for (int32_t i = 0; i < count; ++i) {
    double z = logits[i] == max ? 0.0 : (double)logits[i] - (double)max;
    if (z == 0 && ids[i] < token) token = ids[i];
    if (z >= LOWEST_Z) total += exp(z);
  }
  *confidence = (float)(1 / total);
  return token;
}
