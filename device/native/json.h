// The JSON that the runner's protocol needs: one value per line in, one object per line out.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace edge_mtp::json {

struct Value;
using Array = std::vector<Value>;
using Object = std::map<std::string, Value>;

struct Value {
  // Integers keep their 64 bits: a seed must not pass through a double.
  std::variant<std::nullptr_t, bool, int64_t, double, std::string, Array, Object> data = nullptr;
};

// Parses one complete value (RFC 8259, nesting up to 32). Throws Error saying what stands where.
Value parse(std::string_view text);

// Bytes of the UTF-8 character that `text` begins with (RFC 3629, section 4); 0 where it begins with none.
size_t character_size(std::string_view text);

// A JSON string in UTF-8; bytes that are none become U+FFFD.
std::string quote(std::string_view text);

}  // namespace edge_mtp::json
