#include "json.h"

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "error.h"

namespace edge_mtp::json {
namespace {

constexpr int kMaxDepth = 32;

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Value document() {
    Value result = value(0);
    skip_space();
    if (at_ != text_.size()) fail("text after the value");
    return result;
  }

 private:
  [[noreturn]] void fail(const char* what) const {
    throw Error(std::string("not valid JSON: ") + what + " at byte " + std::to_string(at_));
  }

  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) {
      ++at_;
    }
  }

  bool take(char c) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  void expect(char c, const char* what) {
    if (!take(c)) fail(what);
  }

  bool take_word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Value value(int depth) {
    if (depth > kMaxDepth) fail("nested too deeply");
    skip_space();
    if (at_ >= text_.size()) fail("the text ends");
    switch (text_[at_]) {
      case '{': return object(depth);
      case '[': return array(depth);
      case '"': return {string()};
      case 't': if (take_word("true")) return {true}; break;
      case 'f': if (take_word("false")) return {false}; break;
      case 'n': if (take_word("null")) return {nullptr}; break;
      default: return number();
    }
    fail("an unknown word");
  }

  Value object(int depth) {
    Object members;
    expect('{', "'{' expected");
    if (take('}')) return {members};
    do {
      skip_space();
      std::string key = string();
      expect(':', "':' expected");
      members[std::move(key)] = value(depth + 1);
    } while (take(','));
    expect('}', "',' or '}' expected");
    return {std::move(members)};
  }

  Value array(int depth) {
    Array items;
    expect('[', "'[' expected");
    if (take(']')) return {items};
    do items.push_back(value(depth + 1));
    while (take(','));
    expect(']', "',' or ']' expected");
    return {std::move(items)};
  }

  Value number() {
    const size_t start = at_;
    bool integer = true;
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '.' || c == 'e' || c == 'E' || c == '+') integer = false;
      else if (!(c == '-' || (c >= '0' && c <= '9'))) break;
      ++at_;
    }
    const std::string token(text_.substr(start, at_ - start));
    char* end = nullptr;
    errno = 0;
    if (integer) {
      const int64_t whole = std::strtoll(token.c_str(), &end, 10);
      if (!token.empty() && *end == '\0' && errno == 0) return {whole};
    }
    const double real = std::strtod(token.c_str(), &end);
    if (token.empty() || *end != '\0' || !std::isfinite(real)) fail("a bad number");
    return {real};
  }

  std::string string() {
    if (at_ >= text_.size() || text_[at_] != '"') fail("a string expected");
    ++at_;
    std::string out;
    while (at_ < text_.size() && text_[at_] != '"') {
      const char c = text_[at_];
      if (static_cast<unsigned char>(c) < 0x20) fail("a control character in a string");
      if (c != '\\') {
        const size_t size = character_size(text_.substr(at_));
        if (size == 0) fail("not UTF-8");
        out += text_.substr(at_, size);
        at_ += size;
        continue;
      }
      ++at_;
      if (at_ >= text_.size()) break;
      switch (const char escaped = text_[at_++]) {
        case 'n': out += '\n'; break;
        case 't': out += '\t'; break;
        case 'r': out += '\r'; break;
        case 'b': out += '\b'; break;
        case 'f': out += '\f'; break;
        case 'u': append_utf8(out, code_point()); break;
        case '"': case '\\': case '/': out += escaped; break;
        default: fail("an unknown escape");
      }
    }
    if (at_ >= text_.size()) fail("a string without its end");
    ++at_;
    return out;
  }

  uint32_t hex4() {
    uint32_t code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = at_ < text_.size() ? text_[at_] : '\0';
      const int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
      if (digit < 0) fail("a bad \\u escape");
      code = code * 16 + static_cast<uint32_t>(digit);
    }
    return code;
  }

  uint32_t code_point() {
    const uint32_t high = hex4();
    if (high < 0xD800 || high > 0xDFFF) return high;
    if (high > 0xDBFF || !take_word("\\u")) fail("half of a surrogate pair");
    const uint32_t low = hex4();
    if (low < 0xDC00 || low > 0xDFFF) fail("half of a surrogate pair");
    return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
  }

  static void append_utf8(std::string& out, uint32_t code) {
    if (code < 0x80) {
      out += static_cast<char>(code);
    } else if (code < 0x800) {
      out += static_cast<char>(0xC0 | (code >> 6));
      out += static_cast<char>(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
      out += static_cast<char>(0xE0 | (code >> 12));
      out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
      out += static_cast<char>(0x80 | (code & 0x3F));
    } else {
      out += static_cast<char>(0xF0 | (code >> 18));
      out += static_cast<char>(0x80 | ((code >> 12) & 0x3F));
      out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
      out += static_cast<char>(0x80 | (code & 0x3F));
    }
  }

  std::string_view text_;
  size_t at_ = 0;
};

constexpr char kReplacement[] = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace

size_t character_size(std::string_view text) {
  const auto first = static_cast<unsigned char>(text.empty() ? '\xFF' : text[0]);
  if (first < 0x80) return 1;
  const size_t size = first < 0xC2 || first > 0xF4 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  if (size > text.size()) return 0;
  unsigned char least = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  unsigned char most = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  for (size_t i = 1; i < size; ++i, least = 0x80, most = 0xBF) {
    const auto next = static_cast<unsigned char>(text[i]);
    if (next < least || next > most) return 0;
  }
  return size;
}

Value parse(std::string_view text) { return Parser(text).document(); }

std::string quote(std::string_view text) {
  std::string out = "\"";
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (static_cast<unsigned char>(c) >= 0x80) {
      // Names in files and pieces of a grammar may be cut anywhere, and a reader of JSON takes UTF-8 only.
      const size_t size = character_size(text.substr(i));
      if (size == 0) {
        out += kReplacement;
      } else {
        out += text.substr(i, size);
        i += size - 1;
      }
    } else if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escape[7];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
      out += escape;
    } else {
      out += c;
    }
  }
  return out + "\"";
}

}  // namespace edge_mtp::json
