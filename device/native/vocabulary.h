// A bundle's vocabulary as the grammar engine sees it.
#pragma once

#include <xgrammar/tokenizer_info.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "grammar_text.h"
#include "token_bytes.h"

namespace edge_mtp {

// A special token is one private character. A token that holds the first byte of a private character, which UTF-8 text
// never does, is nothing. Stop tokens are known by id.
class Vocabulary {
 public:
  Vocabulary(const TokenBytes& tokens, const std::vector<int32_t>& stop);

  const SpecialTokens& specials() const { return specials_; }
  const xgrammar::TokenizerInfo& info() const { return info_; }
  int32_t size() const { return info_.GetVocabSize(); }

  // The tokens in which a model writes the beginning of `text`, which is longer than what any step drafts; up to the
  // first part that no token spells. Byte-pair encoding: of two merges the one of the lower id comes first, since
  // tokenizers number tokens in the order of their merges.
  std::vector<int32_t> tokenize(std::string_view text) const;

 private:
  int32_t spelled(std::string_view text) const;
  bool is_byte_token(int32_t token) const {
    return first_byte_token_ >= 0 && token >= first_byte_token_ && token < first_byte_token_ + 256;
  }

  SpecialTokens specials_;
  xgrammar::TokenizerInfo info_{xgrammar::NullObj{}};
  int32_t first_byte_token_;  // 256 tokens from here spell the bytes 0..255; -1 when there are none
};

}  // namespace edge_mtp
