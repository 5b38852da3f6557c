// One conversation on an engine: the KV cache and the decode loop.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "engine.h"
#include "select.h"

namespace edge_mtp {

struct Sampling {
  float temperature = 0.0f;  // 0 = greedy
  int32_t top_k = 0;         // 0 = off
  float top_p = 1.0f;
  float min_p = 0.0f;
  uint64_t seed = 0;
};

struct Request {
  std::vector<int32_t> prompt;  // token ids, at least one
  std::vector<int32_t> stop;    // a token that ends the text; it is the last one given out
  int32_t max_tokens = 0;       // of output
  int32_t draft_length = 0;     // K; 0 = plain decoding
  bool couple_drafts = false;   // when sampling: draft with the same uniform numbers, not the likeliest token
  Sampling sampling;
};

// What one step did. Pointers are valid during the callback.
struct Step {
  enum class Kind { kPlain, kVerify };
  Kind kind;
  int32_t position;         // of the first token below
  int32_t drafted;          // drafts proposed
  int32_t accepted;         // of them, matched by the target
  const int32_t* draft;     // [drafted]
  const float* confidence;  // [drafted], of the drafter
  int32_t count;            // tokens given out: accepted + 1, fewer when the text ends inside the step
  const int32_t* tokens;    // [count]
  double draft_us, embed_us, verify_us, select_us, total_us;
};

enum class Finish { kStop, kLength, kContext, kCancelled };

struct Outcome {
  Finish finish;
  int32_t prompt_tokens, tokens;
  double prefill_us, total_us;
};

class Session {
 public:
  explicit Session(Engine& engine);

  // Runs `request` on a fresh context, calling `on_step` after every step. Throws Error on a request that the
  // bundle cannot serve (before any work) and on non-finite logits.
  Outcome generate(const Request& request, const std::function<void(const Step&)>& on_step);

  // Ends a running generate() at the next step; callable from another thread.
  void cancel() { cancelled_ = true; }

 private:
  // The additive attention mask of one signature, kept from step to step: only columns that change are written.
  class Mask {
   public:
    Mask(Call& call);
    // Row r sees cache entries 0 .. first + r * grow - 1.
    void show(int32_t first, int32_t grow);

   private:
    float* values_;
    int32_t columns_;
    std::vector<int32_t> visible_;
  };

  struct Bound {
    Bound(const Graph& graph, const Signature& signature, BufferPool& pool);
    Call call;
    Mask mask;
  };

  void check(const Request& request) const;
  void prepare(const Request& request);
  void prefill(const std::vector<int32_t>& prompt);
  int32_t draft_length(const Request& request, int32_t remaining) const;
  Step plain_step();
  Step speculative_step(int32_t drafts);
  void embed(int32_t row, int32_t token);
  void positions(int32_t rows);

  Engine& engine_;
  BufferPool pool_;
  std::map<int32_t, std::unique_ptr<Bound>> prefill_, draft_, verify_;  // by length, K, K
  std::unique_ptr<Bound> decode_;
  std::atomic<bool> cancelled_{false};

  // Memory shared by the graphs, by port name.
  float *embeddings_, *per_layer_ = nullptr, *activations_, *logits_, *confidence_ = nullptr;
  int32_t *input_pos_, *control_, *draft_tokens_ = nullptr;
  float* scalars_;
  int32_t verify_flags_ = 0, draft_flags_ = 0;  // of control_, for the two halves of a step
  std::vector<uint64_t> scratch_;

  int32_t position_ = 0;  // of pending_, which is confirmed and not yet cached: entries 0 .. position_-1 are
  int32_t pending_ = 0;
  int32_t selected_ = 0;  // the token of a plain step
};

}  // namespace edge_mtp
