#include "request.h"

#include <algorithm>

#include "error.h"
#include "select.h"
#include "selection.h"

namespace edge_mtp {

void check(const Request& request, const Engine& engine) {
  const auto refuse = [](const std::string& what) { throw Error(what); };
  const int32_t context = engine.context_length(), vocabulary = engine.vocabulary();
  const Sampling& sampling = request.sampling;
  if (request.prompt.empty()) refuse("the prompt is empty; give at least one token");
  if (request.prompt.size() >= static_cast<size_t>(context)) {
    refuse("the prompt has " + std::to_string(request.prompt.size()) + " tokens and the bundle's context holds " +
           std::to_string(context) + "; shorten it or export with a larger --context");
  }
  const ThoughtMarks& thoughts = request.thoughts;
  const std::vector<int32_t> marks = {std::max(thoughts.open, 0), std::max(thoughts.close, 0)};
  for (const std::vector<int32_t>* tokens : {&request.prompt, &request.draft_tape, &marks, &thoughts.header}) {
    for (const int32_t token : *tokens) {
      if (token >= 0 && token < vocabulary) continue;
      refuse("token " + std::to_string(token) + " is outside the vocabulary of " + std::to_string(vocabulary));
    }
  }
  if (request.max_tokens < 1) refuse("max_tokens is " + std::to_string(request.max_tokens) + "; give at least 1");
  if (request.draft_length > 0 && engine.max_drafts() == 0) {
    refuse("this bundle has no verify signature, so it cannot draft; use draft length 0, or export the checkpoint "
           "with its drafter");
  }
  if (request.draft_length < 0 || request.draft_length > engine.max_drafts()) {
    refuse("draft length " + std::to_string(request.draft_length) + " is not in this bundle; it has 0 to " +
           std::to_string(engine.max_drafts()));
  }
  if (request.draft_length > 0 && request.use_drafter && !request.use_lookup && !engine.has_drafter() &&
      (!request.use_grammar || (request.grammar.empty() && request.thoughts.budget < 0))) {
    refuse("this bundle has no drafter; use draft length 0, or the draft source lookup");
  }
  if (request.draft_length > 0 && !request.draft_tape.empty() && (!engine.has_drafter() || !request.use_drafter)) {
    refuse("a draft tape stands in for a drafter's tokens, and no drafter drafts here; add the draft source drafter");
  }
  if (request.draft_length > 0 && request.couple_drafts && engine.verifies_greedily()) {
    refuse(std::string("the ") + name_of(engine.accelerator()) +
           " drafts the likeliest token only; drop couple_drafts, or run on the cpu");
  }
  if (!(sampling.temperature >= 0.0f) || sampling.temperature > 1e6f || sampling.top_k < 0 ||
      !(sampling.top_p > 0.0f && sampling.top_p <= 1.0f) || !(sampling.min_p >= 0.0f && sampling.min_p < 1.0f)) {
    refuse_selection(EDGE_ERROR_PARAMETER, 0);
  }
  if (thoughts.open < 0 && (thoughts.opened || thoughts.budget >= 0)) {
    refuse("a thought is known by its marks, and none are given; give 'thought_marks'");
  }
  if (thoughts.open >= 0 && thoughts.open == thoughts.close) {
    refuse("token " + std::to_string(thoughts.open) + " both opens and closes a thought; give two marks");
  }
  const bool constrained = !request.grammar.empty();
  if (constrained && request.stop.empty()) refuse("a constrained text needs a stop token to end with; give 'stop'");
  if ((constrained || !request.stop_texts.empty()) && engine.token_bytes() == nullptr) {
    refuse("this bundle has no token-bytes table, which stop texts and grammars need; start the runner with "
           "--token-bytes FILE");
  }
}

}  // namespace edge_mtp
