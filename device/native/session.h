// One conversation on an engine: what is cached of it, and the decode loop.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

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
#include "request.h"
#include "selection.h"

namespace edge_mtp {

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
  Traffic traffic;  // with an accelerator
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
  void begin(const Request& request, Outcome& outcome);
  bool prefill(const std::vector<int32_t>& prompt);
  Step step(const Request& request, int32_t most);
  void propose(const Request& request, int32_t most, Step& step);
  void replay(const Request& request, int32_t position);
  bool suffices(const Request& request, const Plan& plan) const;
  void constrain(int32_t most);
  void commit(const Step& step);
  int32_t width_for(int32_t drafts) const;
  void calibrate();
  void remember() const;

  Engine& engine_;
  BufferPool pool_;
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<Drafter> drafter_;  // nullptr: only other sources can draft
  std::unique_ptr<Selection> selection_;
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
  Lookup lookup_;
  bool looks_up_ = false;

  // Of the running step.
  Proposal proposal_;
  int32_t proposed_ = 0;  // drafts of it before the controller cut some away
  std::vector<int32_t> forced_;
  std::vector<Chosen> chosen_;
};

}  // namespace edge_mtp
