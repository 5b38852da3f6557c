#include "edge_mtp.h"

#include <array>
#include <mutex>
#include <string>
#include <utility>

#include "accelerator_choice.h"
#include "engine.h"
#include "error.h"
#include "session.h"

struct edge_mtp_engine {
  edge_mtp_engine(const char* bundle, const edge_mtp::Engine::Options& options, std::string reason)
      : engine(bundle, options), accelerator_reason(std::move(reason)) {}
  edge_mtp::Engine engine;
  std::string accelerator_reason;
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

// Sets the accelerator; returns why it was chosen, "" if it was asked for.
std::string take_accelerator(const char* bundle, const edge_mtp_options& from, edge_mtp::Engine::Options& settings) {
  switch (from.accelerator) {
    case EDGE_MTP_CPU: return {};
    case EDGE_MTP_GPU: settings.accelerator = edge_mtp::Accelerator::kGpu; return {};
    case EDGE_MTP_NPU: settings.accelerator = edge_mtp::Accelerator::kNpu; return {};
    case EDGE_MTP_AUTO: break;
    default: throw edge_mtp::Error("no accelerator " + std::to_string(from.accelerator) + "; take an edge_mtp_accelerator");
  }
  if (settings.stepwise) return "drafts a step at a time are made on the cpu only";
  const edge_mtp::AcceleratorChoice choice =
      edge_mtp::choose_accelerator(from.runner == nullptr ? "" : from.runner, bundle, settings);
  settings.accelerator = choice.taken;
  return choice.why;
}

void take_draft_sources(int32_t sources, bool has_drafter, edge_mtp::Request& request) {
  constexpr int32_t known = EDGE_MTP_DRAFTER | EDGE_MTP_LOOKUP | EDGE_MTP_GRAMMAR;
  if (sources == 0) sources = (has_drafter ? EDGE_MTP_DRAFTER : EDGE_MTP_LOOKUP) | EDGE_MTP_GRAMMAR;
  if (sources != EDGE_MTP_BLANKS && (sources & ~known) != 0) {
    throw edge_mtp::Error("draft_sources is " + std::to_string(sources) +
                          "; join EDGE_MTP_DRAFTER, EDGE_MTP_LOOKUP and EDGE_MTP_GRAMMAR, or take EDGE_MTP_BLANKS alone");
  }
  request.use_drafter = (sources & EDGE_MTP_DRAFTER) != 0;
  request.use_lookup = (sources & EDGE_MTP_LOOKUP) != 0;
  request.use_grammar = (sources & EDGE_MTP_GRAMMAR) != 0;
}

edge_mtp::Request read(const edge_mtp_request& from, bool has_drafter) {
  edge_mtp::Request request;
  request.prompt.assign(from.prompt, from.prompt + from.prompt_length);
  request.stop.assign(from.stop, from.stop + from.stop_length);
  request.stop_texts.assign(from.stop_texts, from.stop_texts + from.stop_texts_length);
  request.max_tokens = from.max_tokens;
  request.draft_length = from.draft_length;
  request.adaptive = from.adaptive != 0;
  take_draft_sources(from.draft_sources, has_drafter, request);
  request.couple_drafts = from.couple_drafts != 0;
  request.sampling = {from.temperature, from.top_k, from.top_p == 0.0f ? 1.0f : from.top_p, from.min_p, from.seed};
  for (size_t i = 0; i < from.bias_length; ++i) {
    request.processing.bias.emplace_back(from.bias_tokens[i], from.biases[i]);
  }
  request.processing.suppress.assign(from.suppress, from.suppress + from.suppress_length);
  if (from.repetition_penalty != 0.0f) request.processing.repetition_penalty = from.repetition_penalty;
  request.processing.presence_penalty = from.presence_penalty;
  request.processing.frequency_penalty = from.frequency_penalty;
  if (from.grammar != nullptr) request.grammar = from.grammar;
  if (from.thought_marks != nullptr) {
    request.thoughts.open = from.thought_marks[0];
    request.thoughts.close = from.thought_marks[1];
  }
  request.thoughts.header.assign(from.thought_header, from.thought_header + from.thought_header_length);
  request.thoughts.opened = from.thought_opened != 0;
  if (from.limits_thoughts != 0 && from.thought_budget < 0) {
    throw edge_mtp::Error("the budget of thoughts is " + std::to_string(from.thought_budget) + "; give 0 or more");
  }
  if (from.limits_thoughts != 0) request.thoughts.budget = from.thought_budget;
  request.logprobs = from.logprobs != 0;
  request.keep_prefix = from.keep_prefix;
  request.fresh = from.fresh != 0;
  request.draft_tape.assign(from.draft_tape, from.draft_tape + from.draft_tape_length);
  return request;
}

// A step in the C form, and the memory it points into.
struct Seen {
  explicit Seen(const edge_mtp::Step& from) {
    const edge_mtp::Proposal& proposal = *from.proposal;
    for (int32_t i = 0; i < proposal.count; ++i) {
      source[static_cast<size_t>(i)] = "dlg"[static_cast<size_t>(proposal.source[static_cast<size_t>(i)])];
    }
    for (int32_t i = 0; from.chosen != nullptr && i < from.count; ++i) {
      logprobs[static_cast<size_t>(i)] = from.chosen[i].logprob;
      margins[static_cast<size_t>(i)] = from.chosen[i].margin;
    }
    step.waits = from.traffic.waits;
    step.bytes_to_accelerator = from.traffic.to_device;
    step.bytes_from_accelerator = from.traffic.to_host;
    step.kind = from.rows == 1 ? EDGE_MTP_PLAIN : EDGE_MTP_VERIFY;
    step.position = from.position;
    step.drafted = proposal.count;
    step.accepted = from.accepted;
    step.draft = proposal.tokens.data();
    step.confidence = proposal.confidence.data();
    step.source = source.data();
    step.planned = from.plan.drafts;
    step.explore = from.plan.explore ? 1 : 0;
    step.expected_per_ms = from.plan.tokens_per_ms;
    step.plain_per_ms = from.plan.plain_tokens_per_ms;
    step.count = from.count;
    step.tokens = from.tokens;
    step.logprobs = from.chosen == nullptr ? nullptr : logprobs.data();
    step.margins = from.chosen == nullptr ? nullptr : margins.data();
    step.draft_us = from.draft_us;
    step.mask_us = from.mask_us;
    step.embed_us = from.embed_us;
    step.verify_us = from.verify_us;
    step.select_us = from.select_us;
    step.total_us = from.total_us;
  }

  edge_mtp_step step{};
  std::array<char, edge_mtp::kMaxDrafts + 1> source{};
  std::array<float, edge_mtp::kMaxDrafts + 1> logprobs{}, margins{};
};

}  // namespace

edge_mtp_engine* edge_mtp_open(const char* bundle, const edge_mtp_options* options) {
  return guarded<edge_mtp_engine*>(nullptr, [&] {
    edge_mtp::Engine::Options settings;
    settings.litert_library = options->litert_library;
    if (options->cache_dir != nullptr) settings.cache_dir = options->cache_dir;
    settings.threads = options->threads;
    if (options->token_bytes != nullptr) settings.token_bytes = options->token_bytes;
    settings.stepwise = options->stepwise != 0;
    settings.half = options->half != 0;
    if (options->npu_libraries != nullptr) settings.npu_libraries = options->npu_libraries;
    if (options->openvino_device != nullptr) {
      const auto device = edge_mtp::accelerator_of(options->openvino_device);
      if (!device) throw edge_mtp::Error(std::string("OpenVINO has no device '") + options->openvino_device + "'; give cpu, gpu or npu");
      settings.openvino_device = static_cast<int>(*device);
    }
    std::string reason = take_accelerator(bundle, *options, settings);
    if (options->accelerator == EDGE_MTP_AUTO && settings.accelerator != edge_mtp::Accelerator::kCpu) {
      try {
        return new edge_mtp_engine(bundle, settings, reason);
      } catch (const edge_mtp::Error& error) {  // the driver, or the memory, is not what it was
        reason += std::string("; now it does not start: ") + error.what();
        settings.accelerator = edge_mtp::Accelerator::kCpu;
      }
    }
    return new edge_mtp_engine(bundle, settings, reason);
  });
}

void edge_mtp_close(edge_mtp_engine* engine) { delete engine; }

edge_mtp_info edge_mtp_describe(const edge_mtp_engine* engine) {
  const edge_mtp::Engine& described = engine->engine;
  return {described.context_length(),
          described.vocabulary(),
          described.max_drafts(),
          described.has_drafter() ? 1 : 0,
          static_cast<edge_mtp_accelerator>(described.accelerator()),
          engine->accelerator_reason.c_str()};
}

edge_mtp_session* edge_mtp_session_create(edge_mtp_engine* engine) {
  return guarded<edge_mtp_session*>(nullptr, [&] { return new edge_mtp_session(engine); });
}

void edge_mtp_session_destroy(edge_mtp_session* session) { delete session; }

int edge_mtp_generate(edge_mtp_session* session, const edge_mtp_request* request, edge_mtp_on_step on_step,
                      void* user, edge_mtp_outcome* outcome) {
  return guarded(-1, [&] {
    const std::lock_guard<std::mutex> lock(session->owner->running);
    const edge_mtp::Request asked = read(*request, session->owner->engine.has_drafter());
    const edge_mtp::Outcome result = session->session.generate(asked, [&](const edge_mtp::Step& step) {
      if (on_step == nullptr) return;
      Seen seen(step);
      on_step(&seen.step, user);
    });
    if (outcome == nullptr) return 0;
    *outcome = {static_cast<edge_mtp_finish>(result.finish), result.prompt_tokens,  result.reused_tokens,
                result.restored_tokens,                      result.tokens,         result.prefill_us,
                result.total_us,                             result.first_drafts,   result.first_accepted};
    return 0;
  });
}

void edge_mtp_cancel(edge_mtp_session* session) { session->session.cancel(); }

const char* edge_mtp_error(void) { return last_error.c_str(); }
