// The text form of what a controller remembers: words with a space before each. A double is its bits in hexadecimal,
// so it is exact and the same in every locale.
#pragma once

#include <cstdint>
#include <sstream>
#include <string>

namespace edge_mtp {

class SavedWriter {
 public:
  explicit SavedWriter(const std::string& header) { out_ << header; }

  void put(double value);
  void put_count(int64_t value) { out_ << ' ' << value; }
  void put_word(const char* word) { out_ << ' ' << word; }
  std::string text() const { return out_.str(); }

 private:
  std::ostringstream out_;
};

// Reads what SavedWriter wrote behind its header. After a failure, such as a value beyond its bounds, good() stays false.
class SavedReader {
 public:
  explicit SavedReader(const std::string& text) : in_(text) {}

  double get(double least, double most);  // 0 after a failure; NaN is one
  int64_t get_count(double most);
  void expect_word(const char* word);
  void expect_end();
  // Makes good() false unless `condition` holds.
  void require(bool condition) { good_ = good_ && condition; }
  bool good() const { return good_; }

 private:
  std::istringstream in_;
  bool good_ = true;
};

}  // namespace edge_mtp
