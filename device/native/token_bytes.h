// The bundle's token-bytes table: which bytes each token id stands for (edge_mtp/formats/token_bytes.py has the layout).
#pragma once

#include <cstdint>
#include <string_view>

#include "flatbuffer.h"

namespace edge_mtp {

class TokenBytes {
 public:
  // Reads `table` in place; it must outlive this. Throws Error on a truncated or inconsistent table.
  explicit TokenBytes(flatbuffer::Bytes table);

  int32_t vocabulary() const { return vocabulary_; }
  std::string_view text(int32_t token) const;  // empty for ids that the tokenizer lacks
  bool is_special(int32_t token) const;

 private:
  const uint8_t *offsets_, *text_, *flags_;
  int32_t vocabulary_;
};

}  // namespace edge_mtp
