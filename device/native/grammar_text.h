// Grammars as users write them, for the engine: special tokens become private characters. Dialect: docs/grammar.md.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace edge_mtp {

// Private characters lie behind Unicode's last, so that no character class reaches them and no text spells them. In
// UTF-8's four-byte form they begin with F5, F6 or F7.
inline bool is_private_byte(char byte) { return static_cast<uint8_t>(byte) >= 0xF5; }

// The special tokens that a grammar can name, and the private character of each.
class SpecialTokens {
 public:
  // Returns the private character of `token`. Throws Error when there are more tokens than private characters.
  std::string add(std::string_view text, int32_t token, bool stops);

  struct Found {
    size_t length = 0;  // of the token's text as a literal spells it; 0: none here
    int32_t token = -1;
    bool stops = false;
  };
  // The longest special token whose text, spelled as in a string literal, begins at `at`.
  Found find(const std::string& grammar, size_t at) const;

 private:
  std::unordered_map<std::string, Found> tokens_;
  std::vector<size_t> lengths_;  // of the keys, falling
  std::array<bool, 256> begins_{};
};

// The rule that the engine begins with.
constexpr char kRoot[] = "edge-mtp-root";

// The length of the UTF-8 text (RFC 3629, section 4) that `text` begins with: all of it, if it is well formed.
size_t utf8_length(std::string_view text);

// Throws Error naming the line for what is no UTF-8, an escape that is no character, and a stop token.
std::string to_engine_grammar(const std::string& grammar, const SpecialTokens& specials);

}  // namespace edge_mtp
