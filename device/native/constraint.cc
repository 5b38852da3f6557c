#include "constraint.h"

#include <xgrammar/matcher.h>

#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "compiled_grammar.h"
#include "error.h"
#include "select.h"

namespace edge_mtp {
namespace {

constexpr size_t kForcedTexts = 256;  // whose tokens a constraint remembers

}  // namespace

struct Constraint::Impl {
  explicit Impl(std::shared_ptr<const CompiledGrammar> from)
      : grammar(std::move(from)),
        matcher(grammar->compiled),
        row(static_cast<size_t>(edge_mask_words(grammar->vocabulary->size()))) {}

  // The mask from here, computed once per place.
  const std::vector<int32_t>& mask();
  bool accept(int32_t token);
  void rollback(int32_t count);
  // The one token that is allowed next; -1 when there are more, or none.
  int32_t only_token();
  // As Vocabulary::tokenize(), remembered: the same text is forced at every step that begins there.
  const std::vector<int32_t>& tokenize(const std::string& text);

  const std::shared_ptr<const CompiledGrammar> grammar;
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
    const int32_t rest = grammar->vocabulary->size() % 32;
    if (rest != 0) row.back() = static_cast<int32_t>(static_cast<uint32_t>(row.back()) & ((1u << rest) - 1u));
  }
  row_is_current = true;
  return row;
}

bool Constraint::Impl::accept(int32_t token) {
  if (matcher.IsTerminated() || token < 0 || token >= grammar->vocabulary->size()) return false;
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
  return tokenized.emplace(text, grammar->vocabulary->tokenize(text)).first->second;
}

Constraint::Constraint(GrammarCompiler& compiler, const std::string& grammar)
    : impl_(std::make_unique<Impl>(compiler.compile(grammar))) {}

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
