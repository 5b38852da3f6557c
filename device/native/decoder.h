// Passes through the target on a session's memory: the KV cache, and the rows of inputs and outputs.
//
// Runs a bundle's signatures for the engine's accelerator, which contain the verify op. If the bundle has none, runs
// the stock ones (`decode`, `verify`), and the caller selects tokens from the logits.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine.h"
#include "graph.h"
#include "kv_cache.h"
#include "mask.h"
#include "param_tensor.h"
#include "proposal.h"

namespace edge_mtp {

class Decoder {
 public:
  // Reserves the memory. Every user of the pool must do so before the first user is constructed.
  static void reserve(const Engine& engine, BufferPool& pool);
  Decoder(Engine& engine, BufferPool& pool);

  // The rows of each prefill graph, and the T of each verify graph, ascending.
  const std::vector<int32_t>& prefill_lengths() const { return prefill_lengths_; }
  const std::vector<int32_t>& widths() const { return widths_; }

  // Caches tokens[0..count) at positions first.. with the prefill graph of `rows` >= count rows (1: decode).
  // first + rows must not exceed the context.
  void prefill(const int32_t* tokens, int32_t count, int32_t first, int32_t rows);
  // Prepares a step in the graph of `width` rows (1: decode; else one of widths(), above proposal.count): `token` at
  // `position`, followed by the drafts. run() then caches them and computes each row's outputs.
  void place(int32_t token, const Proposal& proposal, int32_t position, int32_t width);
  void run();

  // The logits of a row, [vocabulary].
  float* logits(int32_t row);
  // After a pass wider than 1, if verifies_inside(): the number of accepted drafts or an EDGE_ERROR, and the tokens.
  bool verifies_inside() const { return inside_; }
  int32_t accepted() const { return *static_cast<const int32_t*>(placed_->n_accepted->host()); }
  const int32_t* tokens() const { return static_cast<const int32_t*>(placed_->tokens->host()); }
  // If nothing but the greedy choice was asked of the graph: the number of leading rows whose tokens it has selected.
  int32_t greedy_rows() const;
  // The hidden states of the pass's rows; nullptr if its graph does not put them out.
  const float* hidden();
  // Makes the next draft start from the hidden state of `row`.
  void keep_hidden(int32_t row);

  // The operands of our ops: int32 [8], float [4]. The op's mask stays unused: a row's mask is wanted only where the
  // row's own choice is not allowed, which is known after the run (Selection::select_row).
  int32_t* control() { return control_; }
  float* scalars() { return scalars_; }

 private:
  // A signature and the host's memory of its ports, which on the CPU is the same for all.
  struct Bound {
    Bound(const Engine& engine, const Signature& signature, BufferPool& pool);
    Call call;
    Mask mask;
    ParamTensor written;
    float *embeddings, *per_layer = nullptr;
    int32_t* input_pos;
    NewRows new_rows;
    // nullptr where the graph has no such port
    Block *logits = nullptr, *activations = nullptr, *draft = nullptr, *n_accepted = nullptr, *tokens = nullptr;
  };

  void embed(Bound& bound, int32_t row, int32_t token);
  void set_positions(Bound& bound, int32_t first, int32_t count, int32_t rows);

  Engine& engine_;
  std::vector<int32_t> prefill_lengths_, widths_;
  std::unique_ptr<Bound> decode_;
  std::map<int32_t, std::unique_ptr<Bound>> prefill_, verify_;  // by rows
  bool inside_ = false;
  int32_t vocabulary_;
  int32_t* control_;
  float* scalars_;
  Block* hidden_ = nullptr;  // its first row is what a draft starts from

  // Of the running step.
  Bound* placed_ = nullptr;
  int32_t position_ = 0, width_ = 1;
};

}  // namespace edge_mtp
