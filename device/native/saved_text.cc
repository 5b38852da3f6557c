#include "saved_text.h"

#include <cstring>

namespace edge_mtp {

void SavedWriter::put(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  char digits[17];
  for (int i = 0; i < 16; ++i) digits[i] = "0123456789abcdef"[bits >> (60 - 4 * i) & 15];
  digits[16] = '\0';
  out_ << ' ' << digits;
}

double SavedReader::get(double least, double most) {
  std::string digits;
  uint64_t bits = 0;
  good_ = good_ && (in_ >> digits) && digits.size() == 16;
  for (size_t i = 0; good_ && i < digits.size(); ++i) {
    const char c = digits[i];
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    good_ = digit >= 0;
    bits = bits << 4 | static_cast<uint64_t>(digit & 15);
  }
  double value;
  std::memcpy(&value, &bits, sizeof value);
  good_ = good_ && value >= least && value <= most;  // false for NaN
  return good_ ? value : 0.0;
}

int64_t SavedReader::get_count(double most) {
  int64_t value = 0;
  good_ = good_ && (in_ >> value) && value >= 0 && static_cast<double>(value) <= most;
  return good_ ? value : 0;
}

void SavedReader::expect_word(const char* word) {
  std::string found;
  good_ = good_ && (in_ >> found) && found == word;
}

void SavedReader::expect_end() {
  std::string rest;
  good_ = good_ && !(in_ >> rest);
}

}  // namespace edge_mtp
