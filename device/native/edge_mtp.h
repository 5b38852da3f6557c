/* edge-mtp: speculative decoding of a .litertlm bundle, for C, C++, Kotlin (JNI) and Swift.
 *
 * An engine is a bundle made ready to run; a session is one conversation on it. Calls of one engine's sessions
 * take turns. Functions that can fail return NULL or -1, and edge_mtp_error() then tells why in one line, naming
 * the value and the cure. Token ids go in and come out: tokenizing and chat templates are the caller's.
 */
#ifndef EDGE_MTP_H
#define EDGE_MTP_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define EDGE_MTP_API __attribute__((visibility("default")))
#else
#define EDGE_MTP_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct edge_mtp_engine edge_mtp_engine;
typedef struct edge_mtp_session edge_mtp_session;

/* What runs the graphs. The bundle must have some for it (edge-mtp export --accelerators), and LiteRT's library for it
 * lies beside libLiteRt.so. An accelerator that cannot run a graph may end the process. EDGE_MTP_AUTO tries each one in
 * a child process, takes the fastest that computes what the CPU does, and remembers what it found in cache_dir. */
typedef enum { EDGE_MTP_CPU = 0, EDGE_MTP_GPU = 1, EDGE_MTP_NPU = 2, EDGE_MTP_AUTO = 3 } edge_mtp_accelerator;

typedef struct {
  const char* litert_library; /* path of libLiteRt.so */
  const char* cache_dir;      /* existing folder for what is kept between runs (packed weights, measured costs, prompt
                                 prefixes); NULL = keep nothing */
  int32_t threads;            /* 0 = LiteRT's own choice */
  const char* token_bytes;    /* file with the token-bytes table of a bundle that has none; NULL = none */
  int32_t stepwise;           /* draft a step at a time even where the bundle has folded drafts */
  edge_mtp_accelerator accelerator;
  int32_t half;               /* a GPU computes in half precision: faster, and other rounding than the CPU's */
  const char* npu_libraries;  /* folder of the NPU vendor's libraries; NULL = that of litert_library */
  const char* openvino_device; /* "cpu", "gpu" or "npu", where OpenVINO serves as the NPU; NULL = its own choice */
  const char* runner;         /* path of edge_mtp_runner, which EDGE_MTP_AUTO starts; NULL = it takes what an earlier
                                 trial has found, or the CPU */
} edge_mtp_options;

typedef struct {
  int32_t context_length; /* tokens, prompt and output together */
  int32_t vocabulary;
  int32_t max_draft_length; /* 0 = the bundle cannot verify drafts */
  int32_t has_drafter;      /* else only look-up and grammars can draft */
  edge_mtp_accelerator accelerator; /* that runs the graphs */
  const char* accelerator_reason;   /* why EDGE_MTP_AUTO has taken it, one line; "" = it was asked for */
} edge_mtp_info;

/* Where drafts may come from, joined by |; 0 = the drafter (look-up where the bundle has none) and the grammar.
 * EDGE_MTP_BLANKS stands alone: drafts that no token matches, to measure what a verify costs. */
enum { EDGE_MTP_DRAFTER = 1, EDGE_MTP_LOOKUP = 2, EDGE_MTP_GRAMMAR = 4, EDGE_MTP_BLANKS = 8 };

/* Fields that are 0 or NULL ask for nothing; max_tokens must be given. */
typedef struct {
  const int32_t* prompt; /* [prompt_length], the whole context; what is cached of it is not run again */
  size_t prompt_length;
  const int32_t* stop; /* [stop_length], tokens that end the text; the one met is given out last */
  size_t stop_length;
  const char* const* stop_texts; /* [stop_texts_length], UTF-8: the token that completes one ends the text, in no thought */
  size_t stop_texts_length;
  int32_t max_tokens;    /* of output, exact */
  int32_t draft_length;  /* K, the most drafts a step; 0 = plain decoding */
  int32_t adaptive;      /* the controller chooses each step's K, up to draft_length */
  int32_t draft_sources; /* EDGE_MTP_DRAFTER | ..., 0 = the default */
  float temperature;     /* 0 = greedy */
  int32_t top_k;        /* 0 = off */
  float top_p;          /* 0 or 1 = off */
  float min_p;          /* 0 = off */
  uint64_t seed;
  int32_t couple_drafts; /* when sampling: draft with the target's random numbers, not the likeliest token */
  float repetition_penalty; /* 0 or 1 = off */
  float presence_penalty, frequency_penalty;
  const int32_t* bias_tokens; /* [bias_length] */
  const float* biases;        /* [bias_length] */
  size_t bias_length;
  const int32_t* suppress; /* [suppress_length], tokens that are never chosen */
  size_t suppress_length;
  const char* grammar; /* EBNF (docs/grammar.md) that the output must match; `edge-mtp grammar` makes some */
  const int32_t* thought_marks;  /* [2], the tokens that open and close a thought; NULL = the model has none */
  const int32_t* thought_header; /* [thought_header_length], tokens behind the first that are no text of the thought */
  size_t thought_header_length;
  int32_t thought_opened;  /* the prompt ends inside a thought */
  int32_t limits_thoughts; /* thought_budget holds */
  int32_t thought_budget;  /* most tokens of the text's thoughts together; then the thought is closed */
  int32_t logprobs;        /* fill the steps' logprobs and margins */
  int32_t keep_prefix;     /* leading prompt tokens whose cache is kept in cache_dir and restored from there */
  int32_t fresh;           /* use nothing of what the session has cached, nor a compiled grammar; for measurements */
  const int32_t* draft_tape; /* [draft_tape_length], stands in for what the drafter drafts: entry i for the output's */
  size_t draft_tape_length;  /* i-th token; to measure what an acceptance would bring */
} edge_mtp_request;

typedef enum { EDGE_MTP_PLAIN = 0, EDGE_MTP_VERIFY = 1 } edge_mtp_step_kind;

/* One step, valid during the callback. Times in microseconds. */
typedef struct {
  edge_mtp_step_kind kind;
  int32_t position; /* of tokens[0] */
  int32_t drafted;
  int32_t accepted;
  const int32_t* draft;    /* [drafted] */
  const float* confidence; /* [drafted] */
  const char* source;      /* [drafted], of each draft: d(rafter), l(ook-up), g(rammar); ends with a 0 */
  int32_t planned;         /* drafts asked of the drafter */
  int32_t explore;         /* to learn their worth, not because it is believed best */
  float expected_per_ms;   /* tokens that the controller expected of this step's plan; 0 = it was not asked */
  float plain_per_ms;      /* and of plain decoding */
  int32_t count;
  const int32_t* tokens; /* [count], of which the first min(accepted, count) were drafted */
  const float* logprobs; /* [count], log softmax of the model's own logits; NULL unless asked for */
  const float* margins;  /* [count], largest logit minus the second; NULL unless asked for */
  double draft_us, mask_us, embed_us, verify_us, select_us, total_us;
  int32_t waits; /* of the host for an accelerator; 0 on the CPU, as the next two */
  int64_t bytes_to_accelerator, bytes_from_accelerator;
} edge_mtp_step;

typedef void (*edge_mtp_on_step)(const edge_mtp_step* step, void* user);

typedef enum {
  EDGE_MTP_STOP = 0,     /* a stop token */
  EDGE_MTP_LENGTH = 1,   /* max_tokens */
  EDGE_MTP_CONTEXT = 2,  /* the context is full */
  EDGE_MTP_CANCELLED = 3 /* edge_mtp_cancel */
} edge_mtp_finish;

typedef struct {
  edge_mtp_finish finish;
  int32_t prompt_tokens;
  int32_t reused_tokens;   /* of the prompt, cached by an earlier request */
  int32_t restored_tokens; /* of the prompt, read from a kept prefix */
  int32_t tokens;
  double prefill_us, total_us;
  /* In this and all earlier requests that are remembered: the drafter's first drafts that a text has judged, and how many
   * of them were right. */
  int64_t first_drafts, first_accepted;
} edge_mtp_outcome;

EDGE_MTP_API edge_mtp_engine* edge_mtp_open(const char* bundle, const edge_mtp_options* options);
EDGE_MTP_API void edge_mtp_close(edge_mtp_engine* engine); /* after its sessions */
EDGE_MTP_API edge_mtp_info edge_mtp_describe(const edge_mtp_engine* engine);

EDGE_MTP_API edge_mtp_session* edge_mtp_session_create(edge_mtp_engine* engine);
EDGE_MTP_API void edge_mtp_session_destroy(edge_mtp_session* session);
/* Generates until a stop token, max_tokens, a full context or edge_mtp_cancel; calls on_step, unless it is NULL, after
 * each step, in this thread. outcome may be NULL. Returns 0. */
EDGE_MTP_API int edge_mtp_generate(edge_mtp_session* session, const edge_mtp_request* request,
                                   edge_mtp_on_step on_step, void* user, edge_mtp_outcome* outcome);
/* Ends a running edge_mtp_generate at its next step or prefill chunk; from any thread. */
EDGE_MTP_API void edge_mtp_cancel(edge_mtp_session* session);

/* Why this thread's last call failed. */
EDGE_MTP_API const char* edge_mtp_error(void);

#ifdef __cplusplus
}
#endif

#endif
