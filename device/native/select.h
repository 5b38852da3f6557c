/* Token selection: the only place where a token is chosen from logits.
 *
 * Contract: docs/verify-op.md (edge_mtp.verify v1, edge_mtp.draft v1). Every function is pure: its result depends only
 * on its arguments, it allocates nothing, has no state, and may run in any thread with its own scratch.
 *
 * `control` (int32 [8]) and `scalars` (float [4]) are the operands of the ops, indexed by the constants below.
 * Reserved entries are 0. Sampling parameters are read only when EDGE_FLAG_SAMPLE is set.
 */
#ifndef EDGE_MTP_SELECT_H
#define EDGE_MTP_SELECT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
  EDGE_CONTROL_FLAGS = 0,
  EDGE_CONTROL_TOP_K = 1,     /* 0 = off */
  EDGE_CONTROL_SEED_LOW = 2,  /* bits 0..31 of the seed */
  EDGE_CONTROL_SEED_HIGH = 3, /* bits 32..63 */
  EDGE_CONTROL_POSITION = 4,  /* position of the token that row 0 selects */
  EDGE_CONTROL_LENGTH = 8
};

enum { EDGE_FLAG_SAMPLE = 1, EDGE_FLAG_MASK = 2 };

enum {
  EDGE_SCALAR_TEMPERATURE = 0,
  EDGE_SCALAR_TOP_P = 1, /* in (0, 1], 1 = off */
  EDGE_SCALAR_MIN_P = 2, /* in [0, 1), 0 = off */
  EDGE_SCALAR_LENGTH = 4
};

enum {
  EDGE_ERROR_NAN = -1,       /* NaN among the allowed logits of a reached row */
  EDGE_ERROR_EMPTY = -2,     /* a reached row allows no token above -inf */
  EDGE_ERROR_UNSERVED = -3,  /* the implementation does not support the request; never returned by this one */
  EDGE_ERROR_PARAMETER = -4  /* unknown flag, reserved entry not 0, sampling parameter out of range */
};

/* Bytes of scratch for rows of up to `vocab` logits; the scratch must be aligned to 8. Depends only on `vocab`. */
size_t edge_select_scratch_bytes(int32_t vocab);

/* 32-bit words in one mask row; if bit v % 32 of word v / 32 is set, token v is allowed. */
static inline int32_t edge_mask_words(int32_t vocab) { return (int32_t)(((int64_t)vocab + 31) / 32); }

/* The uniform number in [0, 1) of a position: Philox4x32-10, key = the seed, counter = (position, 0, 0, 0). */
double edge_uniform(const int32_t *control, int32_t position);

/* Selects the token of one row: logits [vocab], mask [edge_mask_words(vocab)] (read only if EDGE_FLAG_MASK is set),
 * position = that of the selected token (the entry in control is not read). vocab >= 1.
 * Returns the token, or an EDGE_ERROR. */
int32_t edge_select(const float *logits, int32_t vocab, const int32_t *control, const float *scalars,
                    const int32_t *mask, int32_t position, void *scratch);

/* edge_mtp.verify: logits [rows, vocab], draft [rows - 1] (-1 = no draft; may be NULL if rows is 1),
 * token_mask [rows, edge_mask_words(vocab)] (NULL if EDGE_FLAG_MASK is not set), tokens [rows] out.
 * Returns n_accepted in 0..rows-1, or an EDGE_ERROR. Rows after the first unmatched one are not read. */
int32_t edge_verify(const float *logits, int32_t rows, int32_t vocab, const int32_t *draft, const int32_t *control,
                    const float *scalars, const int32_t *token_mask, void *scratch, int32_t *tokens);

/* edge_mtp.draft: logits [count] of the candidates ids [count] (distinct, any order); offset = draft step.
 * EDGE_FLAG_MASK is ignored. scratch: edge_select_scratch_bytes(count).
 * Returns the token and its probability in *confidence, or -1 and 0 on any failure. */
int32_t edge_draft(const float *logits, const int32_t *ids, int32_t count, const int32_t *control,
                   const float *scalars, int32_t offset, void *scratch, float *confidence);

#ifdef __cplusplus
}
#endif

#endif
