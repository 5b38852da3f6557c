// Grammars compiled for one vocabulary.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace edge_mtp {

class TokenBytes;        // token_bytes.h
struct CompiledGrammar;  // compiled_grammar.h

// Keeps the last few grammars, since a request repeats its tools. Threads may share one.
class GrammarCompiler {
 public:
  // `tokens`: the bytes of every token, read in place; it must outlive this. `stop` tokens are allowed where the grammar
  // may end, and nowhere else. Throws Error when there are none, or one is outside the vocabulary.
  GrammarCompiler(const TokenBytes& tokens, const std::vector<int32_t>& stop);
  ~GrammarCompiler();

  // `grammar`: EBNF with `root`, special tokens written as docs/grammar.md says. Throws Error with the place and the
  // cure when it does not compile.
  std::shared_ptr<const CompiledGrammar> compile(const std::string& grammar);
  // Keeps none of the grammars that it has compiled.
  void forget();

 private:
  struct Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace edge_mtp
