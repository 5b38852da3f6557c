// What a session is asked to generate.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine.h"
#include "processors.h"
#include "thought.h"

namespace edge_mtp {

struct Sampling {
  float temperature = 0.0f;  // 0 = greedy
  int32_t top_k = 0;         // 0 = off
  float top_p = 1.0f;
  float min_p = 0.0f;
  uint64_t seed = 0;
};

struct Request {
  std::vector<int32_t> prompt;          // the whole context, at least one token; what is cached of it is not run again
  std::vector<int32_t> stop;            // a token that ends the text; it is the last one given out
  std::vector<std::string> stop_texts;  // so does the token whose bytes complete one of these, in no thought
  int32_t max_tokens = 0;               // of output
  int32_t draft_length = 0;             // K, the most drafts a step; 0 = plain decoding
  bool adaptive = false;                // the controller chooses each step's K, up to draft_length
  bool use_drafter = true, use_lookup = false, use_grammar = true;  // where drafts may come from; none: K blanks
  bool couple_drafts = false;  // when sampling: draft with the same uniform numbers, not the likeliest token
  Sampling sampling;
  Processing processing;
  std::string grammar;  // what the output must match
  ThoughtMarks thoughts;
  bool logprobs = false;            // describe every chosen token
  int32_t keep_prefix = 0;          // leading prompt tokens whose cache is kept on disk
  bool fresh = false;               // nothing of the session's cache is used, nor a compiled grammar
  std::vector<int32_t> draft_tape;  // entry i stands in for what the drafter drafts as the output's token i
};

// Throws Error on a request that the engine's bundle cannot serve.
void check(const Request& request, const Engine& engine);

}  // namespace edge_mtp
