// What may come next in one text: what its grammar allows, and what the budget of its thoughts does.
//
// The budget gives way to the grammar: where the grammar allows nothing that the budget does, such as the end of a
// thought in the middle of a character, the grammar alone counts.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "constraint.h"
#include "thought.h"

namespace edge_mtp {

class Bounds {
 public:
  // Either may be absent, not both; `thought` has a budget.
  Bounds(int32_t vocabulary, std::optional<Constraint> grammar, std::optional<Thought> thought);

  // Whether some token is not allowed next. Not behind the grammar's end: nothing is asked of what follows.
  bool binds() const;
  // The rest is as in Constraint.
  void mask(int32_t* words);
  bool accept(int32_t token);
  void rollback(int32_t count);
  void forced(int32_t most, std::vector<int32_t>& tokens);
  bool finished() const { return grammar_ && grammar_->finished(); }

 private:
  bool allows(int32_t token);

  const int32_t vocabulary_;
  std::optional<Constraint> grammar_;
  std::optional<Thought> thought_;
  std::vector<int32_t> row_, piece_;
};

}  // namespace edge_mtp
