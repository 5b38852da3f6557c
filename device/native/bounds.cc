#include "bounds.h"

#include <algorithm>
#include <utility>

#include "select.h"

namespace edge_mtp {
namespace {

bool has(const int32_t* words, int32_t token) {
  return (static_cast<uint32_t>(words[token / 32]) >> (token % 32) & 1u) != 0;
}

void flip(int32_t* words, int32_t token) {
  words[token / 32] = static_cast<int32_t>(static_cast<uint32_t>(words[token / 32]) ^ 1u << (token % 32));
}

}  // namespace

Bounds::Bounds(int32_t vocabulary, std::optional<Constraint> grammar, std::optional<Thought> thought)
    : vocabulary_(vocabulary),
      grammar_(std::move(grammar)),
      thought_(std::move(thought)),
      row_(static_cast<size_t>(edge_mask_words(vocabulary))) {}

bool Bounds::binds() const {
  if (grammar_) return !grammar_->finished();
  return thought_->forced() >= 0 || thought_->forbidden() >= 0;
}

void Bounds::mask(int32_t* words) {
  const size_t size = row_.size();
  if (grammar_) {
    grammar_->mask(words);
  } else {
    std::fill_n(words, size, -1);
    const int32_t rest = vocabulary_ % 32;
    if (rest != 0) words[size - 1] = static_cast<int32_t>((1u << rest) - 1u);
  }
  if (!thought_) return;
  const int32_t forced = thought_->forced(), forbidden = thought_->forbidden();
  if (forced >= 0 && has(words, forced)) {
    std::fill_n(words, size, 0);
    flip(words, forced);
  } else if (forbidden >= 0 && has(words, forbidden)) {
    flip(words, forbidden);
    if (std::all_of(words, words + size, [](int32_t word) { return word == 0; })) flip(words, forbidden);
  }
}

// Whether the budget lets `token` come, of those that the grammar allows.
bool Bounds::allows(int32_t token) {
  const int32_t forced = thought_->forced(), forbidden = thought_->forbidden();
  if (token == forced || (forced < 0 && token != forbidden)) return true;
  if (!grammar_) return false;
  mask(row_.data());
  return token >= 0 && token < vocabulary_ && has(row_.data(), token);
}

bool Bounds::accept(int32_t token) {
  if (thought_ && !allows(token)) return false;
  if (grammar_ && !grammar_->accept(token)) return false;
  if (thought_) thought_->push(token);
  return true;
}

void Bounds::rollback(int32_t count) {
  if (grammar_) grammar_->rollback(count);
  if (thought_) thought_->pop(count);
}

void Bounds::forced(int32_t most, std::vector<int32_t>& tokens) {
  if (!thought_) return grammar_->forced(most, tokens);
  tokens.clear();
  const auto wanted = static_cast<size_t>(std::max(most, 0));
  for (bool moved = true; moved && tokens.size() < wanted;) {
    moved = false;
    const auto take = [&](int32_t token) {
      if (!accept(token)) return false;
      tokens.push_back(token);
      return moved = true;
    };
    if (thought_->forced() >= 0 && take(thought_->forced())) continue;
    if (!grammar_) break;
    grammar_->forced(static_cast<int32_t>(wanted - tokens.size()), piece_);
    for (const int32_t token : piece_) {
      if (!take(token)) break;
    }
  }
  rollback(static_cast<int32_t>(tokens.size()));
}

}  // namespace edge_mtp
