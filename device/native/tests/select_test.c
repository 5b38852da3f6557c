/* The selection core on buffers of exactly the contract's sizes, so that a sanitizer sees a read or write past them,
 * and against the plainest possible greedy. Values are checked at length in tests/oracle/test_select.py. */
#include "../select.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                     \
  do {                                                                                       \
    if (!(condition)) {                                                                      \
      fprintf(stderr, "%s:%d: %s (vocab %d)\n", __FILE__, __LINE__, #condition, (int)vocab); \
      exit(1);                                                                               \
    }                                                                                        \
  } while (0)

static uint64_t state = 1;

static uint32_t next_random(void) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(state >> 33);
}

static void *exactly(size_t bytes) {
  void *memory = malloc(bytes);
  if (bytes && !memory) exit(2);
  return memory;
}

static int allowed(const int32_t *mask, int32_t v) { return (uint32_t)mask[v / 32] >> (v % 32) & 1; }

static int32_t plain_greedy(const float *logits, int32_t vocab, const int32_t *mask) {
  int32_t best = EDGE_ERROR_EMPTY;
  for (int32_t v = 0; v < vocab; ++v) {
    if (!allowed(mask, v)) continue;
    if (isnan(logits[v])) return EDGE_ERROR_NAN;
    if (logits[v] > -INFINITY && (best < 0 || logits[v] > logits[best])) best = v;
  }
  return best;
}

static void check_case(int32_t rows, int32_t vocab) {
  const int32_t words = edge_mask_words(vocab);
  const size_t cells = (size_t)rows * (size_t)vocab;
  float *logits = exactly(cells * sizeof(float));
  int32_t *mask = exactly((size_t)rows * (size_t)words * sizeof(int32_t));
  int32_t *draft = exactly((size_t)(rows - 1) * sizeof(int32_t));
  int32_t *tokens = exactly((size_t)rows * sizeof(int32_t));
  int32_t *ids = exactly((size_t)vocab * sizeof(int32_t));
  void *scratch = exactly(edge_select_scratch_bytes(vocab));
  for (size_t i = 0; i < cells; ++i) {
    logits[i] = (float)(next_random() % 41) - 20;
    if (next_random() % (4u * (uint32_t)vocab) == 0) logits[i] = next_random() % 2 ? NAN : INFINITY;
    if (next_random() % 8 == 0) logits[i] = -INFINITY;
  }
  for (int32_t i = 0; i < rows * words; ++i) {
    const uint32_t kind = next_random() % 4;
    const uint32_t word = kind == 0 ? 0 : kind == 1 ? UINT32_MAX : next_random() << 1 ^ next_random();
    memcpy(&mask[i], &word, sizeof word);
  }
  for (int32_t i = 0; i < vocab; ++i) ids[i] = 3 * (vocab - i);

  int32_t control[EDGE_CONTROL_LENGTH] = {EDGE_FLAG_MASK, 0, 7, 8, INT32_MAX};
  float scalars[EDGE_SCALAR_LENGTH] = {1, 1, 0, 0};
  int32_t expected[16], stop = 0;
  for (int32_t row = 0; row < rows; ++row) {
    expected[row] = plain_greedy(logits + (size_t)row * (size_t)vocab, vocab, mask + (size_t)row * (size_t)words);
    if (row < rows - 1) draft[row] = next_random() % 4 ? expected[row] : -1;
  }
  while (stop < rows - 1 && expected[stop] >= 0 && draft[stop] == expected[stop]) ++stop;
  const int32_t answer = edge_verify(logits, rows, vocab, draft, control, scalars, mask, scratch, tokens);
  CHECK(answer == (expected[stop] < 0 ? expected[stop] : stop));
  for (int32_t row = 0; row < rows; ++row) {
    CHECK(tokens[row] == (row < stop || (row == stop && expected[row] >= 0) ? expected[row] : -1));
  }

  control[EDGE_CONTROL_FLAGS] |= EDGE_FLAG_SAMPLE;
  for (int variant = 0; variant < 8; ++variant) {
    control[EDGE_CONTROL_TOP_K] = variant & 1 ? 1 + (int32_t)(next_random() % (uint32_t)vocab) : 0;
    scalars[EDGE_SCALAR_TOP_P] = variant & 2 ? 0.8f : 1;
    scalars[EDGE_SCALAR_MIN_P] = variant & 4 ? 0.1f : 0;
    const int32_t token = edge_select(logits, vocab, control, scalars, mask, variant, scratch);
    CHECK(expected[0] < 0 ? token == expected[0] : token >= 0 && token < vocab && allowed(mask, token));
    float confidence = -1;
    const int32_t drafted = edge_draft(logits, ids, vocab, control, scalars, variant, scratch, &confidence);
    CHECK(drafted == -1 ? confidence == 0 : drafted >= 3 && confidence > 0 && confidence <= 1);
  }

  control[EDGE_CONTROL_LENGTH - 1] = 1;
  CHECK(edge_verify(logits, rows, vocab, draft, control, scalars, mask, scratch, tokens) == EDGE_ERROR_PARAMETER);
  CHECK(edge_select(logits, vocab, control, scalars, mask, 0, scratch) == EDGE_ERROR_PARAMETER);
  free(logits);
  free(mask);
  free(draft);
  free(tokens);
  free(ids);
  free(scratch);
}

int main(void) {
  static const int32_t vocabularies[] = {1, 2, 31, 32, 33, 64, 100, 1023, 1024, 1025, 2080, 5000};
  for (size_t i = 0; i < sizeof vocabularies / sizeof *vocabularies; ++i) {
    for (int32_t rows = 1; rows <= 9; ++rows) check_case(rows, vocabularies[i]);
  }
  for (int i = 0; i < 300; ++i) check_case(1 + i % 9, 1 + (int32_t)(next_random() % 300));
  puts("ok");
  return 0;
}
