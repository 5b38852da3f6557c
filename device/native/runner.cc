// edge_mtp_runner: serves one bundle over standard input and output, JSON lines both ways (docs/trace.md).
#include <atomic>
#include <cinttypes>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <chrono>
#include <iostream>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "edge_mtp.h"
#include "error.h"
#include "json.h"

namespace {

using edge_mtp::Error;
namespace json = edge_mtp::json;

constexpr int kProtocol = 1;
constexpr const char* kFinishNames[] = {"stop", "length", "context", "cancelled"};
constexpr char kUsage[] =
    "usage: edge_mtp_runner --bundle FILE --litert LIBLITERT_SO [--cache-dir DIR] [--threads N]\n"
    "Reads requests and writes tokens and trace records as JSON lines; see docs/trace.md.\n";

template <typename T>
std::string list(const T* items, int32_t count, const char* format) {
  std::string out = "[";
  char item[32];
  for (int32_t i = 0; i < count; ++i) {
    std::snprintf(item, sizeof item, format, items[i]);
    if (i > 0) out += ',';
    out += item;
  }
  return out + "]";
}

// Writes a record. Every flush wakes the reader, which on a small machine takes the core from the next step: steps
// faster than anyone can read share a flush.
void emit(const std::string& line, bool urgent = true) {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::milliseconds kPatience(5);
  static Clock::time_point flushed = Clock::now();
  std::fwrite(line.data(), 1, line.size(), stdout);
  std::fputc('\n', stdout);
  if (!urgent && Clock::now() - flushed < kPatience) return;
  std::fflush(stdout);
  flushed = Clock::now();
}

void emit_error(const std::string& request, const std::string& message) {
  emit("{\"event\":\"error\",\"request\":" + (request.empty() ? "null" : json::quote(request)) +
       ",\"message\":" + json::quote(message) + "}");
}

// Takes values out of a request's object; what is left at the end is a mistake of the sender's.
class Fields {
 public:
  explicit Fields(json::Object object) : object_(std::move(object)) {}

  std::string text(const char* name, const char* absent) {
    const json::Value value = take(name, std::string(absent));
    if (const auto* held = std::get_if<std::string>(&value.data)) return *held;
    throw Error(std::string("'") + name + "' must be a string");
  }

  int64_t integer(const char* name, int64_t absent, int64_t least, int64_t most) {
    const json::Value value = take(name, absent);
    const auto* held = std::get_if<int64_t>(&value.data);
    if (held == nullptr || *held < least || *held > most) {
      throw Error(std::string("'") + name + "' must be an integer from " + std::to_string(least) + " to " +
                  std::to_string(most));
    }
    return *held;
  }

  float real(const char* name, double absent) {
    const json::Value value = take(name, absent);
    if (const auto* held = std::get_if<double>(&value.data)) return static_cast<float>(*held);
    if (const auto* held = std::get_if<int64_t>(&value.data)) return static_cast<float>(*held);
    throw Error(std::string("'") + name + "' must be a number");
  }

  bool flag(const char* name, bool absent) {
    const json::Value value = take(name, absent);
    if (const auto* held = std::get_if<bool>(&value.data)) return *held;
    throw Error(std::string("'") + name + "' must be true or false");
  }

  std::vector<int32_t> tokens(const char* name) {
    const json::Value value = take(name, json::Array());
    std::vector<int32_t> out;
    const auto* items = std::get_if<json::Array>(&value.data);
    for (size_t i = 0; items != nullptr && i < items->size(); ++i) {
      const auto* id = std::get_if<int64_t>(&(*items)[i].data);
      if (id == nullptr || *id < 0 || *id > std::numeric_limits<int32_t>::max()) {
        items = nullptr;
        break;
      }
      out.push_back(static_cast<int32_t>(*id));
    }
    if (items == nullptr) throw Error(std::string("'") + name + "' must be a list of token ids");
    return out;
  }

  void finish() const {
    if (!object_.empty()) throw Error("unknown field '" + object_.begin()->first + "'");
  }

 private:
  template <typename T>
  json::Value take(const char* name, T absent) {
    const auto found = object_.find(name);
    if (found == object_.end()) return {absent};
    json::Value value = std::move(found->second);
    object_.erase(found);
    return value;
  }

  json::Object object_;
};

struct StepContext {
  const std::string& request;
  int index = 0;
};

void emit_step(const edge_mtp_step* step, void* user) {
  auto& context = *static_cast<StepContext*>(user);
  char numbers[320];
  std::snprintf(numbers, sizeof numbers,
                ",\"step\":%d,\"kind\":\"%s\",\"position\":%d,\"accepted\":%d,\"draft_us\":%.1f,\"embed_us\":%.1f,"
                "\"verify_us\":%.1f,\"select_us\":%.1f,\"total_us\":%.1f",
                context.index++, step->kind == EDGE_MTP_PLAIN ? "plain" : "verify", step->position, step->accepted,
                step->draft_us, step->embed_us, step->verify_us, step->select_us, step->total_us);
  emit("{\"event\":\"step\",\"request\":" + json::quote(context.request) + numbers +
       ",\"tokens\":" + list(step->tokens, step->count, "%d") + ",\"draft\":" + list(step->draft, step->drafted, "%d") +
           ",\"confidence\":" + list(step->confidence, step->drafted, "%.4f") + "}",
       /*urgent=*/false);
}

void generate(edge_mtp_session* session, const std::string& name, Fields& fields) {
  const std::vector<int32_t> prompt = fields.tokens("prompt");
  const std::vector<int32_t> stop = fields.tokens("stop");
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  edge_mtp_request request{};
  request.prompt = prompt.data();
  request.prompt_length = prompt.size();
  request.stop = stop.data();
  request.stop_length = stop.size();
  request.max_tokens = static_cast<int32_t>(fields.integer("max_tokens", 0, 1, kMost));
  request.draft_length = static_cast<int32_t>(fields.integer("draft_length", 0, 0, kMost));
  request.temperature = fields.real("temperature", 0.0);
  request.top_k = static_cast<int32_t>(fields.integer("top_k", 0, 0, kMost));
  request.top_p = fields.real("top_p", 1.0);
  request.min_p = fields.real("min_p", 0.0);
  request.seed = static_cast<uint64_t>(fields.integer("seed", 0, 0, std::numeric_limits<int64_t>::max()));
  request.couple_drafts = fields.flag("couple_drafts", false) ? 1 : 0;
  fields.finish();

  StepContext context{name};
  edge_mtp_outcome outcome{};
  if (edge_mtp_generate(session, &request, emit_step, &context, &outcome) != 0) throw Error(edge_mtp_error());
  char numbers[160];
  std::snprintf(numbers, sizeof numbers,
                ",\"finish\":\"%s\",\"prompt_tokens\":%d,\"tokens\":%d,\"prefill_us\":%.1f,\"total_us\":%.1f}",
                kFinishNames[outcome.finish], outcome.prompt_tokens, outcome.tokens, outcome.prefill_us,
                outcome.total_us);
  emit("{\"event\":\"done\",\"request\":" + json::quote(name) + numbers);
}

void serve(edge_mtp_session* session, const std::string& line) {
  std::string name;
  try {
    json::Value value = json::parse(line);
    auto* object = std::get_if<json::Object>(&value.data);
    if (object == nullptr) throw Error("a request must be a JSON object");
    Fields fields(std::move(*object));
    name = fields.text("request", "");
    const std::string op = fields.text("op", "");
    if (op != "generate") throw Error("unknown op '" + op + "'; the ops are generate and cancel");
    generate(session, name, fields);
  } catch (const std::exception& error) {
    emit_error(name, error.what());
  }
}

bool is_cancel(const std::string& line) {
  try {
    const json::Value value = json::parse(line);
    const auto* object = std::get_if<json::Object>(&value.data);
    const auto op = object == nullptr ? json::Object::const_iterator() : object->find("op");
    if (object == nullptr || op == object->end()) return false;
    const auto* text = std::get_if<std::string>(&op->second.data);
    return text != nullptr && *text == "cancel";
  } catch (const Error&) {
    return false;  // serve() will answer for it
  }
}

// Lines wait here while a request runs; a cancel does not wait.
class Inbox {
 public:
  explicit Inbox(edge_mtp_session* session) : reader_([this, session] { read(session); }) {}
  ~Inbox() { reader_.join(); }

  // The next request; false at the end of input.
  bool next(std::string& line) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return closed_ || !lines_.empty(); });
    if (lines_.empty()) return false;
    line = std::move(lines_.front());
    lines_.pop_front();
    return true;
  }

 private:
  void read(edge_mtp_session* session) {
    std::string line;
    while (std::getline(std::cin, line)) {
      if (line.empty()) continue;
      if (is_cancel(line)) {
        edge_mtp_cancel(session);
        continue;
      }
      const std::lock_guard<std::mutex> lock(mutex_);
      lines_.push_back(std::move(line));
      changed_.notify_one();
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
    changed_.notify_one();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::string> lines_;
  bool closed_ = false;
  std::thread reader_;
};

int run(int argc, char** argv) {
  const char* bundle = nullptr;
  edge_mtp_options options{};
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--help") {
      std::fputs(kUsage, stdout);
      return 0;
    }
    const char* value = i + 1 < argc ? argv[++i] : nullptr;
    if (value != nullptr && flag == "--bundle") {
      bundle = value;
    } else if (value != nullptr && flag == "--litert") {
      options.litert_library = value;
    } else if (value != nullptr && flag == "--cache-dir") {
      options.cache_dir = value;
    } else if (value != nullptr && flag == "--threads" && std::atoi(value) > 0) {
      options.threads = std::atoi(value);
    } else {
      std::fputs(kUsage, stderr);
      return 2;
    }
  }
  if (bundle == nullptr || options.litert_library == nullptr) {
    std::fputs(kUsage, stderr);
    return 2;
  }

  std::setvbuf(stdout, nullptr, _IOFBF, 1 << 16);
  const auto start = std::chrono::steady_clock::now();
  edge_mtp_engine* engine = edge_mtp_open(bundle, &options);
  edge_mtp_session* session = engine == nullptr ? nullptr : edge_mtp_session_create(engine);
  if (session == nullptr) {
    emit_error("", edge_mtp_error());
    edge_mtp_close(engine);
    return 1;
  }
  const double load_us =
      std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
  const edge_mtp_info info = edge_mtp_describe(engine);
  char ready[200];
  std::snprintf(ready, sizeof ready,
                "{\"event\":\"ready\",\"protocol\":%d,\"context_length\":%d,\"vocabulary\":%d,"
                "\"max_draft_length\":%d,\"load_us\":%.1f}",
                kProtocol, info.context_length, info.vocabulary, info.max_draft_length, load_us);
  emit(ready);
  {
    Inbox inbox(session);
    std::string line;
    while (inbox.next(line)) serve(session, line);
  }
  edge_mtp_session_destroy(session);
  edge_mtp_close(engine);
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return run(argc, argv); }
