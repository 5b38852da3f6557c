// edge_mtp_runner: serves one bundle over standard input and output, JSON lines both ways (docs/trace.md).
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
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
#include <optional>
#include <string>
#include <thread>

#include "accelerator.h"
#include "accelerator_choice.h"
#include "edge_mtp.h"
#include "error.h"
#include "json.h"

namespace {

using edge_mtp::Error;
namespace json = edge_mtp::json;

constexpr long kMostThreads = 256;  // more than any device of today has cores; each takes memory
constexpr int kProtocol = 2;
constexpr const char* kFinishNames[] = {"stop", "length", "context", "cancelled"};
constexpr char kUsage[] =
    "usage: edge_mtp_runner --bundle FILE --litert LIBLITERT_SO [--cache-dir DIR] [--threads N] [--token-bytes FILE]\n"
    "                       [--stepwise] [--accelerator cpu|gpu|npu|auto] [--half] [--npu-libraries DIR]\n"
    "                       [--openvino-device cpu|gpu|npu]\n"
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

// The stream of records. Libraries of accelerators write lines of their own to standard output: they go to standard
// error from here on.
std::FILE* records() {
  static std::FILE* const stream = [] {
    const int own = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    std::FILE* const opened = own < 0 ? nullptr : fdopen(own, "w");
    if (opened == nullptr || dup2(STDERR_FILENO, STDOUT_FILENO) < 0) return stdout;
    std::setvbuf(opened, nullptr, _IOFBF, 1 << 16);
    return opened;
  }();
  return stream;
}

// Writes a record. Every flush wakes the reader, which on a small machine takes the core from the next step: steps
// faster than anyone can read share a flush.
void emit(const std::string& line, bool urgent = true) {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::milliseconds kPatience(5);
  static Clock::time_point flushed = Clock::now();
  std::fwrite(line.data(), 1, line.size(), records());
  std::fputc('\n', records());
  if (!urgent && Clock::now() - flushed < kPatience) return;
  std::fflush(records());
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
    if (const auto* held = std::get_if<std::string>(&value.data)) return whole(*held, name);
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
    std::vector<int32_t> out;
    for (const json::Value& item : array(name, "token ids")) out.push_back(token(item, name, "token ids"));
    return out;
  }

  std::vector<std::string> texts(const char* name) {
    std::vector<std::string> out;
    for (const json::Value& item : array(name, "strings")) {
      const auto* held = std::get_if<std::string>(&item.data);
      if (held == nullptr) refuse(name, "strings");
      out.push_back(whole(*held, name));
    }
    return out;
  }

  // Pairs [token id, bias].
  void biases(const char* name, std::vector<int32_t>& ids, std::vector<float>& values) {
    constexpr const char* kWhat = "pairs [token id, bias]";
    for (const json::Value& item : array(name, kWhat)) {
      const auto* pair = std::get_if<json::Array>(&item.data);
      if (pair == nullptr || pair->size() != 2) refuse(name, kWhat);
      ids.push_back(token(pair->front(), name, kWhat));
      const json::Value& value = pair->back();
      if (const auto* real = std::get_if<double>(&value.data)) {
        values.push_back(static_cast<float>(*real));
      } else if (const auto* integer = std::get_if<int64_t>(&value.data)) {
        values.push_back(static_cast<float>(*integer));
      } else {
        refuse(name, kWhat);
      }
    }
  }

  bool has(const char* name) const { return object_.count(name) != 0; }

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

  // The C interface ends a string at its first zero.
  static const std::string& whole(const std::string& text, const char* name) {
    if (text.find('\0') != std::string::npos) throw Error(std::string("'") + name + "' holds a zero byte; leave it out");
    return text;
  }

  [[noreturn]] static void refuse(const char* name, const char* what) {
    throw Error(std::string("'") + name + "' must be a list of " + what);
  }

  json::Array array(const char* name, const char* what) {
    json::Value value = take(name, json::Array());
    auto* items = std::get_if<json::Array>(&value.data);
    if (items == nullptr) refuse(name, what);
    return std::move(*items);
  }

  static int32_t token(const json::Value& item, const char* name, const char* what) {
    const auto* id = std::get_if<int64_t>(&item.data);
    if (id == nullptr || *id < 0 || *id > std::numeric_limits<int32_t>::max()) refuse(name, what);
    return static_cast<int32_t>(*id);
  }

  json::Object object_;
};

// How many requests have been read, begun and, up to which, cancelled. A cancel that comes before its request has
// begun, and so before there is anything to end, is remembered.
struct Progress {
  bool is_cancelled() const { return cancelled >= begun; }
  std::atomic<int64_t> read{0}, begun{0}, cancelled{0};
};

struct StepContext {
  edge_mtp_session* session;
  const Progress& progress;
  const std::string& request;
  int index = 0;
};

void emit_step(const edge_mtp_step* step, void* user) {
  auto& context = *static_cast<StepContext*>(user);
  char numbers[480];
  std::snprintf(numbers, sizeof numbers,
                ",\"step\":%d,\"kind\":\"%s\",\"position\":%d,\"accepted\":%d,\"planned\":%d,\"explore\":%s,"
                "\"expected_per_ms\":%.4g,\"plain_per_ms\":%.4g,"
                "\"source\":\"%s\",\"draft_us\":%.1f,\"mask_us\":%.1f,\"embed_us\":%.1f,\"verify_us\":%.1f,"
                "\"select_us\":%.1f,\"total_us\":%.1f",
                context.index++, step->kind == EDGE_MTP_PLAIN ? "plain" : "verify", step->position, step->accepted,
                step->planned, step->explore != 0 ? "true" : "false", step->expected_per_ms, step->plain_per_ms,
                step->source, step->draft_us, step->mask_us,
                step->embed_us, step->verify_us, step->select_us, step->total_us);
  std::string line = "{\"event\":\"step\",\"request\":" + json::quote(context.request) + numbers +
                     ",\"tokens\":" + list(step->tokens, step->count, "%d") +
                     ",\"draft\":" + list(step->draft, step->drafted, "%d") +
                     ",\"confidence\":" + list(step->confidence, step->drafted, "%.4f");
  if (step->waits > 0) {
    line += ",\"waits\":" + std::to_string(step->waits) +
            ",\"bytes_to_accelerator\":" + std::to_string(step->bytes_to_accelerator) +
            ",\"bytes_from_accelerator\":" + std::to_string(step->bytes_from_accelerator);
  }
  if (step->logprobs != nullptr) {
    line += ",\"logprobs\":" + list(step->logprobs, step->count, "%.6g") +
            ",\"margins\":" + list(step->margins, step->count, "%.6g");
  }
  emit(line + "}", /*urgent=*/false);
  if (context.progress.is_cancelled()) edge_mtp_cancel(context.session);
}

// A request of the protocol in its C form, and the memory it points into.
struct GenerateRequest {
  explicit GenerateRequest(Fields& fields) {
    constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
    const auto integer = [&](const char* name, int64_t absent, int64_t least) {
      return static_cast<int32_t>(fields.integer(name, absent, least, kMost));
    };
    prompt = fields.tokens("prompt");
    stop = fields.tokens("stop");
    suppress = fields.tokens("suppress");
    draft_tape = fields.tokens("draft_tape");
    stop_texts = fields.texts("stop_texts");
    for (const std::string& text : stop_texts) stop_pointers.push_back(text.c_str());
    fields.biases("logit_bias", bias_tokens, biases);
    grammar = fields.text("grammar", "");
    thought_marks = fields.tokens("thought_marks");
    if (!thought_marks.empty() && thought_marks.size() != 2) {
      throw Error("'thought_marks' must be two token ids, the one that opens a thought and the one that closes it");
    }
    thought_header = fields.tokens("thought_header");
    request.thought_opened = fields.flag("thought_opened", false) ? 1 : 0;
    request.limits_thoughts = fields.has("thought_budget") ? 1 : 0;
    request.thought_budget = integer("thought_budget", 0, 0);
    request.max_tokens = integer("max_tokens", 0, 1);
    request.draft_length = integer("draft_length", 0, 0);
    request.adaptive = policy(fields.text("draft_policy", "fixed"));
    request.draft_sources = sources(fields);
    request.temperature = fields.real("temperature", 0.0);
    request.top_k = integer("top_k", 0, 0);
    request.top_p = fields.real("top_p", 1.0);
    request.min_p = fields.real("min_p", 0.0);
    request.seed = static_cast<uint64_t>(fields.integer("seed", 0, 0, std::numeric_limits<int64_t>::max()));
    request.couple_drafts = fields.flag("couple_drafts", false) ? 1 : 0;
    request.repetition_penalty = fields.real("repetition_penalty", 1.0);
    // The C interface takes 0 for absent; here it was said.
    if (request.repetition_penalty == 0.0f) throw Error("'repetition_penalty' must be above 0; 1 is off");
    if (request.top_p == 0.0f) throw Error("'top_p' is out of range: above 0, up to 1, which is off");
    request.presence_penalty = fields.real("presence_penalty", 0.0);
    request.frequency_penalty = fields.real("frequency_penalty", 0.0);
    request.logprobs = fields.flag("logprobs", false) ? 1 : 0;
    request.keep_prefix = integer("keep_prefix", 0, 0);
    request.fresh = fields.flag("fresh", false) ? 1 : 0;
    fields.finish();

    request.prompt = prompt.data();
    request.prompt_length = prompt.size();
    request.stop = stop.data();
    request.stop_length = stop.size();
    request.stop_texts = stop_pointers.data();
    request.stop_texts_length = stop_pointers.size();
    request.bias_tokens = bias_tokens.data();
    request.biases = biases.data();
    request.bias_length = biases.size();
    request.suppress = suppress.data();
    request.suppress_length = suppress.size();
    request.draft_tape = draft_tape.data();
    request.draft_tape_length = draft_tape.size();
    request.thought_marks = thought_marks.empty() ? nullptr : thought_marks.data();
    request.thought_header = thought_header.data();
    request.thought_header_length = thought_header.size();
    request.grammar = grammar.c_str();
  }

  edge_mtp_request request{};

 private:
  static int32_t policy(const std::string& name) {
    if (name != "fixed" && name != "auto") throw Error("'draft_policy' is '" + name + "'; it must be fixed or auto");
    return name == "auto" ? 1 : 0;
  }

  static int32_t sources(Fields& fields) {
    if (!fields.has("draft_sources")) return 0;
    int32_t flags = 0;
    for (const std::string& name : fields.texts("draft_sources")) {
      const int32_t flag = name == "drafter"   ? EDGE_MTP_DRAFTER
                           : name == "lookup"  ? EDGE_MTP_LOOKUP
                           : name == "grammar" ? EDGE_MTP_GRAMMAR
                                               : 0;
      if (flag == 0) throw Error("'" + name + "' is no draft source; they are drafter, lookup and grammar");
      flags |= flag;
    }
    return flags == 0 ? EDGE_MTP_BLANKS : flags;
  }

  std::vector<int32_t> prompt, stop, suppress, bias_tokens, draft_tape, thought_marks, thought_header;
  std::vector<float> biases;
  std::vector<std::string> stop_texts;
  std::vector<const char*> stop_pointers;
  std::string grammar;
};

void generate(edge_mtp_session* session, const Progress& progress, const std::string& name, Fields& fields) {
  const GenerateRequest wanted(fields);
  StepContext context{session, progress, name};
  edge_mtp_outcome outcome{};
  if (edge_mtp_generate(session, &wanted.request, emit_step, &context, &outcome) != 0) throw Error(edge_mtp_error());
  char numbers[320];
  std::snprintf(numbers, sizeof numbers,
                ",\"finish\":\"%s\",\"prompt_tokens\":%d,\"reused_tokens\":%d,\"restored_tokens\":%d,\"tokens\":%d,"
                "\"prefill_us\":%.1f,\"total_us\":%.1f,\"first_drafts\":%" PRId64 ",\"first_accepted\":%" PRId64 "}",
                kFinishNames[outcome.finish], outcome.prompt_tokens, outcome.reused_tokens, outcome.restored_tokens,
                outcome.tokens, outcome.prefill_us, outcome.total_us, outcome.first_drafts, outcome.first_accepted);
  emit("{\"event\":\"done\",\"request\":" + json::quote(name) + numbers);
}

void serve(edge_mtp_session* session, const Progress& progress, const std::string& line) {
  std::string name;
  try {
    json::Value value = json::parse(line);
    auto* object = std::get_if<json::Object>(&value.data);
    if (object == nullptr) throw Error("a request must be a JSON object");
    Fields fields(std::move(*object));
    name = fields.text("request", "");
    const std::string op = fields.text("op", "");
    if (op != "generate") throw Error("unknown op '" + op + "'; the ops are generate and cancel");
    generate(session, progress, name, fields);
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
  Inbox(edge_mtp_session* session, Progress& progress)
      : progress_(progress), reader_([this, session] { read(session); }) {}
  ~Inbox() { reader_.join(); }

  // The next request; false at the end of input.
  bool next(std::string& line) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return closed_ || !lines_.empty(); });
    if (lines_.empty()) return false;
    line = std::move(lines_.front());
    lines_.pop_front();
    ++progress_.begun;
    return true;
  }

 private:
  void read(edge_mtp_session* session) {
    std::string line;
    while (std::getline(std::cin, line)) {
      if (line.empty()) continue;
      if (is_cancel(line)) {
        progress_.cancelled = progress_.read.load();
        edge_mtp_cancel(session);
        continue;
      }
      const std::lock_guard<std::mutex> lock(mutex_);
      ++progress_.read;
      lines_.push_back(std::move(line));
      changed_.notify_one();
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
    changed_.notify_one();
  }

  Progress& progress_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::string> lines_;
  bool closed_ = false;
  std::thread reader_;
};

// Answers a parent process that chooses among accelerators.
int try_out(const char* bundle, const edge_mtp_options& from, edge_mtp::Accelerator accelerator) {
  edge_mtp::Engine::Options options;
  options.litert_library = from.litert_library;
  if (from.cache_dir != nullptr) options.cache_dir = from.cache_dir;
  if (from.npu_libraries != nullptr) options.npu_libraries = from.npu_libraries;
  const auto device = from.openvino_device == nullptr ? std::nullopt : edge_mtp::accelerator_of(from.openvino_device);
  if (device) options.openvino_device = static_cast<int>(*device);
  options.threads = from.threads;
  options.half = from.half != 0;
  options.accelerator = accelerator;
  emit(edge_mtp::try_accelerator(bundle, options));
  std::_Exit(0);  // an accelerator's threads do not always end
}

int run(int argc, char** argv) {
  const char* bundle = nullptr;
  edge_mtp_options options{};
  options.runner = "/proc/self/exe";
  std::optional<edge_mtp::Accelerator> tried;  // in a process for nothing else
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--help") {
      std::fputs(kUsage, stdout);
      return 0;
    }
    if (flag == "--stepwise") {
      options.stepwise = 1;
      continue;
    }
    if (flag == "--half") {
      options.half = 1;
      continue;
    }
    const char* value = i + 1 < argc ? argv[++i] : nullptr;
    if (value != nullptr && flag == "--bundle") {
      bundle = value;
    } else if (value != nullptr && flag == "--litert") {
      options.litert_library = value;
    } else if (value != nullptr && flag == "--cache-dir") {
      options.cache_dir = value;
    } else if (value != nullptr && flag == "--token-bytes") {
      options.token_bytes = value;
    } else if (value != nullptr && flag == "--npu-libraries") {
      options.npu_libraries = value;
    } else if (value != nullptr && flag == "--openvino-device") {
      options.openvino_device = value;
    } else if (value != nullptr && flag == "--accelerator") {
      const auto found = edge_mtp::accelerator_of(value);
      if (!found && std::strcmp(value, "auto") != 0) {
        emit_error("", std::string("no accelerator '") + value + "'; they are cpu, gpu, npu and auto");
        return 1;
      }
      options.accelerator = found ? static_cast<edge_mtp_accelerator>(*found) : EDGE_MTP_AUTO;
    } else if (value != nullptr && flag == "--try") {
      tried = edge_mtp::accelerator_of(value);
      if (!tried) return 2;
    } else if (value != nullptr && flag == "--threads") {
      char* end = nullptr;
      errno = 0;
      const long threads = std::strtol(value, &end, 10);
      if (*end != '\0' || errno != 0 || threads < 1 || threads > kMostThreads) {
        emit_error("", std::string("'") + value + "' threads cannot be; use 1 to " + std::to_string(kMostThreads));
        return 1;
      }
      options.threads = static_cast<int>(threads);
    } else {
      std::fputs(kUsage, stderr);
      return 2;
    }
  }
  if (bundle == nullptr || options.litert_library == nullptr) {
    std::fputs(kUsage, stderr);
    return 2;
  }

  records();  // before any library is opened
  if (tried) return try_out(bundle, options, *tried);
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
  char ready[280];
  std::snprintf(ready, sizeof ready,
                "{\"event\":\"ready\",\"protocol\":%d,\"context_length\":%d,\"vocabulary\":%d,"
                "\"max_draft_length\":%d,\"has_drafter\":%s,\"load_us\":%.1f,\"accelerator\":\"%s\"",
                kProtocol, info.context_length, info.vocabulary, info.max_draft_length,
                info.has_drafter != 0 ? "true" : "false", load_us,
                edge_mtp::name_of(static_cast<edge_mtp::Accelerator>(info.accelerator)));
  emit(std::string(ready) + ",\"accelerator_reason\":" + json::quote(info.accelerator_reason) + "}");
  {
    Progress progress;
    Inbox inbox(session, progress);
    std::string line;
    while (inbox.next(line)) serve(session, progress, line);
  }
  edge_mtp_session_destroy(session);
  edge_mtp_close(engine);
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return run(argc, argv); }
