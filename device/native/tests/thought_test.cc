// Thoughts and their budget, with and without a grammar, against rules that look at the whole text each time.
#include <cstdio>
#include <cstring>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "bounds.h"
#include "error.h"
#include "stop_text.h"
#include "thought.h"
#include "token_bytes.h"

namespace {

using edge_mtp::Bounds;
using edge_mtp::Constraint;
using edge_mtp::Thought;
using edge_mtp::ThoughtMarks;

int failures = 0;

void expect(bool ok, const std::string& what) {
  if (ok) return;
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  ++failures;
}

enum : int32_t { kA, kB, kFirstByte, kLastByte, kOpen, kClose, kTurn, kHeader, kVocabulary };
const char* const kTexts[kVocabulary] = {"a", "b", "\xc3", "\xa9", "<|channel>", "<channel|>", "<turn|>", "h"};

std::vector<uint8_t> table() {
  std::vector<uint8_t> out = {'E', 'M', 'T', 'B', 1, 0, 0, 0, kVocabulary, 0, 0, 0};
  const auto put = [&](uint32_t value) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
    out.insert(out.end(), bytes, bytes + sizeof value);
  };
  uint32_t end = 0;
  put(end);
  for (const char* text : kTexts) put(end += static_cast<uint32_t>(std::strlen(text)));
  for (const char* text : kTexts) out.insert(out.end(), text, text + std::strlen(text));
  for (int32_t token = 0; token < kVocabulary; ++token) out.push_back(token >= kOpen && token <= kTurn ? 1 : 0);
  return out;
}

// The state after a whole text.
struct Rules {
  bool inside = false;
  int32_t count = 0;

  Rules(const std::vector<int32_t>& text, bool opened, bool header_given) : inside(opened) {
    bool header = opened && !header_given;
    for (const int32_t token : text) {
      if (token == kOpen) {
        count += inside ? 1 : 0;
        inside = header = true;
      } else if (token == kClose) {
        inside = header = false;
      } else if (inside) {
        count += header && token == kHeader ? 0 : 1;
        header = false;
      }
    }
  }

  bool allows(int32_t token, int32_t budget) const {
    if (count < budget) return true;
    return inside ? token == kClose : token != kOpen;
  }
};

std::vector<bool> bits(const std::vector<int32_t>& words) {
  std::vector<bool> out;
  for (int32_t token = 0; token < kVocabulary; ++token) {
    out.push_back((static_cast<uint32_t>(words[static_cast<size_t>(token / 32)]) >> (token % 32) & 1u) != 0);
  }
  return out;
}

constexpr const char* kGrammars[] = {
    "root ::= (\"<|channel>\" \"h\" [ab\u00e9]* \"<channel|>\")? [ab]*",
    "root ::= [ab\u00e9]* \"<channel|>\" [ab]*",
    "root ::= \"<|channel>\" \"habab\" [ab]* \"<channel|>\" \"abba\"",
    "root ::= [ab]*",
    nullptr,
};

void test_bounds(const edge_mtp::TokenBytes& tokens, uint32_t seed) {
  std::mt19937 random(seed);
  const auto below = [&](int32_t n) { return static_cast<int32_t>(random() % static_cast<uint32_t>(n)); };
  const char* grammar = kGrammars[below(5)];
  const bool opened = grammar == kGrammars[1] || (grammar == nullptr && below(2) == 0);
  const bool header_given = below(2) == 0;
  const std::vector<int32_t> prompt = header_given ? std::vector<int32_t>{kTurn, kOpen, kHeader}
                                                   : std::vector<int32_t>{kTurn, kOpen};
  const ThoughtMarks marks{kOpen, kClose, {kHeader}, opened, below(5)};
  edge_mtp::GrammarCompiler compiler(tokens, {kTurn});
  std::optional<Constraint> oracle, own;
  if (grammar != nullptr) {
    oracle.emplace(compiler, grammar);
    own.emplace(compiler, grammar);
  }
  Bounds bounds(kVocabulary, std::move(own), Thought(marks, prompt));
  std::vector<int32_t> text, mask(1), words(1), forced;
  int32_t can_take_back = 0;
  for (int step = 0; step < 60; ++step) {
    const Rules rules(text, opened, header_given);
    std::vector<bool> by_grammar(kVocabulary, true);
    if (oracle) {
      oracle->mask(words.data());
      by_grammar = bits(words);
    }
    std::vector<bool> wanted = by_grammar;
    bool any = false;
    for (int32_t token = 0; token < kVocabulary; ++token) {
      wanted[static_cast<size_t>(token)] = by_grammar[static_cast<size_t>(token)] && rules.allows(token, marks.budget);
      any |= wanted[static_cast<size_t>(token)];
    }
    if (!any) wanted = by_grammar;  // the budget gives way
    bounds.mask(mask.data());
    const std::string where = std::string(grammar == nullptr ? "no grammar" : grammar) + ", step " + std::to_string(step);
    expect(bits(mask) == wanted, "the mask is that of the rules: " + where);
    for (int32_t token = 0; token < kVocabulary; ++token) {
      const bool taken = bounds.accept(token);
      expect(taken == wanted[static_cast<size_t>(token)], "what the mask allows is taken, and nothing else: " + where);
      if (taken) bounds.rollback(1);
    }
    bounds.forced(5, forced);
    int32_t taken = 0;
    for (const int32_t token : forced) taken += bounds.accept(token) ? 1 : 0;
    expect(taken == static_cast<int32_t>(forced.size()), "what is forced is allowed: " + where);
    bounds.rollback(taken);
    if (rules.inside && rules.count >= marks.budget && wanted[kClose]) {
      expect(!forced.empty() && forced.front() == kClose, "a spent budget forces the end: " + where);
    }
    if (bounds.finished()) break;
    if (below(4) == 0 && can_take_back > 0) {
      const int32_t back = 1 + below(can_take_back);
      bounds.rollback(back);
      if (oracle) oracle->rollback(back);
      text.resize(text.size() - static_cast<size_t>(back));
      can_take_back -= back;
      continue;
    }
    const int32_t token = below(kVocabulary);
    if (!wanted[static_cast<size_t>(token)]) continue;
    expect(bounds.accept(token) && (!oracle || oracle->accept(token)), "taken: " + where);
    text.push_back(token);
    can_take_back = std::min(can_take_back + 1, edge_mtp::kMaxDrafts);
  }
}

void test_take_back() {
  Thought thought({kOpen, kClose, {}, false, 3}, {});
  for (int32_t i = 0; i < 100; ++i) thought.push(kA);
  thought.pop(edge_mtp::kMaxDrafts + 1);
  for (const int32_t count : {1, -1}) {
    try {
      thought.pop(count);
      expect(false, "more was taken back than is remembered");
    } catch (const edge_mtp::Error&) {
    }
  }
}

void test_stop_text(const edge_mtp::TokenBytes& tokens) {
  edge_mtp::StopText stops(tokens, {"ab"});
  expect(stops.push(kA) < 0, "half a string");
  stops.reset();
  expect(stops.push(kB) < 0, "a string does not reach across");
  expect(stops.push(kA) < 0 && stops.push(kB) == 0, "it is found behind");
}

}  // namespace

int main() {
  const std::vector<uint8_t> bytes = table();
  const edge_mtp::TokenBytes tokens({bytes.data(), bytes.size()});
  for (uint32_t seed = 0; seed < 300; ++seed) test_bounds(tokens, seed);
  test_take_back();
  test_stop_text(tokens);
  if (failures == 0) std::puts("thoughts: ok");
  return failures == 0 ? 0 : 1;
}
