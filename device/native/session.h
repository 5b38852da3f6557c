// One conversation on an engine: what is cached of it, and the decode loop.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bounds.h"
#include "clock.h"
#include "controller.h"
#include "decoder.h"
#include "drafter.h"
#include "engine.h"
#include "kept_prefix.h"
#include "lookup.h"
#include "prefill_plan.h"
#include "processors.h"
#include "proposal.h"
#include "stop_text.h"
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
  bool logprobs = false;             // describe every chosen token
  int32_t keep_prefix = 0;           // leading prompt tokens whose cache is kept on disk
  bool fresh = false;                // nothing of the session's cache is used, nor a compiled grammar
  std::vector<int32_t> draft_tape;   // entry i stands in for what the drafter drafts as the output's token i
};

// What one step did. Pointers are valid during the callback.
struct Step {
  int32_t position = 0;                  // of the first token below
  int32_t rows = 1;                      // of the graph that ran; 1 = plain decoding
  const Proposal* proposal = nullptr;    // the drafts that were verified
  int32_t accepted = 0;                  // of them, matched by the target before the text's end
  Plan plan;                             // what was meant to be drafted
  int32_t count = 0;                     // tokens given out: accepted + 1, fewer when the text ends inside the step
  const int32_t* tokens = nullptr;       // [count]
  bool ended = false;                    // by the last of them
  const Chosen* chosen = nullptr;        // [count], or nullptr
  double draft_us = 0, mask_us = 0, embed_us = 0, verify_us = 0, select_us = 0, total_us = 0;
};

enum class Finish { kStop, kLength, kContext, kCancelled };

struct Outcome {
  Finish finish = Finish::kLength;
  int32_t prompt_tokens = 0;
  int32_t reused_tokens = 0;    // of the prompt, cached by an earlier request
  int32_t restored_tokens = 0;  // of the prompt, read from a kept prefix
  int32_t tokens = 0;
  double prefill_us = 0, total_us = 0;
  int64_t first_drafts = 0, first_accepted = 0;  // of the drafter, in all requests that are remembered
};

class Session {
 public:
  explicit Session(Engine& engine);
  ~Session();

  // Runs `request`, calling `on_step` after every step. Throws Error on a request that the bundle cannot serve (before
  // any work) and on non-finite logits; the session stays usable.
  Outcome generate(const Request& request, const std::function<void(const Step&)>& on_step);

  // Ends a running generate() at the next step or prefill chunk; callable from another thread.
  void cancel() { cancelled_ = true; }

 private:
  void check(const Request& request) const;
  void begin(const Request& request, Outcome& outcome);
  bool prefill(const std::vector<int32_t>& prompt);
  Step step(const Request& request, int32_t most);
  void propose(const Request& request, int32_t most, Step& step);
  void replay(const Request& request, int32_t position);
  bool suffices(const Request& request, const Plan& plan) const;
  void constrain(int32_t most);
  void take_selected(const Request& request, Step& step);
  void select_on_host(const Request& request, Step& step);
  int32_t select_row(int32_t row, int32_t position, int32_t token);
  bool ends(const Request& request, int32_t token);
  void commit(const Step& step);
  int32_t width_for(int32_t drafts) const;
  void calibrate();
  void remember() const;

  Engine& engine_;
  BufferPool pool_;
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<Drafter> drafter_;  // nullptr: only other sources can draft
  std::optional<Controller> controller_;
  PrefillPlan prefill_plan_;
  KeptPrefix kept_prefix_;
  std::atomic<bool> cancelled_{false};

  // The text: entries 0 .. cached_.size() - 1 of the cache hold cached_; pending_ follows, confirmed but not cached.
  std::vector<int32_t> cached_;
  int32_t pending_ = 0;
  bool hidden_known_ = false;  // the drafter needs the hidden state that a step leaves behind
  bool taped_ = false;         // a tape has drafted: what the controller learns from now on is not the drafter's

  // Of the running request.
  Processors processors_;
  Lookup lookup_;
  bool looks_up_ = false;
  std::unique_ptr<GrammarCompiler> compiler_;
  std::vector<int32_t> compiler_stop_;
  std::optional<Bounds> bounds_;
  std::optional<StopText> stop_text_;
  std::optional<Thought> thought_;  // of the tokens given out; what drafts do to it is in bounds_
  int32_t verify_flags_ = 0, draft_flags_ = 0;  // of the ops' control operand
  bool processes_ = false;                      // logits are changed before a token is selected

  // Of the running step.
  Proposal proposal_;
  int32_t proposed_ = 0;  // drafts of it before the controller cut some away
  std::vector<int32_t> forced_, tokens_;
  std::vector<int32_t> mask_;  // [edge_mask_words(vocabulary)]
  std::vector<float> row_;  // of logits, processed
  std::vector<Chosen> chosen_;
  std::vector<uint64_t> scratch_;
};

}  // namespace edge_mtp
