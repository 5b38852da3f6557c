#include "vocabulary.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>

namespace edge_mtp {
namespace {

constexpr size_t kTokenized = 512;  // bytes of a text that are looked at: more than any step drafts

// The token of byte 0 where 256 tokens in a row spell the bytes 0..255; -1 when none do.
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

}  // namespace

Vocabulary::Vocabulary(const TokenBytes& tokens, const std::vector<int32_t>& stop)
    : first_byte_token_(find_byte_tokens(tokens)) {
  std::vector<std::string> texts(static_cast<size_t>(tokens.vocabulary()));
  for (int32_t token = 0; token < tokens.vocabulary(); ++token) {
    const std::string_view text = tokens.text(token);
    std::string& out = texts[static_cast<size_t>(token)];
    if (tokens.is_special(token)) {
      const bool stops = std::find(stop.begin(), stop.end(), token) != stop.end();
      if (!text.empty()) out = specials_.add(text, token, stops);
    } else if (std::none_of(text.begin(), text.end(), is_private_byte)) {
      out = text;
    }
  }
  info_ = xgrammar::TokenizerInfo(texts, xgrammar::VocabType::RAW, tokens.vocabulary(), stop, false);
}

// The token that spells `text`; -1 when none does.
int32_t Vocabulary::spelled(std::string_view text) const {
  const auto& sorted = info_.GetSortedDecodedVocab();
  auto at = std::lower_bound(sorted.begin(), sorted.end(), text, [](const auto& entry, std::string_view key) {
    return std::string_view(entry.second) < key;
  });
  // Where two tokens spell the same, models write the one that is not a fallback for a byte.
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

}  // namespace edge_mtp
