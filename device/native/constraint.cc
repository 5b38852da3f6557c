#include "constraint.h"

#include <compiled_grammar_impl.h>
#include <grammar_impl.h>
#include <xgrammar/compiler.h>
#include <xgrammar/matcher.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <list>
#include <mutex>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "error.h"
#include "grammar_text.h"
#include "select.h"
#include "token_bytes.h"

namespace edge_mtp {
namespace {

constexpr size_t kCompiledGrammars = 4;  // of the last requests; a few MB each at 262144 tokens
constexpr size_t kLongestMessage = 400;
constexpr size_t kTokenized = 512;    // bytes of forced text that are looked at: more than any step drafts
constexpr size_t kForcedTexts = 256;  // whose tokens a constraint remembers

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

// -- ends -----------------------------------------------------------------------------------------------------------

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

// -- vocabulary -----------------------------------------------------------------------------------------------------

// The vocabulary as the engine sees it. A special token is one private character; a token that holds the first byte of
// a private character, which UTF-8 text never does, is nothing; stop tokens are known by id.
struct Vocabulary {
  Vocabulary(const TokenBytes& tokens, const std::vector<int32_t>& stop);

  // The token that spells `text`; -1 when none does.
  int32_t spelled(std::string_view text) const;
  // The tokens in which a model writes `text`, up to the first part that none spells: byte-pair encoding, in which of
  // two merges that of the lower id comes first. Tokenizers number tokens in the order of their merges.
  std::vector<int32_t> tokenize(std::string_view text) const;

  SpecialTokens specials;
  xgrammar::TokenizerInfo info{xgrammar::NullObj{}};
  int32_t first_byte_token = -1;  // 256 tokens from here spell the bytes 0..255; -1 when there are none

 private:
  bool is_byte_token(int32_t token) const {
    return first_byte_token >= 0 && token >= first_byte_token && token < first_byte_token + 256;
  }
};

int32_t find_byte_tokens(const TokenBytes& tokens) {
  int32_t run = 0;
  for (int32_t token = 0; token < tokens.vocabulary(); ++token) {
    const std::string_view text = tokens.text(token);
    const bool single = text.size() == 1 && !tokens.is_special(token);
    const int32_t byte = single ? static_cast<uint8_t>(text[0]) : -1;
    run = byte == run ? run + 1 : (byte == 0 ? 1 : 0);
    if (run == 256) return token - 255;
  }
  return -1;
}

Vocabulary::Vocabulary(const TokenBytes& tokens, const std::vector<int32_t>& stop)
    : first_byte_token(find_byte_tokens(tokens)) {
  std::vector<std::string> texts(static_cast<size_t>(tokens.vocabulary()));
  for (int32_t token = 0; token < tokens.vocabulary(); ++token) {
    const std::string_view text = tokens.text(token);
    std::string& out = texts[static_cast<size_t>(token)];
    if (tokens.is_special(token)) {
      const bool stops = std::find(stop.begin(), stop.end(), token) != stop.end();
      if (!text.empty()) out = specials.add(text, token, stops);
    } else if (std::none_of(text.begin(), text.end(), is_private_byte)) {
      out = text;
    }
  }
  info = xgrammar::TokenizerInfo(texts, xgrammar::VocabType::RAW, tokens.vocabulary(), stop, false);
}

int32_t Vocabulary::spelled(std::string_view text) const {
  const auto& sorted = info.GetSortedDecodedVocab();
  auto at = std::lower_bound(sorted.begin(), sorted.end(), text, [](const auto& entry, std::string_view key) {
    return std::string_view(entry.second) < key;
  });
  // Where two spell the same, models write the one that is no byte of a fallback.
  const auto order = [this](int32_t token) { return std::pair(is_byte_token(token), token); };
  int32_t found = -1;
  for (; at != sorted.end() && at->second == text; ++at) {
    if (found < 0 || order(at->first) < order(found)) found = at->first;
  }
  return found;
}

std::vector<int32_t> Vocabulary::tokenize(std::string_view text) const {
  struct Piece {
    std::string_view text;
    int32_t token, merged;  // merged: with the piece behind it; -1 = none
  };
  std::vector<Piece> pieces;
  text = text.substr(0, kTokenized);
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<uint8_t>(text[i]);
    const size_t length = lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    const std::string_view character = text.substr(i, length);
    i += character.size();
    if (const int32_t token = spelled(character); token >= 0) {
      pieces.push_back({character, token, -1});
      continue;
    }
    for (size_t byte = 0; byte < character.size(); ++byte) {
      pieces.push_back({character.substr(byte, 1), spelled(character.substr(byte, 1)), -1});
    }
  }
  const auto look = [&](size_t i) {
    if (i + 1 >= pieces.size()) return int32_t{-1};
    const std::string_view first = pieces[i].text;
    return spelled({first.data(), first.size() + pieces[i + 1].text.size()});
  };
  for (size_t i = 0; i < pieces.size(); ++i) pieces[i].merged = look(i);
  while (true) {
    size_t best = pieces.size();
    for (size_t i = 0; i < pieces.size(); ++i) {
      if (pieces[i].merged >= 0 && (best == pieces.size() || pieces[i].merged < pieces[best].merged)) best = i;
    }
    if (best == pieces.size()) break;
    Piece& left = pieces[best];
    left.text = {left.text.data(), left.text.size() + pieces[best + 1].text.size()};
    left.token = left.merged;
    pieces.erase(pieces.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    pieces[best].merged = look(best);
    if (best > 0) pieces[best - 1].merged = look(best - 1);
  }
  std::vector<int32_t> tokens;
  for (const Piece& piece : pieces) {
    if (piece.token < 0) break;
    tokens.push_back(piece.token);
  }
  return tokens;
}

}  // namespace

// -- compiler -------------------------------------------------------------------------------------------------------

struct GrammarCompiler::Impl {
  struct Compiled {
    std::string grammar;
    xgrammar::CompiledGrammar compiled;
  };

  std::pair<std::shared_ptr<const Vocabulary>, xgrammar::CompiledGrammar> compile(const std::string& grammar);

  const TokenBytes& tokens;
  const std::vector<int32_t> stop;
  std::mutex mutex;
  std::shared_ptr<const Vocabulary> vocabulary;  // made for the first grammar
  std::list<Compiled> recent;                    // the last used first
};

GrammarCompiler::GrammarCompiler(const TokenBytes& tokens, const std::vector<int32_t>& stop)
    : impl(new Impl{tokens, stop, {}, nullptr, {}}) {
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
  const std::lock_guard<std::mutex> lock(impl->mutex);
  impl->recent.clear();
}

std::pair<std::shared_ptr<const Vocabulary>, xgrammar::CompiledGrammar> GrammarCompiler::Impl::compile(
    const std::string& grammar) {
  const std::lock_guard<std::mutex> lock(mutex);
  for (auto entry = recent.begin(); entry != recent.end(); ++entry) {
    if (entry->grammar == grammar) {
      recent.splice(recent.begin(), recent, entry);
      return {vocabulary, entry->compiled};
    }
  }
  if (vocabulary == nullptr) vocabulary = std::make_shared<Vocabulary>(tokens, stop);
  xgrammar::GrammarCompiler engine(vocabulary->info, /*max_threads=*/1, /*cache_enabled=*/false);
  left_out.clear();
  xgrammar::CompiledGrammar compiled{xgrammar::NullObj{}};
  try {
    compiled = engine.CompileGrammar(to_engine_grammar(grammar, vocabulary->specials), kRoot);
    check_that_rules_end(compiled);
  } catch (const std::exception& error) {
    throw Error(one_line(std::string("grammar: ") + error.what()) + "; correct it (docs/grammar.md)");
  }
  if (!left_out.empty()) {
    throw Error(one_line("grammar: " + left_out) + "; take it out, since it would not be enforced (docs/grammar.md)");
  }
  recent.push_front({grammar, compiled});
  if (recent.size() > kCompiledGrammars) recent.pop_back();
  return {vocabulary, compiled};
}

// -- constraint -----------------------------------------------------------------------------------------------------

struct Constraint::Impl {
  Impl(std::shared_ptr<const Vocabulary> words, const xgrammar::CompiledGrammar& compiled)
      : vocabulary(std::move(words)),
        matcher(compiled),
        row(static_cast<size_t>(edge_mask_words(vocabulary->info.GetVocabSize()))) {}

  // The mask from here, computed once per place.
  const std::vector<int32_t>& mask();
  bool accept(int32_t token);
  void rollback(int32_t count);
  // The one token that is allowed next; -1 when there are more, or none.
  int32_t only_token();
  // Of the vocabulary; a text is forced again at every step that begins there.
  const std::vector<int32_t>& tokenize(const std::string& text);

  const std::shared_ptr<const Vocabulary> vocabulary;
  xgrammar::GrammarMatcher matcher;
  std::vector<int32_t> row;
  bool row_is_current = false;
  int32_t accepted = 0;
  std::unordered_map<std::string, std::vector<int32_t>> tokenized;
};

const std::vector<int32_t>& Constraint::Impl::mask() {
  if (row_is_current) return row;
  if (matcher.IsTerminated()) {
    std::fill(row.begin(), row.end(), 0);
  } else {
    int64_t shape = static_cast<int64_t>(row.size());
    DLTensor tensor{};
    tensor.data = row.data();
    tensor.device = {kDLCPU, 0};
    tensor.ndim = 1;
    tensor.dtype = {kDLInt, 32, 1};
    tensor.shape = &shape;
    matcher.FillNextTokenBitmask(&tensor);
    const int32_t rest = vocabulary->info.GetVocabSize() % 32;
    if (rest != 0) row.back() = static_cast<int32_t>(static_cast<uint32_t>(row.back()) & ((1u << rest) - 1u));
  }
  row_is_current = true;
  return row;
}

bool Constraint::Impl::accept(int32_t token) {
  const auto& texts = vocabulary->info.GetDecodedVocab();
  if (matcher.IsTerminated() || token < 0 || token >= static_cast<int32_t>(texts.size())) return false;
  if (!matcher.AcceptToken(token)) return false;
  row_is_current = false;
  ++accepted;
  return true;
}

void Constraint::Impl::rollback(int32_t count) {
  if (count < 0 || count > accepted) {
    throw Error("a constraint cannot take back " + std::to_string(count) + " of " + std::to_string(accepted) +
                " tokens; give at most those");
  }
  if (count == 0) return;
  matcher.Rollback(count);
  row_is_current = false;
  accepted -= count;
}

int32_t Constraint::Impl::only_token() {
  int32_t found = -1;
  const std::vector<int32_t>& words = mask();
  for (size_t i = 0; i < words.size(); ++i) {
    const auto word = static_cast<uint32_t>(words[i]);
    if (word == 0) continue;
    if (found >= 0 || (word & (word - 1)) != 0) return -1;
    int32_t bit = 0;
    while ((word >> bit & 1u) == 0) ++bit;
    found = static_cast<int32_t>(i) * 32 + bit;
  }
  return found;
}

const std::vector<int32_t>& Constraint::Impl::tokenize(const std::string& text) {
  const auto found = tokenized.find(text);
  if (found != tokenized.end()) return found->second;
  if (tokenized.size() >= kForcedTexts) tokenized.clear();
  return tokenized.emplace(text, vocabulary->tokenize(text)).first->second;
}

Constraint::Constraint(GrammarCompiler& compiler, const std::string& grammar) {
  auto [vocabulary, compiled] = compiler.impl->compile(grammar);
  impl_ = std::make_unique<Impl>(std::move(vocabulary), compiled);
}

Constraint::Constraint(Constraint&& other) noexcept = default;

Constraint::~Constraint() = default;

void Constraint::mask(int32_t* words) {
  const std::vector<int32_t>& row = impl_->mask();
  std::memcpy(words, row.data(), row.size() * sizeof(int32_t));
}

bool Constraint::accept(int32_t token) { return impl_->accept(token); }

void Constraint::rollback(int32_t count) { impl_->rollback(count); }

void Constraint::forced(int32_t most, std::vector<int32_t>& tokens) {
  tokens.clear();
  const auto wanted = static_cast<size_t>(std::max(most, 0));
  int32_t moved = 0;
  bool forced = true;
  while (forced && tokens.size() < wanted && !impl_->matcher.IsTerminated()) {
    const size_t before = tokens.size();
    for (const int32_t token : impl_->tokenize(impl_->matcher.FindJumpForwardString())) {
      if (tokens.size() < wanted) tokens.push_back(token);
    }
    if (tokens.size() == wanted) break;
    for (size_t i = before; i < tokens.size(); ++i) moved += impl_->accept(tokens[i]);
    const int32_t only = impl_->only_token();
    forced = only >= 0;
    if (forced) {
      tokens.push_back(only);
      moved += impl_->accept(only);
    }
  }
  impl_->rollback(moved);
}

bool Constraint::finished() const { return impl_->matcher.IsTerminated(); }

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
