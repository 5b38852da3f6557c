// Thoughts: what a model writes between two marks of its own, before its answer or in it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "proposal.h"

namespace edge_mtp {

struct ThoughtMarks {
  int32_t open = -1, close = -1;  // control tokens; -1 = the model has none
  std::vector<int32_t> header;    // tokens behind `open` that are no text of the thought yet
  bool opened = false;            // the prompt ends inside a thought
  int32_t budget = -1;            // most tokens of the thoughts of a text together; -1 = any number
};

// Follows one text: whether it is inside a thought, and what is left of the budget.
class Thought {
 public:
  Thought(ThoughtMarks marks, const std::vector<int32_t>& prompt);

  void push(int32_t token);
  // Takes back the last `count` pushed tokens, of the last kMaxDrafts + 1 at most; throws Error for more.
  void pop(int32_t count);

  bool is_mark(int32_t token) const { return token == marks_.open || token == marks_.close; }
  bool inside() const { return state_.inside; }
  bool limited() const { return marks_.budget >= 0; }
  // Where the budget is spent, the only token that may come next, or the one that may not; else -1.
  int32_t forced() const { return spent() && state_.inside ? marks_.close : -1; }
  int32_t forbidden() const { return spent() && !state_.inside ? marks_.open : -1; }

 private:
  struct State {
    bool inside = false;
    size_t header = 0;     // tokens of it that have come
    int32_t tokens = 0;    // of all thoughts so far
  };

  bool spent() const { return limited() && state_.tokens >= marks_.budget; }
  void head(int32_t token);

  ThoughtMarks marks_;
  State state_;
  std::array<State, kMaxDrafts + 1> before_{};  // the last pushed tokens: a ring, of which `held_` are valid
  uint32_t pushed_ = 0;
  int32_t held_ = 0;
};

}  // namespace edge_mtp
