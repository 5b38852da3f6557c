#include "edge_mtp.h"

#include <mutex>
#include <string>

#include "engine.h"
#include "error.h"
#include "session.h"

struct edge_mtp_engine {
  edge_mtp_engine(const char* bundle, const edge_mtp::Engine::Options& options) : engine(bundle, options) {}
  edge_mtp::Engine engine;
  std::mutex running;
};

struct edge_mtp_session {
  explicit edge_mtp_session(edge_mtp_engine* owner) : owner(owner), session(owner->engine) {}
  edge_mtp_engine* owner;
  edge_mtp::Session session;
};

namespace {

thread_local std::string last_error;

// Runs `body`, turning any exception into `failed` and a message.
template <typename Result, typename Body>
Result guarded(Result failed, const Body& body) {
  try {
    return body();
  } catch (const std::exception& error) {
    last_error = error.what();
  }
  return failed;
}

}  // namespace

edge_mtp_engine* edge_mtp_open(const char* bundle, const edge_mtp_options* options) {
  return guarded<edge_mtp_engine*>(nullptr, [&] {
    edge_mtp::Engine::Options settings;
    settings.litert_library = options->litert_library;
    if (options->cache_dir != nullptr) settings.cache_dir = options->cache_dir;
    settings.threads = options->threads;
    return new edge_mtp_engine(bundle, settings);
  });
}

void edge_mtp_close(edge_mtp_engine* engine) { delete engine; }

edge_mtp_info edge_mtp_describe(const edge_mtp_engine* engine) {
  const auto& lengths = engine->engine.draft_lengths();
  return {engine->engine.context_length(), engine->engine.vocabulary(), lengths.empty() ? 0 : lengths.back()};
}

edge_mtp_session* edge_mtp_session_create(edge_mtp_engine* engine) {
  return guarded<edge_mtp_session*>(nullptr, [&] { return new edge_mtp_session(engine); });
}

void edge_mtp_session_destroy(edge_mtp_session* session) { delete session; }

int edge_mtp_generate(edge_mtp_session* session, const edge_mtp_request* request, edge_mtp_on_step on_step,
                      void* user, edge_mtp_outcome* outcome) {
  return guarded(-1, [&] {
    const std::lock_guard<std::mutex> lock(session->owner->running);
    edge_mtp::Request wanted;
    wanted.prompt.assign(request->prompt, request->prompt + request->prompt_length);
    wanted.stop.assign(request->stop, request->stop + request->stop_length);
    wanted.max_tokens = request->max_tokens;
    wanted.draft_length = request->draft_length;
    wanted.couple_drafts = request->couple_drafts != 0;
    wanted.sampling = {request->temperature, request->top_k, request->top_p, request->min_p, request->seed};
    const edge_mtp::Outcome result = session->session.generate(wanted, [&](const edge_mtp::Step& step) {
      const edge_mtp_step seen = {static_cast<edge_mtp_step_kind>(step.kind), step.position, step.drafted,
                                  step.accepted, step.draft, step.confidence, step.count, step.tokens,
                                  step.draft_us, step.embed_us, step.verify_us, step.select_us, step.total_us};
      on_step(&seen, user);
    });
    *outcome = {static_cast<edge_mtp_finish>(result.finish), result.prompt_tokens, result.tokens, result.prefill_us,
                result.total_us};
    return 0;
  });
}

void edge_mtp_cancel(edge_mtp_session* session) { session->session.cancel(); }

const char* edge_mtp_error(void) { return last_error.c_str(); }
