/* An app's view of libedge_mtp.so, in plain C: errors, several sessions of one engine in several threads.
 *
 * usage: c_api LIBLITERT BUNDLE STOP TOKENS...   where TOKENS are the prompts, each ended by -1
 * Every session answers each prompt in turn; prints a line of token ids for each answer, session by session. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edge_mtp.h"

enum { SESSIONS = 3, MOST = 4096, TOKENS = 40 };

typedef struct {
  edge_mtp_session *session;
  int draft_length;
  char text[MOST * 8];
} worker;

static int32_t prompts[MOST], stop_token;
static int ends[64], prompt_count;

static void on_step(const edge_mtp_step *step, void *user) {
  char *text = user;
  for (int32_t i = 0; i < step->count; ++i) sprintf(text + strlen(text), "%d ", step->tokens[i]);
}

static void count_accepted(const edge_mtp_step *step, void *user) {
  if (step->kind == EDGE_MTP_VERIFY) *(int *)user += step->accepted;
}

static void *answer(void *user) {
  worker *me = user;
  for (int p = 0, begin = 0; p < prompt_count; begin = ends[p++]) {
    edge_mtp_request request = {0};
    request.prompt = prompts + begin;
    request.prompt_length = (size_t)(ends[p] - begin);
    request.stop = &stop_token;
    request.stop_length = 1;
    request.max_tokens = TOKENS;
    request.draft_length = me->draft_length;
    edge_mtp_outcome outcome;
    if (edge_mtp_generate(me->session, &request, on_step, me->text, &outcome) != 0) {
      strcat(me->text, edge_mtp_error());
    }
    strcat(me->text, "\n");
  }
  return NULL;
}

int main(int argc, char **argv) {
  if (argc < 5) return 2;
  edge_mtp_options options = {0};
  options.litert_library = argv[1];
  options.threads = 1;
  if (edge_mtp_open("/absent.litertlm", &options) != NULL || !strstr(edge_mtp_error(), "/absent.litertlm")) return 3;
  edge_mtp_options wrong = options;
  wrong.litert_library = "/absent/libLiteRt.so";
  if (edge_mtp_open(argv[2], &wrong) != NULL || !strstr(edge_mtp_error(), "/absent/libLiteRt.so")) return 4;

  edge_mtp_engine *engine = edge_mtp_open(argv[2], &options);
  if (engine == NULL) return 5;
  edge_mtp_info info = edge_mtp_describe(engine);
  if (info.max_draft_length < 1 || !info.has_drafter || info.vocabulary < 1) return 6;
  stop_token = atoi(argv[3]);
  for (int i = 4, at = 0; i < argc; ++i) {
    int token = atoi(argv[i]);
    if (token < 0) {
      ends[prompt_count++] = at;
    } else {
      prompts[at++] = token;
    }
  }

  /* Blanks are never accepted, and stand alone. NULL for what is not wanted. */
  edge_mtp_session *session = edge_mtp_session_create(engine);
  edge_mtp_request request = {0};
  request.prompt = prompts;
  request.prompt_length = (size_t)ends[0];
  request.max_tokens = 8;
  request.draft_length = info.max_draft_length;
  request.draft_sources = EDGE_MTP_BLANKS | EDGE_MTP_DRAFTER;
  if (edge_mtp_generate(session, &request, NULL, NULL, NULL) != -1 || !strstr(edge_mtp_error(), "draft_sources is 9")) return 8;
  request.draft_sources = EDGE_MTP_BLANKS;
  int accepted = 0;
  if (edge_mtp_generate(session, &request, count_accepted, &accepted, NULL) != 0 || accepted != 0) return 9;
  request.draft_sources = 0;
  request.fresh = 1;
  if (edge_mtp_generate(session, &request, count_accepted, &accepted, NULL) != 0 || accepted == 0) return 10;
  edge_mtp_session_destroy(session);

  static worker workers[SESSIONS];
  pthread_t threads[SESSIONS];
  for (int i = 0; i < SESSIONS; ++i) {
    workers[i].session = edge_mtp_session_create(engine);
    workers[i].draft_length = i * (info.max_draft_length / (SESSIONS - 1));
    if (workers[i].session == NULL) return 7;
  }
  for (int i = 0; i < SESSIONS; ++i) pthread_create(&threads[i], NULL, answer, &workers[i]);
  for (int i = 0; i < SESSIONS; ++i) pthread_join(threads[i], NULL);
  for (int i = 0; i < SESSIONS; ++i) {
    fputs(workers[i].text, stdout);
    edge_mtp_session_destroy(workers[i].session);
  }
  edge_mtp_close(engine);
  return 0;
}
