// What a grammar allows next. One Constraint follows one text.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "grammar_compiler.h"

namespace edge_mtp {

class Constraint {
 public:
  // Compiles `grammar` unless the compiler has kept it; throws as GrammarCompiler::compile() does.
  Constraint(GrammarCompiler& compiler, const std::string& grammar);
  Constraint(Constraint&& other) noexcept;
  ~Constraint();

  // The tokens allowed next, as edge_verify's mask row: [edge_mask_words(vocabulary)] words. None is where the text is
  // over, or where the grammar demands a character that no token spells.
  void mask(int32_t* words);
  // Whether `token` is allowed next; takes it if so.
  bool accept(int32_t token);
  // Takes back the last `count` accepted tokens.
  void rollback(int32_t count);
  // Tokens that spell the text which the grammar forces from here (in the tokens that a model would choose),
  // at most `most`; empty when it leaves a choice. Does not move.
  void forced(int32_t most, std::vector<int32_t>& tokens);
  // A stop token was accepted: the text is over, unless that is rolled back.
  bool finished() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace edge_mtp
