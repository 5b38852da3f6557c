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

Decoder::Bound::Bound(const Engine& engine, const Signature& signature, BufferPool& pool)
    : call(engine.decoder(), signature, pool, kOwnPorts),
      mask(call),
      written(call),
      embeddings(call.input<float>("embeddings")),
      input_pos(call.input<int32_t>("input_pos")),
      new_rows(call, signature.input("input_pos")->dimension(0), engine.decoder(), engine.decode(),
               engine.context_length(), pool) {
  if (signature.input("per_layer_embeddings") != nullptr) per_layer = call.input<float>("per_layer_embeddings");
  const auto output = [&](const char* name) {
    return signature.output(name) == nullptr ? nullptr : &call.output_block(name);
  };
  logits = output("logits");
  activations = output("activations");
  tokens = output("tokens");
  n_accepted = output("n_accepted");
  if (n_accepted != nullptr) draft = &call.input_block("draft");
}

void Decoder::reserve(const Engine& engine, BufferPool& pool) {
  Call::reserve(engine.decoder(), engine.decode(), pool, kOwnPorts);
  for (const Engine::Sized* kind : {&engine.prefills(), &engine.verifies()}) {
    for (const auto& [size, signature] : *kind) Call::reserve(engine.decoder(), *signature, pool, kOwnPorts);
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
  const auto bind = [&](const Signature& signature) { return std::make_unique<Bound>(engine, signature, pool); };
  decode_ = bind(engine.decode());
  for (const auto& [rows, signature] : engine.prefills()) prefill_[rows] = bind(*signature);
  for (const auto& [rows, signature] : engine.verifies()) verify_[rows] = bind(*signature);

  hidden_ = decode_->activations;
  decode_->call.output_block("logits");  // which throws if there are none
  for (const auto& [rows, bound] : verify_) {
    bound->call.output_block("logits");
    if (hidden_ != nullptr) bound->call.output_block("activations");
    if (!inside_) continue;
    bound->call.output_block("n_accepted");
    bound->call.output_block("tokens");
  }
  // The ops' operands have the same name in all graphs that take them.
  const Call* with_ops = inside_ ? &verify_.rbegin()->second->call : nullptr;
  const auto operand = [&](const char* name) {
    return with_ops != nullptr && with_ops->signature().input(name) != nullptr ? with_ops->input_block(name).host()
                                                                               : pool.take(name);
  };
  control_ = static_cast<int32_t*>(operand("control"));
  scalars_ = static_cast<float*>(operand("scalars"));
}

void Decoder::prefill(const int32_t* tokens, int32_t count, int32_t first, int32_t rows) {
  const auto found = prefill_.find(rows);
  Bound& bound = found == prefill_.end() ? *decode_ : *found->second;
  // Padding rows repeat the first token. Their cache entries lie past the end of the text and stay hidden until they
  // are overwritten, so they only need to be finite.
  for (int32_t r = 0; r < rows; ++r) embed(bound, r, tokens[r < count ? r : 0]);
  set_positions(bound, first, count, rows);
  bound.call.run();
  bound.call.wait();
  bound.new_rows.append(first, count);
}

void Decoder::place(int32_t token, const Proposal& proposal, int32_t position, int32_t width) {
  placed_ = width == 1 ? decode_.get() : verify_.at(width).get();
  embed(*placed_, 0, token);
  for (int32_t j = 0; j + 1 < width; ++j) {
    // A blank draft (-1) matches no token, so its row only needs to be finite.
    const int32_t draft = j < proposal.count ? proposal.tokens[static_cast<size_t>(j)] : -1;
    embed(*placed_, j + 1, std::max(draft, 0));
    if (inside_) static_cast<int32_t*>(placed_->draft->host())[j] = draft;
  }
  if (inside_ && width > 1) placed_->draft->give();
  control_[EDGE_CONTROL_POSITION] = position + 1;
  set_positions(*placed_, position, width, width);
  position_ = position;
  width_ = width;
}

void Decoder::run() {
  placed_->call.run();
  placed_->new_rows.append(position_, width_);
  if (placed_->n_accepted != nullptr) placed_->n_accepted->fetch();
  (placed_->tokens != nullptr ? placed_->tokens : placed_->logits)->fetch();
}

float* Decoder::logits(int32_t row) {
  placed_->logits->fetch();
  return static_cast<float*>(placed_->logits->host()) + static_cast<size_t>(row) * static_cast<size_t>(vocabulary_);
}

const float* Decoder::hidden() {
  if (hidden_ == nullptr) return nullptr;
  placed_->activations->fetch();
  return static_cast<const float*>(placed_->activations->host());
}

int32_t Decoder::greedy_rows() const {
  return placed_->n_accepted != nullptr ? accepted() + 1 : placed_->tokens != nullptr ? 1 : 0;
}

void Decoder::keep_hidden(int32_t row) {
  if (hidden_ == nullptr || width_ == 1) return;
  // Graphs of an accelerator leave the hidden state of the last row that they have accepted where a draft reads it.
  if (placed_->call.signature().output("next_hidden") != nullptr && accepted() == row) return;
  Block& all = *placed_->activations;
  if (row == 0 && &all == hidden_) return;
  all.fetch();
  const auto width = static_cast<size_t>(engine_.hidden_size());
  std::copy_n(static_cast<const float*>(all.host()) + static_cast<size_t>(row) * width, width,
              static_cast<float*>(hidden_->host()));
  hidden_->give();
}

void Decoder::embed(Bound& bound, int32_t row, int32_t token) {
  Embedder& embedder = engine_.embedder();
  embedder.row(token, bound.embeddings + static_cast<size_t>(row) * embedder.width());
  if (bound.per_layer == nullptr) return;
  Embedder& per_layer = *engine_.per_layer_embedder();
  per_layer.row(token, bound.per_layer + static_cast<size_t>(row) * per_layer.width());
}

// Sets the positions of `rows` rows, the first `count` of which are not padding.
void Decoder::set_positions(Bound& bound, int32_t first, int32_t count, int32_t rows) {
  for (int32_t r = 0; r < rows; ++r) bound.input_pos[r] = first + r;
  // Rows that are not in the cache yet are seen inside the graph.
  if (bound.new_rows.is_empty()) {
    bound.mask.show(first + 1, 1);
  } else {
    bound.mask.show(first, 0);
  }
  bound.written.set(first, first + count);
}

}  // namespace edge_mtp
