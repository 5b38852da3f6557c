#include "decoder.h"

#include <algorithm>

#include "select.h"

namespace edge_mtp {
namespace {

// The mask has different rows in each graph; all other ports are shared by name.
const std::vector<std::string> kOwnPorts = {"mask"};

std::vector<int32_t> sizes(const Engine::Sized& signatures) {
  std::vector<int32_t> result;
  for (const auto& [size, signature] : signatures) result.push_back(size);
  return result;
}

}  // namespace

Decoder::Bound::Bound(const Graph& graph, const Signature& signature, BufferPool& pool)
    : call(graph, signature, pool, kOwnPorts), mask(call), written(call) {}

void Decoder::reserve(const Engine& engine, BufferPool& pool) {
  Call::reserve(engine.decode(), pool, kOwnPorts);
  for (const Engine::Sized* kind : {&engine.prefills(), &engine.verifies()}) {
    for (const auto& [size, signature] : *kind) Call::reserve(*signature, pool, kOwnPorts);
  }
  pool.reserve("control", EDGE_CONTROL_LENGTH * sizeof(int32_t));
  pool.reserve("scalars", EDGE_SCALAR_LENGTH * sizeof(float));
}

Decoder::Decoder(Engine& engine, BufferPool& pool)
    : engine_(engine),
      prefill_lengths_(sizes(engine.prefills())),
      widths_(sizes(engine.verifies())),
      inside_(engine.verifies_inside()),
      vocabulary_(engine.vocabulary()) {
  const auto bind = [&](const Signature& signature) {
    return std::make_unique<Bound>(engine.decoder(), signature, pool);
  };
  decode_ = bind(engine.decode());
  for (const auto& [rows, signature] : engine.prefills()) prefill_[rows] = bind(*signature);
  for (const auto& [rows, signature] : engine.verifies()) verify_[rows] = bind(*signature);

  const Call& decode = decode_->call;
  embeddings_ = decode.input<float>("embeddings");
  if (engine.per_layer_embedder() != nullptr) per_layer_ = decode.input<float>("per_layer_embeddings");
  input_pos_ = decode.input<int32_t>("input_pos");
  logits_ = decode.output<float>("logits");
  control_ = static_cast<int32_t*>(pool.take("control"));
  scalars_ = static_cast<float*>(pool.take("scalars"));
  if (decode.signature().output("activations") != nullptr) activations_ = decode.output<float>("activations");
  if (inside_) {
    const Call& widest = verify_.rbegin()->second->call;
    draft_ = widest.input<int32_t>("draft");
    n_accepted_ = widest.output<int32_t>("n_accepted");
    tokens_ = widest.output<int32_t>("tokens");
  }
}

void Decoder::prefill(const int32_t* tokens, int32_t count, int32_t first, int32_t rows) {
  for (int32_t r = 0; r < count; ++r) embed(r, tokens[r]);
  // Padding rows repeat the first token. Their cache entries lie past the end of the text and stay hidden until they
  // are overwritten, so they only need to be finite.
  for (int32_t r = count; r < rows; ++r) embed(r, tokens[0]);
  const auto found = prefill_.find(rows);
  Bound& bound = found == prefill_.end() ? *decode_ : *found->second;
  set_positions(bound, first, count, rows);
  bound.call.run();
}

void Decoder::place(int32_t token, const Proposal& proposal, int32_t position, int32_t width) {
  embed(0, token);
  for (int32_t j = 0; j + 1 < width; ++j) {
    // A blank draft (-1) matches no token, so its row only needs to be finite.
    const int32_t draft = j < proposal.count ? proposal.tokens[static_cast<size_t>(j)] : -1;
    embed(j + 1, std::max(draft, 0));
    if (inside_) draft_[j] = draft;
  }
  control_[EDGE_CONTROL_POSITION] = position + 1;
  placed_ = width == 1 ? decode_.get() : verify_.at(width).get();
  set_positions(*placed_, position, width, width);
}

void Decoder::keep_hidden(int32_t row) {
  if (row == 0 || activations_ == nullptr) return;
  const auto width = static_cast<size_t>(engine_.hidden_size());
  std::copy_n(activations_ + static_cast<size_t>(row) * width, width, activations_);
}

void Decoder::embed(int32_t row, int32_t token) {
  Embedder& embedder = engine_.embedder();
  embedder.row(token, embeddings_ + static_cast<size_t>(row) * embedder.width());
  if (per_layer_ == nullptr) return;
  Embedder& per_layer = *engine_.per_layer_embedder();
  per_layer.row(token, per_layer_ + static_cast<size_t>(row) * per_layer.width());
}

// Sets the positions of `rows` rows, the first `count` of which are not padding.
void Decoder::set_positions(Bound& bound, int32_t first, int32_t count, int32_t rows) {
  for (int32_t r = 0; r < rows; ++r) input_pos_[r] = first + r;
  bound.mask.show(first + 1, 1);
  bound.written.set(first, first + count);
}

}  // namespace edge_mtp
