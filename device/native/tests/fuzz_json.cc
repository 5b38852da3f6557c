// JSON: a value that is accepted can be written and read again.
#include "fuzz.h"
#include "json.h"

namespace {

void strings_survive(const edge_mtp::json::Value& value) {
  namespace json = edge_mtp::json;
  if (const auto* text = std::get_if<std::string>(&value.data)) {
    const json::Value again = json::parse(json::quote(*text));
    must(std::get<std::string>(again.data) == *text, "a quoted string is read as it was");
  } else if (const auto* array = std::get_if<json::Array>(&value.data)) {
    for (const json::Value& item : *array) strings_survive(item);
  } else if (const auto* object = std::get_if<json::Object>(&value.data)) {
    for (const auto& [name, member] : *object) strings_survive(member);
  }
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  must_answer([&] { strings_survive(edge_mtp::json::parse(view(data, size))); });
  return 0;
}
