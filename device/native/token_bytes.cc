#include "token_bytes.h"

#include <cstring>
#include <string>

#include "error.h"

namespace edge_mtp {
namespace {

constexpr uint32_t kMagic = 0x42544D45;  // "EMTB"
constexpr uint32_t kVersion = 1;
constexpr size_t kHeader = 12;
constexpr uint8_t kSpecial = 1;
constexpr uint32_t kMostTokens = 1u << 26;

uint32_t word(const uint8_t* at) {
  uint32_t value;
  std::memcpy(&value, at, sizeof(value));
  return value;
}

[[noreturn]] void refuse(const std::string& what) {
  throw Error("the token-bytes table " + what + "; export the bundle again");
}

}  // namespace

TokenBytes::TokenBytes(flatbuffer::Bytes table) {
  if (table.size < kHeader) refuse("is truncated: " + std::to_string(table.size) + " bytes");
  if (word(table.data) != kMagic) refuse("does not begin with EMTB");
  if (word(table.data + 4) != kVersion) {
    refuse("has version " + std::to_string(word(table.data + 4)) + ", this runtime reads " + std::to_string(kVersion));
  }
  const uint32_t count = word(table.data + 8);
  if (count == 0 || count > kMostTokens) refuse("names " + std::to_string(count) + " tokens");
  const size_t text = kHeader + 4 * (size_t{count} + 1);
  if (table.size < text) refuse("is truncated: its offsets end past its end");
  offsets_ = table.data + kHeader;
  uint32_t end = 0;
  for (uint32_t token = 0; token <= count; ++token) {
    const uint32_t offset = word(offsets_ + 4 * size_t{token});
    if (offset < end || (token == 0 && offset != 0)) refuse("has offsets out of order at token " + std::to_string(token));
    end = offset;
  }
  if (table.size - text < end || table.size - text - end != count) {
    refuse("is " + std::to_string(table.size) + " bytes long where its offsets say " +
           std::to_string(uint64_t{text} + end + count));
  }
  text_ = table.data + text;
  flags_ = text_ + end;
  vocabulary_ = static_cast<int32_t>(count);
}

std::string_view TokenBytes::text(int32_t token) const {
  if (token < 0 || token >= vocabulary_) return {};
  const uint8_t* offset = offsets_ + 4 * static_cast<size_t>(token);
  const uint32_t begin = word(offset);
  return {reinterpret_cast<const char*>(text_ + begin), word(offset + 4) - begin};
}

bool TokenBytes::is_special(int32_t token) const {
  return token >= 0 && token < vocabulary_ && (flags_[token] & kSpecial) != 0;
}

}  // namespace edge_mtp
