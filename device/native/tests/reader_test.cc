// The readers of outside data: JSON requests, bundles, .tflite tables. Every input ends in a value or an Error.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "bundle.h"
#include "error.h"
#include "json.h"
#include "tflite_file.h"

namespace {

int failures = 0;

void expect(bool ok, const std::string& what) {
  if (ok) return;
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  ++failures;
}

template <typename Body>
bool refuses(const Body& body) {
  try {
    body();
  } catch (const edge_mtp::Error&) {
    return true;
  }
  return false;
}

void test_json() {
  namespace json = edge_mtp::json;
  const json::Value value = json::parse(R"( {"a": [1, -2.5e3, true, null], "b\n": "\u00e9\ud83d\ude00\\"} )");
  const auto& object = std::get<json::Object>(value.data);
  const auto& array = std::get<json::Array>(object.at("a").data);
  expect(std::get<int64_t>(array.at(0).data) == 1, "integer");
  expect(std::get<double>(array.at(1).data) == -2500.0, "real");
  expect(std::get<bool>(array.at(2).data), "true");
  expect(std::holds_alternative<std::nullptr_t>(array.at(3).data), "null");
  expect(std::get<std::string>(object.at("b\n").data) == "\xc3\xa9\xf0\x9f\x98\x80\\", "string escapes");
  expect(std::get<int64_t>(json::parse("9223372036854775807").data) == INT64_MAX, "64-bit integers stay exact");
  expect(json::quote("a\"\\\n") == "\"a\\\"\\\\\\u000a\"", "quote");
  for (const char* good : {"\xc2\x80", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    const std::string quoted = std::string("\"") + good + "\"";
    expect(std::get<std::string>(json::parse(quoted).data) == good, "UTF-8 is kept as it is");
  }
  for (const char* bad : {"", "{", "[1,]", "{\"a\"}", "tru", "1 2", "\"\\u12\"", "\"\\ud800\"", "nan", "-", "\"\x01\"",
                          "1e999", "{\"a\":1,}", "'a'", "\"\xff\"", "\"\xc3\"", "\"\xc0\x80\"", "\"\xe0\x9f\xbf\"",
                          "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\"", "\"\x80\""}) {
    expect(refuses([&] { json::parse(bad); }), std::string("JSON accepted: ") + bad);
  }
  expect(refuses([] { json::parse(std::string(100000, '[')); }), "nesting is bounded");
  // What is quoted can be parsed, whatever bytes it is.
  std::mt19937 random(5);
  for (int i = 0; i < 20000; ++i) {
    std::string bytes(random() % 12, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random() % 4 == 0 ? random() % 128 : 0xB0 + random() % 80);
    expect(!refuses([&] { json::parse(json::quote(bytes)); }), "quoted bytes are JSON");
  }
}

void write(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

void test_bundles(const std::string& path) {
  const auto open = [&] { edge_mtp::Bundle bundle(path); };
  write(path, "");
  expect(refuses(open), "empty bundle");
  expect(refuses([] { edge_mtp::Bundle bundle("/nowhere/at/all"); }), "missing bundle");
  std::mt19937 random(7);
  for (int i = 0; i < 2000; ++i) {
    std::string bytes = std::string("LITERTLM\x01\0\0\0\x07\0\0\0\0\0\0\0\0\0\0\0", 24);
    const uint64_t end = random() % 300;
    bytes.append(reinterpret_cast<const char*>(&end), 8);
    for (int b = 0; b < 200; ++b) bytes += static_cast<char>(random() % 32);
    write(path, bytes);
    refuses(open);  // a value or an Error; anything else ends this process
  }
  std::remove(path.c_str());
}

void test_tables() {
  std::mt19937 random(11);
  for (int i = 0; i < 20000; ++i) {
    std::vector<uint8_t> bytes(random() % 400);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random() % 64);
    refuses([&] { edge_mtp::find_embedding_table({bytes.data(), bytes.size()}); });
    refuses([&] { edge_mtp::claim_composites(bytes.data(), bytes.size(), "edge_mtp.verify"); });
  }
}

}  // namespace

int main(int, char** argv) {
  test_json();
  test_bundles(std::string(argv[0]) + ".litertlm");
  test_tables();
  return failures == 0 ? 0 : 1;
}
