// A line of the runner's input, up to the request that the library is handed. The runner is this one file, so it is
// taken in whole, with another name for its main.
#define main runner_main
#include "../runner.cc"
#undef main

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string line(view(data, size));
  is_cancel(line);
  try {
    json::Value value = json::parse(line);
    auto* object = std::get_if<json::Object>(&value.data);
    if (object == nullptr) return 0;
    Fields fields(std::move(*object));
    touch(fields.text("request", ""));
    touch(fields.text("op", ""));
    const GenerateRequest wanted(fields);
    const edge_mtp_request& request = wanted.request;
    const auto ints = [](const int32_t* items, size_t count) {
      for (size_t i = 0; i < count; ++i) must(items[i] >= 0, "token ids are not negative");
    };
    ints(request.prompt, request.prompt_length);
    ints(request.stop, request.stop_length);
    ints(request.suppress, request.suppress_length);
    ints(request.draft_tape, request.draft_tape_length);
    ints(request.thought_marks, request.thought_marks == nullptr ? 0 : 2);
    ints(request.thought_header, request.thought_header_length);
    must(request.thought_budget >= 0, "a budget is not negative");
    ints(request.bias_tokens, request.bias_length);
    touch(view(reinterpret_cast<const uint8_t*>(request.biases), request.bias_length * sizeof(float)));
    for (size_t i = 0; i < request.stop_texts_length; ++i) touch(request.stop_texts[i]);
    touch(request.grammar);
    must(request.max_tokens >= 1 && request.draft_length >= 0 && request.keep_prefix >= 0, "lengths are in range");
  } catch (const Error& error) {
    // The answer is a record: one line of JSON, whatever the request said.
    const std::string answer = json::quote(error.what());
    must(answer.find('\n') == std::string::npos, "the answer is one line");
    json::parse(answer);
  }
  return 0;
}
