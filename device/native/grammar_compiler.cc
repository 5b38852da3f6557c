#include "grammar_compiler.h"

#include <compiled_grammar_impl.h>
#include <grammar_impl.h>
#include <xgrammar/compiler.h>

#include <algorithm>
#include <list>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "compiled_grammar.h"
#include "error.h"
#include "grammar_text.h"
#include "token_bytes.h"

namespace edge_mtp {
namespace {

constexpr size_t kCompiledGrammars = 4;  // of the last requests; a few MB each at 262144 tokens
constexpr size_t kLongestMessage = 400;

// What the engine said it leaves out of the grammar that this thread compiles. Its messages come from destructors, so
// they cannot throw where they arise.
thread_local std::string left_out;

std::string one_line(std::string message) {
  for (char& c : message) {
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  }
  while (!message.empty() && message.back() == ' ') message.pop_back();
  if (message.size() > kLongestMessage) message = message.substr(0, kLongestMessage) + "...";
  return message;
}

// The fewest bytes of each rule's texts; kLongestText stands for more, and for a rule whose text never ends.
constexpr int64_t kLongestText = 1 << 16;

int64_t shortest(const xgrammar::CompactFSMWithStartEnd& automaton, const std::vector<int64_t>& rules) {
  const auto& fsm = automaton.GetFsm();
  const auto& repeats = fsm.GetEdgeAuxData();
  const auto cost = [&](const xgrammar::FSMEdge& edge) -> int64_t {
    if (edge.IsEpsilon()) return 0;
    if (edge.IsRuleRef()) return rules[static_cast<size_t>(edge.GetRefRuleId())];
    if (!edge.IsRepeatRef()) return 1;
    const auto at = static_cast<size_t>(edge.GetAuxIndex());  // rule, fewest, most
    return rules[static_cast<size_t>(repeats[at])] * repeats[at + 1];
  };
  // Rules share one automaton's states: only those that this one reaches count.
  std::unordered_map<int, int64_t> reached{{automaton.GetStart(), 0}};
  std::vector<int> queue{automaton.GetStart()};
  int64_t best = kLongestText;
  while (!queue.empty()) {
    const int state = queue.back();
    queue.pop_back();
    const int64_t so_far = reached[state];
    if (automaton.IsEndState(state)) best = std::min(best, so_far);
    for (const auto& edge : fsm.GetEdges(state)) {
      const int64_t there = so_far + cost(edge);
      const auto [known, fresh] = reached.emplace(edge.target, there);
      if (there >= best || (!fresh && known->second <= there)) continue;
      known->second = there;
      queue.push_back(edge.target);
    }
  }
  return best;
}

// Forced text is followed to its end, so it must have one.
void check_that_rules_end(const xgrammar::CompiledGrammar& compiled) {
  const xgrammar::Grammar grammar = compiled.GetGrammar();
  std::vector<int64_t> rules(static_cast<size_t>(grammar->NumRules()), kLongestText);
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t rule = 0; rule < rules.size(); ++rule) {
      if (!grammar->per_rule_fsms[rule].has_value()) continue;
      const int64_t found = shortest(grammar->per_rule_fsms[rule]->GetFsm(), rules);
      changed |= found < rules[rule];
      rules[rule] = std::min(rules[rule], found);
    }
  }
  for (size_t rule = 0; rule < rules.size(); ++rule) {
    if (rules[rule] < kLongestText || !grammar->per_rule_fsms[rule].has_value()) continue;
    throw Error("rule " + grammar->GetRule(static_cast<int32_t>(rule)).name + " has no text that ends within " +
                std::to_string(kLongestText) + " bytes");
  }
}

}  // namespace

struct GrammarCompiler::Impl {
  struct Kept {
    std::string grammar;
    std::shared_ptr<const CompiledGrammar> compiled;
  };

  const TokenBytes& tokens;
  const std::vector<int32_t> stop;
  std::mutex mutex;
  std::shared_ptr<const Vocabulary> vocabulary;  // made for the first grammar
  std::list<Kept> recent;                        // the last used first
};

GrammarCompiler::GrammarCompiler(const TokenBytes& tokens, const std::vector<int32_t>& stop)
    : impl_(new Impl{tokens, stop, {}, nullptr, {}}) {
  if (stop.empty()) throw Error("a grammar needs a stop token to end with; give the bundle's");
  for (const int32_t token : stop) {
    if (token < 0 || token >= tokens.vocabulary()) {
      throw Error("stop token " + std::to_string(token) + " is outside the vocabulary of " +
                  std::to_string(tokens.vocabulary()) + "; give the bundle's");
    }
  }
}

GrammarCompiler::~GrammarCompiler() = default;

void GrammarCompiler::forget() {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  impl_->recent.clear();
}

std::shared_ptr<const CompiledGrammar> GrammarCompiler::compile(const std::string& grammar) {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  auto& [tokens, stop, mutex, vocabulary, recent] = *impl_;
  for (auto entry = recent.begin(); entry != recent.end(); ++entry) {
    if (entry->grammar == grammar) {
      recent.splice(recent.begin(), recent, entry);
      return entry->compiled;
    }
  }
  if (vocabulary == nullptr) vocabulary = std::make_shared<Vocabulary>(tokens, stop);
  xgrammar::GrammarCompiler engine(vocabulary->info(), /*max_threads=*/1, /*cache_enabled=*/false);
  left_out.clear();
  xgrammar::CompiledGrammar compiled{xgrammar::NullObj{}};
  try {
    compiled = engine.CompileGrammar(to_engine_grammar(grammar, vocabulary->specials()), kRoot);
    check_that_rules_end(compiled);
  } catch (const std::exception& error) {
    throw Error(one_line(std::string("grammar: ") + error.what()) + "; correct it (docs/grammar.md)");
  }
  if (!left_out.empty()) {
    throw Error(one_line("grammar: " + left_out) + "; take it out, since it would not be enforced (docs/grammar.md)");
  }
  recent.push_front({grammar, std::make_shared<const CompiledGrammar>(CompiledGrammar{vocabulary, compiled})});
  if (recent.size() > kCompiledGrammars) recent.pop_back();
  return recent.front().compiled;
}

}  // namespace edge_mtp

// The engine's messages (XGRAMMAR_LOG_CUSTOMIZE).
namespace xgrammar {

[[noreturn]] void LogFatalImpl(const std::string&, int, const std::string& message) {
  throw edge_mtp::Error(message);
}

void LogMessageImpl(const std::string&, int, int, const std::string& message) {
  if (edge_mtp::left_out.empty()) edge_mtp::left_out = message;
}

}  // namespace xgrammar
