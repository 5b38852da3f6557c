#include "session.h"

#include <algorithm>
#include <array>
#include <utility>

#include "cache_entry.h"
#include "error.h"
#include "select.h"

namespace edge_mtp {
namespace {

constexpr size_t kMostRemembered = 1 << 20;
constexpr char kPrefillCosts[] = ".prefill";
constexpr int32_t kLeastMatch = 3;       // tokens that a look-up must agree on
constexpr float kTrustedLookup = 0.75f;  // a look-up whose first draft is as confident goes before the drafter
constexpr float kTapeConfidence = 0.5f;  // of every draft of a tape; the controller learns that it tells nothing

std::vector<int32_t> draft_lengths(const Drafter* drafter) {
  return drafter == nullptr ? std::vector<int32_t>() : drafter->lengths();
}

}  // namespace

Session::Session(Engine& engine)
    : engine_(engine),
      prefill_plan_([&] {
        std::vector<int32_t> lengths;
        for (const auto& [rows, signature] : engine.prefills()) lengths.push_back(rows);
        return lengths;
      }()),
      kept_prefix_(engine.cache_dir(), engine.identity(), engine.decoder(), engine.decode(), engine.context_length()) {
  Decoder::reserve(engine, pool_);
  Drafter::reserve(engine, pool_);
  decoder_ = std::make_unique<Decoder>(engine, pool_);
  drafter_ = Drafter::create(engine, pool_);
  selection_ = std::make_unique<Selection>(engine, *decoder_);

  chosen_.resize(kMaxDrafts + 1);
  forced_.reserve(kMaxDrafts);
  cached_.reserve(static_cast<size_t>(engine.context_length()) + 1);

  prefill_plan_.restore(read_entry(engine.memory_file(kPrefillCosts), kMostRemembered));
  if (engine.max_drafts() > 0) {
    controller_.emplace(Capabilities{draft_lengths(drafter_.get()), decoder_->widths()});
    controller_->restore(read_entry(engine.memory_file(Engine::kCosts), kMostRemembered));
    calibrate();
  }
}

Session::~Session() { remember(); }

Outcome Session::generate(const Request& request, const std::function<void(const Step&)>& on_step) {
  check(request, engine_);
  cancelled_ = false;
  Clock whole;
  Outcome outcome;
  outcome.prompt_tokens = static_cast<int32_t>(request.prompt.size());
  begin(request, outcome);
  if (!prefill(request.prompt)) {
    outcome.finish = Finish::kCancelled;
    outcome.prefill_us = outcome.total_us = whole.elapsed();
    return outcome;
  }
  outcome.prefill_us = whole.elapsed();

  for (bool ended = false; !ended && outcome.tokens < request.max_tokens;) {
    const int32_t room = engine_.context_length() - static_cast<int32_t>(cached_.size());
    if (cancelled_ || room <= 0) {
      outcome.finish = cancelled_ ? Finish::kCancelled : Finish::kContext;
      break;
    }
    Step done = step(request, std::min({request.draft_length, request.max_tokens - outcome.tokens - 1, room - 1}));
    ended = done.ended;
    if (ended) outcome.finish = Finish::kStop;
    commit(done);
    outcome.tokens += done.count;
    on_step(done);
  }
  outcome.total_us = whole.elapsed();
  if (controller_ && !taped_) {  // a tape's drafts are not the drafter's
    outcome.first_drafts = controller_->first_drafts();
    outcome.first_accepted = controller_->first_accepted();
  }
  // Keeps the prefix where it could not be restored, being absent or damaged, and where an earlier turn left it in the
  // cache but it is not on the disk.
  const int32_t keep = std::min(request.keep_prefix, outcome.prompt_tokens - 1);
  if (keep > 0 && outcome.restored_tokens == 0 &&
      (keep > outcome.reused_tokens || !kept_prefix_.is_kept(request.prompt, keep))) {
    kept_prefix_.keep(request.prompt, keep, pool_);
  }
  return outcome;
}

// Starts the parts that can still refuse the request, then rewinds the cache to what the prompt shares with it.
void Session::begin(const Request& request, Outcome& outcome) {
  selection_->begin(request);
  if (!request.draft_tape.empty() && !taped_) {
    remember();
    taped_ = true;
  }
  if (controller_) controller_->begin();
  looks_up_ = request.use_lookup && request.draft_length > 0;
  if (looks_up_) {
    lookup_.begin(engine_.context_length() + 1);
    for (const int32_t token : request.prompt) lookup_.push(token);
  }

  if (request.fresh) cached_.clear();
  // The last token of the prompt stays pending: a step runs it.
  const auto most = std::min(cached_.size(), request.prompt.size() - 1);
  const auto shared = std::mismatch(cached_.begin(), cached_.begin() + static_cast<std::ptrdiff_t>(most),
                                    request.prompt.begin());
  cached_.erase(shared.first, cached_.end());
  outcome.reused_tokens = static_cast<int32_t>(cached_.size());
  const int32_t keep = std::min(request.keep_prefix, static_cast<int32_t>(request.prompt.size()) - 1);
  if (keep > outcome.reused_tokens && kept_prefix_.restore(request.prompt, keep, pool_)) {
    cached_.assign(request.prompt.begin(), request.prompt.begin() + keep);
    outcome.restored_tokens = keep - outcome.reused_tokens;
  }
  pending_ = request.prompt.back();
  hidden_known_ = false;
}

// Caches all of the prompt but its last token. False when cancelled.
bool Session::prefill(const std::vector<int32_t>& prompt) {
  const auto total = static_cast<int32_t>(prompt.size()) - 1;
  const auto first = static_cast<int32_t>(cached_.size());
  for (const int32_t rows : prefill_plan_.chunks(total - first, first, engine_.context_length())) {
    if (cancelled_) return false;
    const auto at = static_cast<int32_t>(cached_.size());
    const int32_t count = std::min(rows, total - at);
    Clock clock;
    decoder_->prefill(prompt.data() + at, count, at, rows);
    prefill_plan_.observe(rows, clock.elapsed());
    cached_.insert(cached_.end(), prompt.begin() + at, prompt.begin() + at + count);
  }
  return true;
}

// One step: draft up to `most` tokens, run them through the target behind the pending one, keep those that the target
// agrees with and the token it chose next. Without drafts that is plain decoding.
Step Session::step(const Request& request, int32_t most) {
  Clock clock;
  Step step;
  pool_.traffic() = Traffic{};
  step.position = static_cast<int32_t>(cached_.size()) + 1;
  step.proposal = &proposal_;
  propose(request, most, step);
  step.mask_us = clock.lap() - step.draft_us;

  decoder_->place(pending_, proposal_, step.position - 1, step.rows);
  decoder_->control()[EDGE_CONTROL_FLAGS] = engine_.verifies_greedily() ? 0 : selection_->verify_flags();
  step.embed_us = clock.lap();
  decoder_->run();
  step.verify_us = clock.lap();

  const Selected selected = selection_->select(step.rows, step.position, proposal_);
  step.tokens = selected.tokens;
  step.count = selected.count;
  step.accepted = selected.accepted;
  step.ended = selected.ended;
  if (request.logprobs) {
    for (int32_t j = 0; j < step.count; ++j) {
      chosen_[static_cast<size_t>(j)] = describe_choice(decoder_->logits(j), engine_.vocabulary(), step.tokens[j]);
    }
    step.chosen = chosen_.data();
  }
  decoder_->keep_hidden(step.accepted);
  hidden_known_ = true;
  step.traffic = pool_.traffic();
  step.select_us = clock.lap();
  step.total_us = clock.elapsed();
  return step;
}

// Fills the proposal from the sources, cheapest first, and chooses the graph.
void Session::propose(const Request& request, int32_t most, Step& step) {
  Clock clock;
  const int32_t position = step.position - 1;
  // Near the end of the context a graph of the needed width may no longer fit.
  while (most > 0 && position + width_for(most) > engine_.context_length()) --most;
  proposal_.count = proposed_ = 0;
  step.plan = Plan{};
  step.plan.drafts = most;
  if (most <= 0) return;
  if (!request.use_drafter && !request.use_lookup && !request.use_grammar) {
    // Blanks, in the graphs that drafts would take.
    step.rows = hidden_known_ ? width_for(most) : 1;
    return;
  }
  // A drafter that has no hidden state yet can neither draft nor be looked at.
  if (request.adaptive) step.plan = controller_->plan(position, hidden_known_ ? most : 0);

  Bounds* const bounds = selection_->bounds();
  if (bounds != nullptr && request.use_grammar) {
    bounds->forced(most, forced_);
    for (const int32_t token : forced_) proposal_.add(token, 1.0f, Source::kGrammar);
  }
  if (proposal_.count == 0 && looks_up_) lookup_.propose(kLeastMatch, most, proposal_);
  int32_t asked = 0;  // of the drafter
  if (drafter_ != nullptr && request.use_drafter && hidden_known_ && !suffices(request, step.plan)) {
    const std::vector<int32_t>& lengths = drafter_->lengths();
    const auto above = std::upper_bound(lengths.begin(), lengths.end(), step.plan.drafts);
    if (above != lengths.begin()) {
      asked = *std::prev(above);
      proposal_.count = 0;
      decoder_->control()[EDGE_CONTROL_FLAGS] = selection_->draft_flags();
      clock.lap();
      drafter_->draft(pending_, position, asked, bounds, proposal_);
      replay(request, step.position);
      step.draft_us = clock.lap();
    }
  }
  step.plan.drafts = asked;
  constrain(request.use_grammar ? most : 0);
  proposed_ = proposal_.count;
  if (proposal_.count == 0) return;
  if (request.adaptive) proposal_.count = controller_->trim(position, proposal_);
  if (proposal_.count > 0) step.rows = width_for(proposal_.count);
}

// Replaces the drafter's tokens, which stand first in the proposal, by those of the tape from `position` on.
void Session::replay(const Request& request, int32_t position) {
  const auto first = static_cast<size_t>(position) - request.prompt.size();
  for (size_t i = 0; i < static_cast<size_t>(proposal_.count) && first + i < request.draft_tape.size(); ++i) {
    if (proposal_.source[i] != Source::kDrafter) continue;
    proposal_.tokens[i] = request.draft_tape[first + i];
    proposal_.confidence[i] = kTapeConfidence;
  }
}

// Whether the free drafts are better than the drafter's would be.
bool Session::suffices(const Request& request, const Plan& plan) const {
  if (proposal_.count >= plan.drafts) return true;
  if (proposal_.count == 0) return false;
  if (request.adaptive) return controller_->rate(static_cast<int32_t>(cached_.size()), proposal_) >= plan.tokens_per_ms;
  return proposal_.source[0] == Source::kLookup && proposal_.confidence[0] >= kTrustedLookup;
}

// Walks the bounds along the proposal: cuts it at the first token that is not allowed, and appends the tokens that are
// forced from there, up to `most`.
void Session::constrain(int32_t most) {
  Bounds* const bounds = selection_->bounds();
  if (bounds == nullptr) return;
  int32_t taken = 0;
  const auto is_allowed = [&] {
    return taken < proposal_.count && bounds->accept(proposal_.tokens[static_cast<size_t>(taken)]);
  };
  while (!bounds->finished()) {
    if (!is_allowed()) {
      proposal_.count = taken;
      if (taken >= most) break;
      bounds->forced(most - taken, forced_);
      for (const int32_t token : forced_) proposal_.add(token, 1.0f, Source::kGrammar);
      if (!is_allowed()) break;
    }
    ++taken;
  }
  proposal_.count = taken;
  bounds->rollback(taken);
}

// Moves the text on by the step's tokens, and tells the controller how the step went.
void Session::commit(const Step& step) {
  for (int32_t i = 0; i < step.count; ++i) {
    cached_.push_back(pending_);
    pending_ = step.tokens[i];
    if (looks_up_) lookup_.push(pending_);
  }
  if (!controller_) return;
  // Drafts that were cut away teach too: the last token of the step shows whether the next one was right. Those behind
  // the text's end are neither right nor wrong.
  const int32_t shown = step.ended ? std::min(proposed_, step.count) : proposed_;
  const int32_t verified = std::exchange(proposal_.count, shown);
  int32_t right = 0;
  while (right < std::min(shown, step.count) &&
         proposal_.tokens[static_cast<size_t>(right)] == step.tokens[right]) {
    ++right;
  }
  controller_->observe(step.position - 1, step.plan.drafts, step.rows, proposal_, right, step.draft_us,
                       step.total_us - step.draft_us);
  proposal_.count = verified;
}

// The narrowest graph with a row for each draft and the one after them.
int32_t Session::width_for(int32_t drafts) const {
  const std::vector<int32_t>& widths = decoder_->widths();
  return *std::lower_bound(widths.begin(), widths.end(), drafts + 1);
}

// Times the invocations of a step, so that the first reply does not pay for learning their costs: once to check the
// remembered costs, and more often if those do not hold. Runs on an empty cache, whose entries are written again before
// anything reads them.
void Session::calibrate() {
  const std::vector<int32_t> lengths = draft_lengths(drafter_.get());
  const auto timed = [](int32_t times, const auto& body) {
    body();  // the first run of a graph also prepares it
    std::array<double, 3> us{};
    for (int32_t i = 0; i < times; ++i) {
      Clock clock;
      body();
      us[static_cast<size_t>(i)] = clock.elapsed();
    }
    const auto middle = us.begin() + times / 2;
    std::nth_element(us.begin(), middle, us.begin() + times);
    return *middle;
  };
  const auto pass = [&](int32_t rows, int32_t times) {
    return Controller::Timing{rows, 0, timed(times, [&] {
      proposal_.count = 0;
      decoder_->place(0, proposal_, 0, rows);
      decoder_->run();
    })};
  };
  const auto draft = [&](int32_t k, int32_t times) {
    return Controller::Timing{0, k, timed(times, [&] {
      proposal_.count = 0;
      drafter_->draft(0, 1, k, nullptr, proposal_);
    })};
  };
  try {
    if (controller_->calibrated()) {
      std::vector<Controller::Timing> timings{pass(1, 1), pass(decoder_->widths().back(), 1)};
      if (!lengths.empty()) timings.push_back(draft(lengths.back(), 1));
      if (controller_->check(0, timings)) return;
    }
    std::vector<Controller::Timing> timings{pass(1, 3), pass(decoder_->widths().front(), 3)};
    if (decoder_->widths().size() > 1) timings.push_back(pass(decoder_->widths().back(), 3));
    for (size_t i = 0; i < lengths.size(); i += std::max<size_t>(lengths.size() - 1, 1)) {  // shortest and longest
      timings.push_back(draft(lengths[i], 3));
    }
    for (const Controller::Timing& timing : timings) controller_->calibrate(0, timing.rows, timing.k, timing.us);
  } catch (const Error&) {
    // A request that needs the failing graph is told so; the others do not notice.
  }
  remember();  // for the next session of this process too
}

void Session::remember() const {
  if (engine_.cache_dir().empty()) return;
  if (controller_ && !taped_) write_entry(engine_.memory_file(Engine::kCosts), controller_->save());
  write_entry(engine_.memory_file(kPrefillCosts), prefill_plan_.save());
}

}  // namespace edge_mtp
