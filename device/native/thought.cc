#include "thought.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>

#include "error.h"

namespace edge_mtp {

Thought::Thought(ThoughtMarks marks, const std::vector<int32_t>& prompt) : marks_(std::move(marks)) {
  if (!marks_.opened) return;
  state_.inside = true;
  const auto mark = std::find(prompt.rbegin(), prompt.rend(), marks_.open);
  state_.header = marks_.header.size();
  if (mark == prompt.rend()) return;
  state_.header = 0;
  for (auto token = mark.base(); token != prompt.end(); ++token) head(*token);
  state_.tokens = 0;  // of the output
}

// A token inside a thought.
void Thought::head(int32_t token) {
  if (state_.header < marks_.header.size() && marks_.header[state_.header] == token) {
    ++state_.header;
    return;
  }
  state_.header = marks_.header.size();
  ++state_.tokens;
}

void Thought::push(int32_t token) {
  before_[pushed_++ % before_.size()] = state_;
  held_ = std::min(held_ + 1, static_cast<int32_t>(before_.size()));
  if (token == marks_.open) {
    if (state_.inside) ++state_.tokens;  // one after another, they would never end
    state_.inside = true;
    state_.header = 0;
  } else if (token == marks_.close) {
    state_.inside = false;
  } else if (state_.inside) {
    head(token);
  }
}

void Thought::pop(int32_t count) {
  if (count < 0 || count > held_) {
    throw Error("a thought cannot take back " + std::to_string(count) + " of " + std::to_string(held_) + " tokens");
  }
  if (count == 0) return;
  pushed_ -= static_cast<uint32_t>(count);
  held_ -= count;
  state_ = before_[pushed_ % before_.size()];
}

}  // namespace edge_mtp
