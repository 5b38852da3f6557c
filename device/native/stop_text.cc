#include "stop_text.h"

#include <string_view>
#include <utility>

#include "error.h"

namespace edge_mtp {

StopText::StopText(const TokenBytes& tokens, std::vector<std::string> strings) : tokens_(tokens) {
  for (std::string& string : strings) {
    if (string.empty()) throw Error("a stop string is empty; leave it out");
    Pattern pattern{std::move(string), {}, 0};
    pattern.border.resize(pattern.text.size());
    for (size_t i = 1, length = 0; i < pattern.text.size(); ++i) {
      while (length > 0 && pattern.text[i] != pattern.text[length]) length = pattern.border[length - 1];
      if (pattern.text[i] == pattern.text[length]) ++length;
      pattern.border[i] = length;
    }
    patterns_.push_back(std::move(pattern));
  }
}

bool StopText::Pattern::push(char byte) {
  while (matched > 0 && text[matched] != byte) matched = border[matched - 1];
  if (text[matched] == byte) ++matched;
  if (matched < text.size()) return false;
  matched = border[matched - 1];
  return true;
}

int32_t StopText::push(int32_t token) {
  int32_t found = -1;
  for (const char byte : tokens_.text(token)) {
    const bool open = found < 0;  // a string that ended at an earlier byte is the answer; the others only move on
    for (size_t i = 0; i < patterns_.size(); ++i) {
      if (!patterns_[i].push(byte) || !open) continue;
      if (found < 0 || patterns_[i].text.size() > patterns_[static_cast<size_t>(found)].text.size()) {
        found = static_cast<int32_t>(i);
      }
    }
  }
  return found;
}

void StopText::reset() {
  for (Pattern& pattern : patterns_) pattern.matched = 0;
}

}  // namespace edge_mtp
