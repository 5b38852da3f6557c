// The constraint classes behind C functions, for tests/helpers/native_constraint.py. A failing function returns null or -1
// and leaves its message in edge_test_error().
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "constraint.h"
#include "token_bytes.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

struct Tokens {
  std::vector<uint8_t> table;
  edge_mtp::TokenBytes bytes;

  explicit Tokens(std::vector<uint8_t> data)
      : table(std::move(data)), bytes(edge_mtp::flatbuffer::Bytes{table.data(), table.size()}) {}
};

thread_local std::string error;

template <typename Function>
auto guarded(Function&& function, decltype(function()) failed) -> decltype(function()) {
  try {
    return function();
  } catch (const std::exception& exception) {
    error = exception.what();
    return failed;
  }
}

}  // namespace

EXPORT const char* edge_test_error() { return error.c_str(); }

EXPORT Tokens* edge_test_tokens(const uint8_t* table, size_t size) {
  return guarded([&] { return new Tokens(std::vector<uint8_t>(table, table + size)); }, nullptr);
}
EXPORT void edge_test_tokens_free(Tokens* tokens) { delete tokens; }
EXPORT int32_t edge_test_tokens_vocabulary(const Tokens* tokens) { return tokens->bytes.vocabulary(); }
EXPORT int32_t edge_test_tokens_special(const Tokens* tokens, int32_t token) { return tokens->bytes.is_special(token); }
EXPORT size_t edge_test_tokens_text(const Tokens* tokens, int32_t token, const char** text) {
  const std::string_view found = tokens->bytes.text(token);
  *text = found.data();
  return found.size();
}

EXPORT edge_mtp::GrammarCompiler* edge_test_compiler(const Tokens* tokens, const int32_t* stop, size_t count) {
  return guarded([&] { return new edge_mtp::GrammarCompiler(tokens->bytes, {stop, stop + count}); }, nullptr);
}
EXPORT void edge_test_compiler_free(edge_mtp::GrammarCompiler* compiler) { delete compiler; }

EXPORT edge_mtp::Constraint* edge_test_constraint(edge_mtp::GrammarCompiler* compiler, const char* grammar,
                                                  size_t size) {
  return guarded([&] { return new edge_mtp::Constraint(*compiler, {grammar, size}); }, nullptr);
}
EXPORT void edge_test_constraint_free(edge_mtp::Constraint* constraint) { delete constraint; }
EXPORT int32_t edge_test_mask(edge_mtp::Constraint* constraint, int32_t* words) {
  return guarded([&] { return constraint->mask(words), 0; }, -1);
}
EXPORT int32_t edge_test_accept(edge_mtp::Constraint* constraint, int32_t token) {
  return guarded([&] { return static_cast<int>(constraint->accept(token)); }, -1);
}
EXPORT int32_t edge_test_rollback(edge_mtp::Constraint* constraint, int32_t count) {
  return guarded([&] { return constraint->rollback(count), 0; }, -1);
}
// At most `most` tokens into `tokens`; returns how many.
EXPORT int32_t edge_test_forced(edge_mtp::Constraint* constraint, int32_t most, int32_t* tokens) {
  return guarded(
      [&] {
        std::vector<int32_t> found;
        constraint->forced(most, found);
        if (!found.empty()) std::memcpy(tokens, found.data(), found.size() * sizeof(int32_t));
        return static_cast<int>(found.size());
      },
      -1);
}
EXPORT int32_t edge_test_finished(const edge_mtp::Constraint* constraint) { return constraint->finished(); }
