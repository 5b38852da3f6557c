// A request's grammar: its text for the engine, its compilation, and a walk through what it allows.
#include <memory>
#include <vector>

#include "constraint.h"
#include "fuzz.h"
#include "grammar_text.h"
#include "select.h"
#include "token_bytes.h"

namespace {

// Every byte, a few words, two marks and a stop token.
std::vector<uint8_t> make_table() {
  std::vector<std::string> texts;
  for (int byte = 0; byte < 256; ++byte) texts.push_back(std::string(1, static_cast<char>(byte)));
  for (const char* text : {"call:", "\":", "true", "12", "<|open|>", "<|\"|>", "<stop>"}) texts.emplace_back(text);
  std::vector<uint8_t> table = {'E', 'M', 'T', 'B'};
  const auto put = [&](size_t value) {
    for (int shift = 0; shift < 32; shift += 8) table.push_back(static_cast<uint8_t>(value >> shift));
  };
  put(1);
  put(texts.size());
  size_t end = 0;
  put(end);
  for (const std::string& text : texts) put(end += text.size());
  for (const std::string& text : texts) table.insert(table.end(), text.begin(), text.end());
  for (size_t i = 0; i < texts.size(); ++i) table.push_back(i + 3 >= texts.size());
  return table;
}

void walk(edge_mtp::Constraint& constraint, int32_t vocabulary, std::string_view choices) {
  std::vector<int32_t> words(static_cast<size_t>(edge_mask_words(vocabulary)));
  std::vector<int32_t> forced;
  int32_t taken = 0;
  for (const char choice : choices.substr(0, 24)) {
    if (constraint.finished()) break;
    constraint.mask(words.data());
    constraint.forced(8, forced);
    if (!forced.empty()) {
      const auto first = static_cast<size_t>(forced.front());
      must((words[first / 32] >> (first % 32) & 1) != 0, "what is forced is allowed");
    }
    std::vector<int32_t> allowed;
    for (int32_t token = 0; token < vocabulary; ++token) {
      if (words[static_cast<size_t>(token / 32)] >> (token % 32) & 1) allowed.push_back(token);
    }
    if (allowed.empty()) break;  // a grammar that spells nothing; selection refuses the row
    must(constraint.accept(allowed[static_cast<uint8_t>(choice) % allowed.size()]), "what the mask allows is accepted");
    ++taken;
    if (choice % 5 == 0) {
      constraint.rollback(1);
      --taken;
    }
  }
  constraint.rollback(taken);
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::vector<uint8_t> table = make_table();
  static const edge_mtp::TokenBytes tokens({table.data(), table.size()});
  static edge_mtp::GrammarCompiler compiler(tokens, {tokens.vocabulary() - 1});
  // Long grammars are slow to compile and no more than short ones repeated.
  if (size > 600) return 0;
  const std::string grammar(view(data, size));
  must_answer([&] {
    edge_mtp::Constraint constraint(compiler, grammar);
    walk(constraint, tokens.vocabulary(), grammar);
  });
  return 0;
}
