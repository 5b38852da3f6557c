#include "selection.h"

#include <algorithm>
#include <string>
#include <utility>

#include "error.h"
#include "select.h"

namespace edge_mtp {

void refuse_selection(int32_t error, int32_t position) {
  const std::string where = " at position " + std::to_string(position);
  switch (error) {
    case EDGE_ERROR_NAN:
      throw Error("the model's logits are not a number" + where + "; the graph or its precision is broken");
    case EDGE_ERROR_EMPTY:
      throw Error("no token is allowed" + where + "; loosen the grammar, the bias or the suppressed tokens");
    case EDGE_ERROR_PARAMETER:
      throw Error("the sampling parameters are out of range: temperature > 0, top_k >= 0, 0 < top_p <= 1, "
                  "0 <= min_p < 1");
    default:
      throw Error("the verify op of this bundle cannot serve the request" + where + "; export the bundle again");
  }
}

Selection::Selection(Engine& engine, Decoder& decoder)
    : engine_(engine), decoder_(decoder), processors_(engine.vocabulary()) {
  mask_.resize(static_cast<size_t>(edge_mask_words(engine.vocabulary())));
  tokens_.resize(kMaxDrafts + 1);
  scratch_.resize(edge_select_scratch_bytes(engine.vocabulary()) / sizeof(uint64_t) + 1);
}

void Selection::begin(const Request& request) {
  processors_.begin(request.processing, request.prompt);
  processes_ = !request.processing.empty();
  if (processes_) row_.resize(static_cast<size_t>(engine_.vocabulary()));
  stop_ = request.stop;
  stop_text_.reset();
  if (!request.stop_texts.empty()) stop_text_.emplace(*engine_.token_bytes(), request.stop_texts);
  thought_.reset();
  if (request.thoughts.open >= 0) thought_.emplace(request.thoughts, request.prompt);
  bind(request);

  const Sampling& sampling = request.sampling;
  verify_flags_ = sampling.temperature > 0.0f ? EDGE_FLAG_SAMPLE : 0;
  draft_flags_ = request.couple_drafts ? verify_flags_ : 0;
  int32_t* control = decoder_.control();
  control[EDGE_CONTROL_TOP_K] = sampling.top_k;
  control[EDGE_CONTROL_SEED_LOW] = static_cast<int32_t>(static_cast<uint32_t>(sampling.seed));
  control[EDGE_CONTROL_SEED_HIGH] = static_cast<int32_t>(static_cast<uint32_t>(sampling.seed >> 32));
  float* scalars = decoder_.scalars();
  scalars[EDGE_SCALAR_TEMPERATURE] = sampling.temperature;
  scalars[EDGE_SCALAR_TOP_P] = sampling.top_p;
  scalars[EDGE_SCALAR_MIN_P] = sampling.min_p;
}

// Sets the bounds: the grammar, compiled if it is new, and the budget of the thoughts.
void Selection::bind(const Request& request) {
  bounds_.reset();
  std::optional<Constraint> grammar;
  if (!request.grammar.empty()) {
    if (compiler_ == nullptr || compiler_stop_ != request.stop) {
      compiler_ = std::make_unique<GrammarCompiler>(*engine_.token_bytes(), request.stop);
      compiler_stop_ = request.stop;
    }
    if (request.fresh) compiler_->forget();
    grammar.emplace(*compiler_, request.grammar);
  }
  const bool limits = thought_ && thought_->limited();
  if (grammar || limits) {
    bounds_.emplace(engine_.vocabulary(), std::move(grammar), limits ? thought_ : std::nullopt);
  }
}

Selected Selection::select(int32_t rows, int32_t position, const Proposal& proposal) {
  const bool serves = !engine_.verifies_greedily() || verify_flags_ == 0;
  const bool inside = rows > 1 && decoder_.verifies_inside() && serves && !processes_ && !bounds_;
  return inside ? take_selected(rows, position) : select_on_host(position, proposal);
}

// What the op inside the graph selected, up to the text's end. Rows behind that are not part of the text, whatever
// failed there.
Selected Selection::take_selected(int32_t rows, int32_t position) {
  Selected selected;
  selected.tokens = decoder_.tokens();
  const int32_t accepted = decoder_.accepted();
  int32_t given = accepted + 1;
  if (accepted == EDGE_ERROR_NAN || accepted == EDGE_ERROR_EMPTY) {  // in the first row that has no token
    for (given = 0; given < rows && selected.tokens[given] >= 0;) ++given;
  }
  while (selected.count < given && !selected.ended) selected.ended = ends(selected.tokens[selected.count++]);
  if (accepted < 0 && !selected.ended) refuse_selection(accepted, position + std::max(given, 0));
  selected.accepted = selected.ended && accepted < 0 ? selected.count : accepted;
  return selected;
}

// edge_verify on the host, row by row up to the text's end, for what the op inside the graph does not serve.
Selected Selection::select_on_host(int32_t position, const Proposal& proposal) {
  // Greedy rows that the op did select, before anything changed their logits, need not be searched again.
  const int32_t known_rows = processes_ || verify_flags_ != 0 ? 0 : decoder_.greedy_rows();
  Selected selected;
  for (int32_t row = 0;; ++row) {
    const auto at = static_cast<size_t>(row);
    const int32_t known_token = row < known_rows ? decoder_.tokens()[row] : -1;
    tokens_[at] = select_row(row, position + row, known_token);
    const bool matches = row < proposal.count && tokens_[at] == proposal.tokens[at];
    selected.accepted = row + (matches ? 1 : 0);
    selected.count = row + 1;
    selected.ended = ends(tokens_[at]);
    if (selected.ended || !matches) break;
  }
  selected.tokens = tokens_.data();
  return selected;
}

// The token of one row, under the processors, which see the row's own draft prefix, and the bounds, which have taken
// that prefix and take the token too. `token` is what the row selects without either, or -1 when not known.
int32_t Selection::select_row(int32_t row, int32_t position, int32_t token) {
  const int32_t vocabulary = engine_.vocabulary();
  if (processes_) {
    std::copy_n(decoder_.logits(row), vocabulary, row_.data());
    processors_.apply(row_.data());
  }
  int32_t* control = decoder_.control();
  const auto select = [&](const int32_t* mask) {
    // An accelerator's logits are fetched only here: a row whose token is known needs none.
    const float* logits = processes_ ? row_.data() : decoder_.logits(row);
    control[EDGE_CONTROL_FLAGS] = verify_flags_ | (mask == nullptr ? 0 : EDGE_FLAG_MASK);
    return edge_select(logits, vocabulary, control, decoder_.scalars(), mask, position, scratch_.data());
  };
  // The largest logit is the largest allowed one wherever it is allowed: then no mask is needed, and a model that
  // follows its grammar hardly ever needs one. A drawn token depends on all that is allowed.
  const bool greedy = verify_flags_ == 0;
  const bool bound = bounds_ && bounds_->binds();
  if (token < 0 && (greedy || !bound)) token = select(nullptr);
  if (bound && !(greedy && token >= 0 && bounds_->accept(token))) {
    bounds_->mask(mask_.data());
    token = select(mask_.data());
    if (token >= 0) bounds_->accept(token);
  } else if (bounds_ && !bound && token >= 0) {
    bounds_->accept(token);
  }
  if (token < 0) refuse_selection(token, position);
  if (processes_) processors_.push(token);
  return token;
}

// Whether the text ends with `token`, the next that is given out. No stop text ends it in a thought or its marks.
bool Selection::ends(int32_t token) {
  if (std::find(stop_.begin(), stop_.end(), token) != stop_.end()) return true;
  if (thought_) {
    const bool was_inside = thought_->inside();
    thought_->push(token);
    if (stop_text_ && thought_->inside() && !was_inside) stop_text_->reset();
    if (was_inside || thought_->is_mark(token)) return false;
  }
  return stop_text_ && stop_text_->push(token) >= 0;
}

}  // namespace edge_mtp
