// From the outputs of a step's rows to the tokens of the running text: under the request's sampling, processors and
// bounds, up to the token that ends it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "bounds.h"
#include "constraint.h"
#include "decoder.h"
#include "engine.h"
#include "processors.h"
#include "proposal.h"
#include "request.h"
#include "stop_text.h"
#include "thought.h"

namespace edge_mtp {

// The tokens of a step. Pointers are valid until the next one.
struct Selected {
  const int32_t* tokens = nullptr;  // [count]
  int32_t count = 0;                // accepted + 1, fewer when the text ends inside the step
  int32_t accepted = 0;             // leading drafts that the target chose too, before the text's end
  bool ended = false;               // by the last token
};

class Selection {
 public:
  Selection(Engine& engine, Decoder& decoder);

  // Starts the text of a request that was checked, and writes the ops' sampling operands. Throws Error on what still is
  // wrong with it: its processors, stop texts or grammar.
  void begin(const Request& request);

  // The tokens of the step whose `rows` the decoder has just run: row 0 selects the token at `position`, the rows
  // behind it hold `proposal`. Throws Error where a row selects none.
  Selected select(int32_t rows, int32_t position, const Proposal& proposal);

  // What may come next; nullptr = anything.
  Bounds* bounds() { return bounds_ ? &*bounds_ : nullptr; }
  // Flags of the ops' control operand, for edge_mtp.verify and edge_mtp.draft.
  int32_t verify_flags() const { return verify_flags_; }
  int32_t draft_flags() const { return draft_flags_; }

 private:
  void bind(const Request& request);
  Selected take_selected(int32_t rows, int32_t position);
  Selected select_on_host(int32_t position, const Proposal& proposal);
  int32_t select_row(int32_t row, int32_t position, int32_t token);
  bool ends(int32_t token);

  Engine& engine_;
  Decoder& decoder_;
  std::unique_ptr<GrammarCompiler> compiler_;
  std::vector<int32_t> compiler_stop_;

  // Of the running request.
  Processors processors_;
  bool processes_ = false;  // logits are changed before a token is selected
  std::vector<int32_t> stop_;
  std::optional<StopText> stop_text_;
  std::optional<Thought> thought_;  // of the tokens given out; bounds_ has one of its own, which drafts move
  std::optional<Bounds> bounds_;
  int32_t verify_flags_ = 0, draft_flags_ = 0;

  // Of the running step.
  std::vector<int32_t> tokens_;
  std::vector<int32_t> mask_;  // [edge_mask_words(vocabulary)]
  std::vector<float> row_;     // of logits, processed
  std::vector<uint64_t> scratch_;
};

// Throws what a row's EDGE_ERROR means for the request.
[[noreturn]] void refuse_selection(int32_t error, int32_t position);

}  // namespace edge_mtp
