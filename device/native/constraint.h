// What a grammar allows next. One Constraint follows one text.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace edge_mtp {

// The bytes of every token: the bundle's token-bytes table (edge_mtp/formats/token_bytes.py has its layout), read in place.
class TokenBytes;  // token_bytes.h

// Grammars compiled for one vocabulary; keeps the last few, since a request repeats its tools.
class GrammarCompiler {
 public:
  // `stop` tokens are allowed where the grammar may end, and nowhere else.
  GrammarCompiler(const TokenBytes& tokens, const std::vector<int32_t>& stop);
  ~GrammarCompiler();
  // Keeps none of the grammars that it has compiled.
  void forget();
  struct Impl;
  const std::unique_ptr<Impl> impl;
};

class Constraint {
 public:
  // `grammar`: EBNF with `root`, special tokens written as docs/grammar.md says. Throws Error with the place and the
  // cure when it does not compile.
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
