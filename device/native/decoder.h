// The target's graphs on one session's memory: the KV cache, and the rows of inputs and outputs.
//
// Runs a bundle's edge_* signatures, which contain the verify op. If the bundle has none, runs the stock ones
// (`decode`, `verify`), and the caller selects tokens from the logits.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine.h"
#include "graph.h"
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
  void run() { placed_->call.run(); }

  // The logits of a row, [vocabulary].
  float* logits(int32_t row) { return logits_ + static_cast<size_t>(row) * static_cast<size_t>(vocabulary_); }
  // After a pass wider than 1, if verifies_inside(): the number of accepted drafts or an EDGE_ERROR, and the tokens.
  bool verifies_inside() const { return inside_; }
  int32_t accepted() const { return *n_accepted_; }
  const int32_t* tokens() const { return tokens_; }
  // Makes the next draft start from the hidden state of `row`.
  void keep_hidden(int32_t row);

  // The operands of our ops: int32 [8], float [4]. The op's mask stays unused: a row's mask is wanted only where the
  // row's own choice is not allowed, which is known after the run (Selection::select_row).
  int32_t* control() { return control_; }
  float* scalars() { return scalars_; }

 private:
  struct Bound {
    Bound(const Graph& graph, const Signature& signature, BufferPool& pool);
    Call call;
    Mask mask;
    ParamTensor written;
  };

  void embed(int32_t row, int32_t token);
  void set_positions(Bound& bound, int32_t first, int32_t count, int32_t rows);

  Engine& engine_;
  std::vector<int32_t> prefill_lengths_, widths_;
  std::unique_ptr<Bound> decode_;
  std::map<int32_t, std::unique_ptr<Bound>> prefill_, verify_;  // by rows
  Bound* placed_ = nullptr;
  bool inside_ = false;
  int32_t vocabulary_;

  // Memory that the graphs share, by port name.
  float *embeddings_, *per_layer_ = nullptr, *activations_ = nullptr, *logits_;
  int32_t *input_pos_, *control_, *draft_ = nullptr, *n_accepted_ = nullptr, *tokens_ = nullptr;
  float* scalars_;
};

}  // namespace edge_mtp
