#include "grammar_text.h"

#include <algorithm>
#include <cstddef>
#include <functional>

#include "error.h"

namespace edge_mtp {
namespace {

constexpr int32_t kFirstPrivate = 0x140000;
constexpr int32_t kLastPrivate = 0x1FFFFF;
constexpr uint32_t kLastCharacter = 0x10FFFF;

// Pure.
std::string private_character(int32_t token) {
  const int32_t code = kFirstPrivate + token;
  return {static_cast<char>(0xF0 | code >> 18), static_cast<char>(0x80 | (code >> 12 & 0x3F)),
          static_cast<char>(0x80 | (code >> 6 & 0x3F)), static_cast<char>(0x80 | (code & 0x3F))};
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Copies a grammar, keeping track of where it is: between rules, in a literal, in a character class, in a comment.
class Translator {
 public:
  Translator(const std::string& grammar, const SpecialTokens& specials) : in_(grammar), specials_(specials) {}

  std::string run() {
    if (const size_t valid = utf8_length(in_); valid < in_.size()) {
      line_ += static_cast<int>(std::count(in_.begin(), in_.begin() + static_cast<std::ptrdiff_t>(valid), '\n'));
      refuse("a byte that is no text");
    }
    while (at_ < in_.size()) {
      switch (in_[at_]) {
        case '"': literal(); break;
        case '[': character_class(); break;
        case '#': comment(); break;
        default: copy();
      }
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error("line " + std::to_string(line_) + ": " + what);
  }

  void copy() {
    const char c = in_[at_++];
    if (c == '\0') refuse("a byte that is no text");
    if (c == '\n') ++line_;
    out_ += c;
  }

  void comment() {
    while (at_ < in_.size() && in_[at_] != '\n') copy();
  }

  void literal() {
    copy();
    while (at_ < in_.size() && in_[at_] != '"' && in_[at_] != '\n') {
      const SpecialTokens::Found found = specials_.find(in_, at_);
      if (found.length > 0) {
        if (found.stops) {
          refuse("the stop token " + in_.substr(at_, found.length) +
                 " is allowed where the grammar ends and nowhere else; leave it out");
        }
        out_ += private_character(found.token);
        at_ += found.length;
      } else {
        character();
      }
    }
    if (at_ < in_.size()) copy();
  }

  void character_class() {
    copy();
    while (at_ < in_.size() && in_[at_] != ']' && in_[at_] != '\n') character();
    if (at_ < in_.size()) copy();
  }

  // One character or escape. The engine reads any number of digits after \x.
  void character() {
    const size_t start = at_;
    copy();
    if (in_[start] != '\\' || at_ == in_.size()) return;
    const char kind = in_[at_];
    copy();
    if (kind != 'x' && kind != 'u' && kind != 'U') return;
    const size_t digits = kind == 'x' ? in_.size() : kind == 'u' ? 4 : 8;
    uint32_t code = 0;
    for (size_t i = 0; i < digits && at_ < in_.size() && hex_digit(in_[at_]) >= 0; ++i) {
      code = code * 16 + static_cast<uint32_t>(hex_digit(in_[at_]));
      copy();
      if (code > kLastCharacter || (code >= 0xD800 && code < 0xE000 && i + 1 == digits)) {
        refuse("the escape " + in_.substr(start, at_ - start) + " is no character");
      }
    }
  }

  const std::string& in_;
  const SpecialTokens& specials_;
  std::string out_;
  size_t at_ = 0;
  int line_ = 1;
};

}  // namespace

std::string SpecialTokens::add(std::string_view text, int32_t token, bool stops) {
  if (token > kLastPrivate - kFirstPrivate) {
    throw Error("special token " + std::to_string(token) + " has no private character; grammars know special tokens up to " +
                std::to_string(kLastPrivate - kFirstPrivate));
  }
  std::string spelled;
  for (const char c : text) {
    if (c == '"' || c == '\\') spelled += '\\';
    spelled += c;
  }
  const size_t length = spelled.size();
  begins_[static_cast<uint8_t>(spelled[0])] = true;
  tokens_.emplace(std::move(spelled), Found{length, token, stops});
  const auto place = std::lower_bound(lengths_.begin(), lengths_.end(), length, std::greater<>());
  if (place == lengths_.end() || *place != length) lengths_.insert(place, length);
  return private_character(token);
}

SpecialTokens::Found SpecialTokens::find(const std::string& grammar, size_t at) const {
  if (!begins_[static_cast<uint8_t>(grammar[at])]) return {};
  for (const size_t length : lengths_) {
    if (length > grammar.size() - at) continue;
    const auto found = tokens_.find(grammar.substr(at, length));
    if (found != tokens_.end()) return found->second;
  }
  return {};
}

size_t utf8_length(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const auto byte = [&](size_t i) { return at + i < text.size() ? static_cast<uint8_t>(text[at + i]) : uint8_t{0}; };
    const uint8_t lead = byte(0);
    const size_t length = lead < 0x80 ? 1 : lead < 0xC2 || lead > 0xF4 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (length == 0) break;
    // The second byte's bounds leave out overlong forms, surrogates and what is behind the last character.
    uint8_t least = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    uint8_t most = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    size_t read = 1;
    for (; read < length && byte(read) >= least && byte(read) <= most; ++read) least = 0x80, most = 0xBF;
    if (read < length) break;
    at += length;
  }
  return at;
}

std::string to_engine_grammar(const std::string& grammar, const SpecialTokens& specials) {
  // xgrammar 0.2.8 masks tokens that a root allows which refers to itself; nothing refers to this one.
  return Translator(grammar, specials).run() + "\n" + kRoot + " ::= root\n";
}

}  // namespace edge_mtp
