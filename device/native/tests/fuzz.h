// A fuzz target: the libFuzzer entry point, what it needs around it, and nothing else, so that each file builds with
// our driver (fuzz_main.cc, any compiler) or with -fsanitize=fuzzer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

// Whatever a reader is given ends in a value or an Error; anything else ends the process. Errors are one line.
template <typename Body>
void must_answer(const Body& body) {
  try {
    body();
  } catch (const edge_mtp::Error& error) {
    if (std::strlen(error.what()) == 0 || std::strchr(error.what(), '\n') != nullptr) {
      std::fprintf(stderr, "not one line: %s\n", error.what());
      std::abort();
    }
  }
}

inline void must(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

// Reads every byte, so that a sanitizer sees a view of memory that is not there.
inline volatile uint8_t touched = 0;
inline void touch(std::string_view bytes) {
  for (const char byte : bytes) touched = static_cast<uint8_t>(byte);
}

inline std::string_view view(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// Takes an input apart into the operands of calls; zeros where it ends.
class Operands {
 public:
  Operands(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  bool empty() const { return size_ == 0; }
  template <typename T>
  T take() {
    T value{};
    const size_t length = size_ < sizeof value ? size_ : sizeof value;
    if (length > 0) std::memcpy(&value, data_, length);
    data_ += length;
    size_ -= length;
    return value;
  }
  // 0 .. below-1
  int32_t below(int32_t below) { return static_cast<int32_t>(take<uint16_t>() % below); }
  // Of a length that the input chooses, 255 at most.
  std::string_view text() {
    const size_t wanted = take<uint8_t>(), length = size_ < wanted ? size_ : wanted;
    const std::string_view text = view(data_, length);
    data_ += length;
    size_ -= length;
    return text;
  }
  std::string_view rest() const { return view(data_, size_); }

 private:
  const uint8_t* data_;
  size_t size_;
};
