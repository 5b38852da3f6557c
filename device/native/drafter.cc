#include "drafter.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>

#include "mask.h"
#include "param_tensor.h"
#include "select.h"

namespace edge_mtp {
namespace {

const std::vector<std::string> kFoldedOwn = {"mask"};
// These ports of the stock drafter have the same names as the target's but need other memory; it shares the KV cache.
const std::vector<std::string> kStepwiseOwn = {"mask", "activations", "input_pos", "param_tensor", "logits",
                                               "projected_activations"};

// Runs all K steps in one invocation; inside the graph, each step passes its token and hidden state to the next.
class FoldedDrafter : public Drafter {
 public:
  FoldedDrafter(Engine& engine, BufferPool& pool) {
    for (const auto& [length, signature] : engine.folded_drafts()) {
      lengths_.push_back(length);
      bound_[length] = std::make_unique<Bound>(engine.decoder(), *signature, pool);
    }
  }

  const std::vector<int32_t>& lengths() const override { return lengths_; }

  void draft(int32_t token, int32_t position, int32_t count, Bounds*, Proposal& proposal) override {
    Bound& bound = *bound_.at(count);
    *bound.token = token;
    *bound.input_pos = position - 1;
    bound.control[EDGE_CONTROL_POSITION] = position + 1;
    bound.mask.show(position, 0);
    bound.call.run();
    bound.drafted.fetch();
    bound.sure.fetch();
    for (int32_t j = 0; j < count && bound.draft[j] >= 0; ++j) {  // below 0: the op failed, and there are no more
      proposal.add(bound.draft[j], bound.confidence[j], Source::kDrafter);
    }
  }

 private:
  struct Bound {
    Bound(const Graph& graph, const Signature& signature, BufferPool& pool)
        : call(graph, signature, pool, kFoldedOwn),
          mask(call),
          token(call.input<int32_t>("token")),
          input_pos(call.input<int32_t>("input_pos")),
          control(call.input<int32_t>("control")),
          drafted(call.output_block("draft")),
          sure(call.output_block("confidence")),
          draft(static_cast<const int32_t*>(drafted.host())),
          confidence(static_cast<const float*>(sure.host())) {}
    Call call;
    Mask mask;
    int32_t *token, *input_pos, *control;
    Block &drafted, &sure;
    const int32_t* draft;
    const float* confidence;
  };

  std::vector<int32_t> lengths_;
  std::map<int32_t, std::unique_ptr<Bound>> bound_;
};

// Runs one step per invocation, as the stock runtime does. Bounds can mask every step. Text that they force is fed to
// the drafter too, so that later drafts continue it.
class StepwiseDrafter : public Drafter {
 public:
  StepwiseDrafter(Engine& engine, BufferPool& pool)
      : engine_(engine),
        call_(*engine.drafter(), engine.drafter()->signatures().at(0), pool, kStepwiseOwn),
        mask_(call_),
        written_(call_),
        activations_(call_.input<float>("activations")),
        input_pos_(call_.input<int32_t>("input_pos")),
        logits_(call_.output<float>("logits")),
        projected_(call_.output<float>("projected_activations")),
        hidden_(static_cast<const float*>(pool.take("activations"))),
        control_(static_cast<int32_t*>(pool.take("control"))),
        scalars_(static_cast<float*>(pool.take("scalars"))),
        lengths_(static_cast<size_t>(engine.max_drafts())),
        allowed_(static_cast<size_t>(edge_mask_words(engine.vocabulary()))),
        ids_(static_cast<size_t>(engine.vocabulary())),
        scratch_(edge_select_scratch_bytes(engine.vocabulary()) / sizeof(uint64_t) + 1) {
    std::iota(lengths_.begin(), lengths_.end(), 1);
    std::iota(ids_.begin(), ids_.end(), 0);
  }

  const std::vector<int32_t>& lengths() const override { return lengths_; }

  void draft(int32_t token, int32_t position, int32_t count, Bounds* bounds, Proposal& proposal) override {
    const auto width = static_cast<size_t>(engine_.hidden_size());
    control_[EDGE_CONTROL_POSITION] = position + 1;
    *input_pos_ = position - 1;
    mask_.show(position, 0);
    written_.set(position - 1, position);  // it writes nothing; the stock runtime passes this
    const float* hidden = hidden_;
    int32_t taken = 0;
    for (int32_t j = 0; j < count; ++j) {
      engine_.embedder().row(token, activations_);
      std::copy_n(hidden, width, activations_ + width);
      call_.run();
      hidden = projected_;
      float confidence = 1.0f;
      Source source = Source::kDrafter;
      token = choose(j, bounds, confidence, source);
      if (token < 0) break;
      proposal.add(token, confidence, source);
      if (bounds == nullptr) continue;
      if (!bounds->accept(token)) break;
      ++taken;
      if (bounds->finished()) break;
    }
    if (bounds != nullptr) bounds->rollback(taken);
  }

 private:
  int32_t choose(int32_t step, Bounds* bounds, float& confidence, Source& source) {
    if (bounds != nullptr && bounds->binds()) {
      bounds->forced(1, forced_);
      if (!forced_.empty()) {
        source = Source::kGrammar;
        return forced_.front();
      }
      bounds->mask(allowed_.data());
      for (int32_t v = 0; v < engine_.vocabulary(); ++v) {
        if ((static_cast<uint32_t>(allowed_[static_cast<size_t>(v / 32)]) >> (v % 32) & 1) == 0) logits_[v] = -kInfinity;
      }
    }
    return edge_draft(logits_, ids_.data(), engine_.vocabulary(), control_, scalars_, step, scratch_.data(),
                      &confidence);
  }

  static constexpr float kInfinity = std::numeric_limits<float>::infinity();

  Engine& engine_;
  Call call_;
  Mask mask_;
  ParamTensor written_;
  float* activations_;  // [token embedding | hidden]
  int32_t* input_pos_;
  float* logits_;
  const float* projected_;
  const float* hidden_;  // row 0 of the target's activations
  int32_t* control_;
  float* scalars_;
  std::vector<int32_t> lengths_, allowed_, ids_, forced_;
  std::vector<uint64_t> scratch_;
};

}  // namespace

void Drafter::reserve(const Engine& engine, BufferPool& pool) {
  for (const auto& [length, signature] : engine.folded_drafts()) {
    Call::reserve(engine.decoder(), *signature, pool, kFoldedOwn);
  }
  const Graph* const stepwise = engine.drafter();
  if (stepwise != nullptr) Call::reserve(*stepwise, stepwise->signatures().at(0), pool, kStepwiseOwn);
}

std::unique_ptr<Drafter> Drafter::create(Engine& engine, BufferPool& pool) {
  if (!engine.folded_drafts().empty()) return std::make_unique<FoldedDrafter>(engine, pool);
  if (engine.drafter() != nullptr && engine.max_drafts() > 0) return std::make_unique<StepwiseDrafter>(engine, pool);
  return nullptr;
}

}  // namespace edge_mtp
