#include "session.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "error.h"

namespace edge_mtp {
namespace {

constexpr float kHidden = -1e4f;
// Rows of a mask differ between the graphs; everything else is shared by name.
const std::vector<std::string> kOwnPorts = {"mask"};

class Clock {
 public:
  // Microseconds since the last lap, or since the start.
  double lap() { return since(std::exchange(last_, std::chrono::steady_clock::now())); }
  double elapsed() const { return since(start_); }

 private:
  static double since(std::chrono::steady_clock::time_point then) {
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - then).count();
  }

  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now(), last_ = start_;
};

[[noreturn]] void refuse_selection(int32_t error, int32_t position) {
  const std::string where = " at position " + std::to_string(position);
  switch (error) {
    case EDGE_ERROR_NAN:
      throw Error("the model's logits are not a number" + where + "; the graph or its precision is broken");
    case EDGE_ERROR_EMPTY:
      throw Error("no token is allowed" + where);
    case EDGE_ERROR_PARAMETER:
      throw Error("the sampling parameters are out of range: temperature > 0, top_k >= 0, 0 < top_p <= 1, "
                  "0 <= min_p < 1");
    default:
      throw Error("the verify op of this bundle cannot serve the request" + where + "; export the bundle again");
  }
}

}  // namespace

Session::Mask::Mask(Call& call)
    : values_(call.input<float>("mask")), columns_(call.signature().input("mask")->dimension(3)) {
  const int32_t rows = call.signature().input("mask")->dimension(2);
  visible_.assign(static_cast<size_t>(rows), 0);
  std::fill_n(values_, static_cast<size_t>(rows) * static_cast<size_t>(columns_), kHidden);
}

void Session::Mask::show(int32_t first, int32_t grow) {
  for (size_t r = 0; r < visible_.size(); ++r) {
    const int32_t want = std::min(first + static_cast<int32_t>(r) * grow, columns_);
    float* row = values_ + r * static_cast<size_t>(columns_);
    std::fill(row + std::min(visible_[r], want), row + want, 0.0f);
    std::fill(row + want, row + std::max(visible_[r], want), kHidden);
    visible_[r] = want;
  }
}

Session::Bound::Bound(const Graph& graph, const Signature& signature, BufferPool& pool)
    : call(graph, signature, pool, kOwnPorts), mask(call) {}

Session::Session(Engine& engine) : engine_(engine) {
  const Graph& graph = engine.decoder();
  const std::string decode = graph.signature("edge_decode") != nullptr ? "edge_decode" : "decode";
  std::vector<const Signature*> used = {graph.signature(decode)};
  for (const Signature& signature : graph.signatures()) {
    if (signature.name.rfind("prefill", 0) == 0) used.push_back(&signature);
  }
  for (const int32_t k : engine.draft_lengths()) {
    used.push_back(graph.signature("edge_draft_" + std::to_string(k)));
    used.push_back(graph.signature("edge_verify_" + std::to_string(k + 1)));
  }
  for (const Signature* signature : used) {
    for (const Port& port : signature->inputs) pool_.reserve(Call::block_name(*signature, port, kOwnPorts), port.bytes);
    for (const Port& port : signature->outputs) pool_.reserve(Call::block_name(*signature, port, kOwnPorts), port.bytes);
  }
  pool_.reserve("control", EDGE_CONTROL_LENGTH * sizeof(int32_t));
  pool_.reserve("scalars", EDGE_SCALAR_LENGTH * sizeof(float));
  const auto bind = [&](const std::string& name) {
    return std::make_unique<Bound>(graph, *graph.signature(name), pool_);
  };
  decode_ = bind(decode);
  for (const Signature& signature : graph.signatures()) {
    if (signature.name.rfind("prefill", 0) != 0) continue;
    prefill_[signature.input("input_pos")->dimension(0)] = bind(signature.name);
  }
  for (const int32_t k : engine.draft_lengths()) {
    draft_[k] = bind("edge_draft_" + std::to_string(k));
    verify_[k] = bind("edge_verify_" + std::to_string(k + 1));
  }

  embeddings_ = decode_->call.input<float>("embeddings");
  if (engine.per_layer_embedder() != nullptr) per_layer_ = decode_->call.input<float>("per_layer_embeddings");
  input_pos_ = decode_->call.input<int32_t>("input_pos");
  logits_ = decode_->call.output<float>("logits");
  control_ = static_cast<int32_t*>(pool_.take("control"));
  scalars_ = static_cast<float*>(pool_.take("scalars"));
  activations_ = draft_.empty() ? nullptr : decode_->call.output<float>("activations");
  if (!draft_.empty()) {
    draft_tokens_ = draft_.begin()->second->call.output<int32_t>("draft");
    confidence_ = draft_.begin()->second->call.output<float>("confidence");
  }
  scratch_.resize(edge_select_scratch_bytes(engine.vocabulary()) / sizeof(uint64_t) + 1);
}

Outcome Session::generate(const Request& request, const std::function<void(const Step&)>& on_step) {
  check(request);
  cancelled_ = false;
  Clock whole;
  Outcome outcome{Finish::kLength, static_cast<int32_t>(request.prompt.size()), 0, 0.0, 0.0};
  prepare(request);
  prefill(request.prompt);
  outcome.prefill_us = whole.lap();

  bool hidden_known = false;  // the drafter needs the hidden state that a first plain step leaves behind
  while (outcome.tokens < request.max_tokens) {
    if (cancelled_) {
      outcome.finish = Finish::kCancelled;
      break;
    }
    if (position_ >= engine_.context_length()) {
      outcome.finish = Finish::kContext;
      break;
    }
    const int32_t drafts = hidden_known ? draft_length(request, request.max_tokens - outcome.tokens) : 0;
    Step step = drafts > 0 ? speculative_step(drafts) : plain_step();
    hidden_known = true;

    const int32_t* end = step.tokens + step.count;
    const int32_t* stop = std::find_first_of(step.tokens, end, request.stop.begin(), request.stop.end());
    if (stop != end) step.count = static_cast<int32_t>(stop - step.tokens) + 1;
    position_ += step.count;
    pending_ = step.tokens[step.count - 1];
    outcome.tokens += step.count;
    step.total_us = whole.lap();
    on_step(step);
    whole.lap();  // the receiver's time is not the step's
    if (stop != end) {
      outcome.finish = Finish::kStop;
      break;
    }
  }
  outcome.total_us = whole.elapsed();
  return outcome;
}

// The whole of plain decoding: one row, one invocation, one selection.
Step Session::plain_step() {
  Clock clock;
  Step step{Step::Kind::kPlain, position_ + 1, 0, 0, nullptr, nullptr, 1, &selected_, 0, 0, 0, 0, 0};
  embed(0, pending_);
  positions(1);
  decode_->mask.show(position_ + 1, 1);
  step.embed_us = clock.lap();
  decode_->call.run();
  step.verify_us = clock.lap();
  control_[EDGE_CONTROL_FLAGS] = verify_flags_;
  selected_ = edge_select(logits_, engine_.vocabulary(), control_, scalars_, nullptr, position_ + 1, scratch_.data());
  if (selected_ < 0) refuse_selection(selected_, position_ + 1);
  step.select_us = clock.lap();
  return step;
}

// The whole of speculative decoding: draft K tokens, verify them in K + 1 rows, keep what the target agrees with
// and the token it chose next.
Step Session::speculative_step(int32_t drafts) {
  Clock clock;
  Bound& draft = *draft_.at(drafts);
  Bound& verify = *verify_.at(drafts);
  Step step{Step::Kind::kVerify, position_ + 1, drafts, 0, draft_tokens_, confidence_, 0, nullptr, 0, 0, 0, 0, 0};

  *draft.call.input<int32_t>("token") = pending_;
  *input_pos_ = position_ - 1;
  control_[EDGE_CONTROL_POSITION] = position_ + 1;
  control_[EDGE_CONTROL_FLAGS] = draft_flags_;
  draft.mask.show(position_, 0);
  draft.call.run();  // leaves K tokens where the verify graph reads them
  step.draft_us = clock.lap();

  embed(0, pending_);
  for (int32_t j = 0; j < drafts; ++j) embed(j + 1, std::max(draft_tokens_[j], 0));
  positions(drafts + 1);
  control_[EDGE_CONTROL_FLAGS] = verify_flags_;
  verify.mask.show(position_ + 1, 1);
  step.embed_us = clock.lap();
  verify.call.run();
  step.verify_us = clock.lap();

  step.accepted = *verify.call.output<int32_t>("n_accepted");
  step.tokens = verify.call.output<int32_t>("tokens");
  if (step.accepted < 0) refuse_selection(step.accepted, position_ + 1);
  step.count = step.accepted + 1;
  // The next draft starts from the hidden state of the last row that counted; it reads row 0 of the same memory.
  const auto width = static_cast<size_t>(engine_.hidden_size());
  if (step.accepted > 0) std::copy_n(activations_ + static_cast<size_t>(step.accepted) * width, width, activations_);
  return step;
}

void Session::check(const Request& request) const {
  const auto refuse = [](const std::string& what) { throw Error(what); };
  const int32_t context = engine_.context_length();
  const Sampling& sampling = request.sampling;
  if (request.prompt.empty()) refuse("the prompt is empty; give at least one token");
  if (request.prompt.size() >= static_cast<size_t>(context)) {
    refuse("the prompt has " + std::to_string(request.prompt.size()) + " tokens and the bundle's context holds " +
           std::to_string(context) + "; shorten it or export with a larger --context");
  }
  for (const int32_t token : request.prompt) {
    if (token < 0 || token >= engine_.vocabulary()) {
      refuse("token " + std::to_string(token) + " is outside the vocabulary of " +
             std::to_string(engine_.vocabulary()));
    }
  }
  if (request.max_tokens < 1) refuse("max_tokens is " + std::to_string(request.max_tokens) + "; give at least 1");
  if (request.draft_length != 0 && draft_.count(request.draft_length) == 0) {
    if (draft_.empty()) {
      refuse("this bundle has no edge_draft and edge_verify signatures (exported with --lean?); use draft length 0");
    }
    refuse("draft length " + std::to_string(request.draft_length) + " is not in this bundle; it has " +
           std::to_string(draft_.begin()->first) + " to " + std::to_string(draft_.rbegin()->first));
  }
  if (!(sampling.temperature >= 0.0f) || sampling.temperature > 1e6f || sampling.top_k < 0 ||
      !(sampling.top_p > 0.0f && sampling.top_p <= 1.0f) || !(sampling.min_p >= 0.0f && sampling.min_p < 1.0f)) {
    refuse_selection(EDGE_ERROR_PARAMETER, 0);
  }
}

void Session::prepare(const Request& request) {
  const Sampling& sampling = request.sampling;
  verify_flags_ = sampling.temperature > 0.0f ? EDGE_FLAG_SAMPLE : 0;
  draft_flags_ = request.couple_drafts ? verify_flags_ : 0;
  control_[EDGE_CONTROL_TOP_K] = sampling.top_k;
  control_[EDGE_CONTROL_SEED_LOW] = static_cast<int32_t>(static_cast<uint32_t>(sampling.seed));
  control_[EDGE_CONTROL_SEED_HIGH] = static_cast<int32_t>(static_cast<uint32_t>(sampling.seed >> 32));
  scalars_[EDGE_SCALAR_TEMPERATURE] = sampling.temperature;
  scalars_[EDGE_SCALAR_TOP_P] = sampling.top_p;
  scalars_[EDGE_SCALAR_MIN_P] = sampling.min_p;
}

// Caches all of the prompt but its last token, which stays pending.
void Session::prefill(const std::vector<int32_t>& prompt) {
  const auto cached = static_cast<int32_t>(prompt.size()) - 1;
  position_ = 0;
  while (position_ < cached) {
    // The longest chunk that the rest fills, else the shortest that holds it; a padded chunk must not reach past
    // the cache, where LiteRT would shift the whole write back onto valid entries.
    const int32_t rest = cached - position_;
    Bound* chunk = nullptr;
    int32_t rows = 0;
    for (const auto& [length, bound] : prefill_) {
      if (position_ + length > engine_.context_length() || (chunk != nullptr && length > rest)) break;
      chunk = bound.get();
      rows = length;
    }
    if (chunk == nullptr) {
      chunk = decode_.get();
      rows = 1;
    }
    const int32_t count = std::min(rows, rest);
    for (int32_t r = 0; r < count; ++r) embed(r, prompt[static_cast<size_t>(position_ + r)]);
    // Padding rows repeat the first: their entries lie past the context's end, hidden until overwritten, and need
    // only be finite.
    for (int32_t r = count; r < rows; ++r) embed(r, prompt[static_cast<size_t>(position_)]);
    positions(rows);
    chunk->mask.show(position_ + 1, 1);
    chunk->call.run();
    position_ += count;
  }
  pending_ = prompt.back();
}

// The longest usable draft within what is asked for, what may still be given out, and what the cache holds.
int32_t Session::draft_length(const Request& request, int32_t remaining) const {
  const int32_t most = std::min({request.draft_length, remaining - 1, engine_.context_length() - position_ - 1});
  const auto above = draft_.upper_bound(most);
  return above == draft_.begin() ? 0 : std::prev(above)->first;
}

void Session::embed(int32_t row, int32_t token) {
  Embedder& embedder = engine_.embedder();
  embedder.row(token, embeddings_ + static_cast<size_t>(row) * embedder.width());
  if (Embedder* per_layer = engine_.per_layer_embedder(); per_layer != nullptr) {
    per_layer->row(token, per_layer_ + static_cast<size_t>(row) * per_layer->width());
  }
}

void Session::positions(int32_t rows) {
  for (int32_t r = 0; r < rows; ++r) input_pos_[r] = position_ + r;
}

}  // namespace edge_mtp
