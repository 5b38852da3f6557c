// Processors, stop strings, look-up, trials and child processes for Python: plain functions on opaque pointers. A call that was refused
// returns NULL or -2 and leaves its reason in parts_error().
#include <cstring>
#include <string>
#include <vector>

#include "child_process.h"
#include "error.h"
#include "lookup.h"
#include "processors.h"
#include "stop_text.h"
#include "token_bytes.h"
#include "trial.h"

using edge_mtp::Lookup;
using edge_mtp::Processors;
using edge_mtp::StopText;
using edge_mtp::TokenBytes;

namespace {

std::string reason;

template <typename Body>
int guarded(const Body& body) {
  try {
    body();
    return 0;
  } catch (const edge_mtp::Error& error) {
    reason = error.what();
    return -2;
  }
}

// A table with the bytes it reads in place.
struct Stops {
  Stops(const uint8_t* table, size_t size, std::vector<std::string> strings)
      : bytes(table, table + size), tokens({bytes.data(), bytes.size()}), stops(tokens, std::move(strings)) {}
  std::vector<uint8_t> bytes;
  TokenBytes tokens;
  StopText stops;
};

// What is remembered of a trial: the costs are the plain step's, then those of drafts and of verifying.
edge_mtp::SpeedUp trial_kept(const int32_t* lengths, int32_t count, const double* reference, const double* found) {
  const auto trial = [&](const double* us) {
    edge_mtp::Trial made;
    made.plain_us = us[0];
    for (int32_t i = 0; i < count; ++i) {
      made.draft_us[lengths[i]] = us[1 + i];
      made.verify_us[lengths[i] + 1] = us[1 + count + i];
    }
    return made;
  };
  return edge_mtp::SpeedUp::read(edge_mtp::SpeedUp(trial(reference), trial(found)).text()).value();
}

}  // namespace

extern "C" {

const char* parts_error() { return reason.c_str(); }

Processors* processors_create(int32_t vocabulary) { return new Processors(vocabulary); }
void processors_destroy(Processors* processors) { delete processors; }
// penalties: repetition, presence, frequency.
int processors_begin(Processors* processors, const int32_t* biased, const float* bias, int32_t biases,
                     const int32_t* suppress, int32_t suppressed, const float* penalties, const int32_t* prompt,
                     int32_t prompt_length) {
  edge_mtp::Processing processing;
  for (int32_t i = 0; i < biases; ++i) processing.bias.emplace_back(biased[i], bias[i]);
  processing.suppress.assign(suppress, suppress + suppressed);
  processing.repetition_penalty = penalties[0];
  processing.presence_penalty = penalties[1];
  processing.frequency_penalty = penalties[2];
  return guarded([&] { processors->begin(processing, {prompt, prompt + prompt_length}); });
}
int processors_push(Processors* processors, int32_t token) {
  return guarded([&] { processors->push(token); });
}
int processors_pop(Processors* processors, int32_t count) {
  return guarded([&] { processors->pop(count); });
}
void processors_apply(const Processors* processors, float* logits) { processors->apply(logits); }
void choice_describe(const float* logits, int32_t count, int32_t token, float* out) {
  const edge_mtp::Chosen chosen = edge_mtp::describe_choice(logits, count, token);
  out[0] = chosen.logprob;
  out[1] = chosen.margin;
}

// Values of one output, logits of `vocabulary` where that is not 0. Returns what difference() says.
const char* trial_difference(const float* reference, const float* found, int32_t count, int32_t vocabulary) {
  const auto trial = [&](const float* values) {
    edge_mtp::Trial result;
    result.outputs.push_back({"the values", vocabulary != 0, {values, values + count}});
    return result;
  };
  reason = edge_mtp::difference(trial(reference), trial(found), vocabulary);
  return reason.c_str();
}
// Costs of `count` pairs of a draft of lengths[i] and a verify graph of one row more.
double trial_best_rate(double plain_us, const int32_t* lengths, const double* draft_us, const double* verify_us,
                       int32_t count, double acceptance) {
  edge_mtp::Trial trial;
  trial.plain_us = plain_us;
  for (int32_t i = 0; i < count; ++i) {
    trial.draft_us[lengths[i]] = draft_us[i];
    trial.verify_us[lengths[i] + 1] = verify_us[i];
  }
  return edge_mtp::best_rate(trial, acceptance);
}

double trial_speed_up(const int32_t* lengths, int32_t count, const double* reference, const double* found,
                      double acceptance) {
  return trial_kept(lengths, count, reference, found).times(acceptance);
}

// 0 = the reference, 1 = `found`; 2 more where it is taken to learn.
int32_t trial_take(const int32_t* lengths, int32_t count, const double* reference, const double* found, int64_t judged,
                   int64_t right, bool decoded) {
  const auto taken = edge_mtp::take({trial_kept(lengths, count, reference, found)}, {judged, right, decoded});
  return static_cast<int32_t>(taken.index) + (taken.to_learn ? 2 : 0);
}

bool trial_reads(const char* line) { return edge_mtp::SpeedUp::read(line).has_value(); }

double trial_expected_acceptance(int64_t judged, int64_t right) {
  return edge_mtp::expected_acceptance({judged, right, true});
}

// The fault of `sh -c script`; its output is in parts_error().
const char* child_ask(const char* script, int seconds) {
  static std::string fault;
  const edge_mtp::Answer answer = edge_mtp::ask({"/bin/sh", "-c", script}, seconds);
  reason = answer.output;
  fault = answer.fault;
  return fault.c_str();
}

// strings: `count` of them one after another, their lengths in `sizes`.
Stops* stops_create(const uint8_t* table, size_t table_size, const char* strings, const int32_t* sizes, int32_t count) {
  std::vector<std::string> list;
  for (int32_t i = 0; i < count; strings += sizes[i++]) list.emplace_back(strings, static_cast<size_t>(sizes[i]));
  Stops* stops = nullptr;
  guarded([&] { stops = new Stops(table, table_size, std::move(list)); });
  return stops;
}
void stops_destroy(Stops* stops) { delete stops; }
int32_t stops_push(Stops* stops, int32_t token) { return stops->stops.push(token); }

Lookup* lookup_create() { return new Lookup; }
void lookup_destroy(Lookup* lookup) { delete lookup; }
void lookup_begin(Lookup* lookup, int32_t capacity) { lookup->begin(capacity); }
int lookup_push(Lookup* lookup, int32_t token) {
  return guarded([&] { lookup->push(token); });
}
void lookup_truncate(Lookup* lookup, int32_t length) { lookup->truncate(length); }
int32_t lookup_length(const Lookup* lookup) { return lookup->length(); }
int32_t lookup_longest() { return Lookup::kLongest; }
// The number proposed; tokens and confidences in `tokens`, `confidences` [31]. -1: one of them names another source.
int32_t lookup_propose(const Lookup* lookup, int32_t least, int32_t most, int32_t* tokens, float* confidences) {
  edge_mtp::Proposal proposal;
  lookup->propose(least, most, proposal);
  for (int32_t i = 0; i < proposal.count; ++i) {
    const auto at = static_cast<size_t>(i);
    if (proposal.source[at] != edge_mtp::Source::kLookup) return -1;
    tokens[i] = proposal.tokens[at];
    confidences[i] = proposal.confidence[at];
  }
  return proposal.count;
}

}  // extern "C"
