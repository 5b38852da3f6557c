// A device that decodes imagined texts, for device/native/controller.cc: costs, acceptance and confidences of a profile,
// drawn from counters, so that a text is the same whatever drafts it. tests/helpers/simulated_device.py has the profiles.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

#include "controller.h"

using edge_mtp::Capabilities;
using edge_mtp::Controller;
using edge_mtp::kMaxDrafts;
using edge_mtp::Plan;
using edge_mtp::Proposal;
using edge_mtp::Source;

namespace {

constexpr int32_t kSegments = 4, kPositions = 8, kBurst = 8;
size_t allocated = 0;

}  // namespace

void* operator new(size_t size) {
  ++allocated;
  void* const memory = std::malloc(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

extern "C" {

// Mirrored by simulated_device.Device.
struct Device {
  int32_t length_count, width_count, lengths[kMaxDrafts], widths[kMaxDrafts];
  double plain_us, verify_us[kMaxDrafts], draft_us[kMaxDrafts];  // as lengths and widths
  double noise;                                                  // of a cost: sigma of its logarithm
  double outlier_share, outlier_factor;
  double cold;      // factor of a graph's first run after another of the target's, or of the drafter's
  double hot_from;  // share of the text after which costs are multiplied:
  double hot_plain, hot_verify;
  double growth_plain, growth_verify;  // of costs, a thousand positions
  double slow, slow_tokens;  // factor of the target's invocations for a text's first tokens: caches are cold
  double first_position;
  int32_t segment_count;
  double segment_end[kSegments];                // shares of the text
  double difficulty[kSegments][kPositions];     // mean of the logit of a draft's acceptance, given the ones before it
  double spread, burst;                         // its sigma; share of its variance common to neighbouring tokens
  double confidence_noise;                      // sigma of the logit of confidence about the truth's; < 0: unrelated
  double confidence_slope;
};

struct Run {
  double us;
  int32_t steps, drafted, explored, verified_rows;
};

}  // extern "C"

namespace {

uint64_t mix(uint64_t x) {  // splitmix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// The random numbers of a text, by purpose and place.
struct Chance {
  uint64_t seed;

  double uniform(uint64_t purpose, uint64_t a, uint64_t b = 0) const {
    const uint64_t bits = mix(mix(mix(mix(seed) ^ purpose) ^ a) ^ b);
    return (static_cast<double>(bits >> 11) + 0.5) * 0x1p-53;
  }
  double normal(uint64_t purpose, uint64_t a, uint64_t b = 0) const {
    return std::sqrt(-2.0 * std::log(uniform(purpose, a, b))) *
           std::cos(2.0 * 3.14159265358979323846 * uniform(purpose + 1000, a, b));
  }
};

double logistic(double x) { return 1.0 / (1.0 + std::exp(-x)); }

class Text {
 public:
  Text(const Device& device, uint64_t seed, int32_t tokens) : device_(device), chance_{seed}, tokens_(tokens) {}

  int32_t position(int32_t done) const { return static_cast<int32_t>(device_.first_position) + done; }

  double verify_us(int32_t rows, int32_t done, int32_t step) const {
    double us = device_.plain_us;
    for (int32_t i = 0; i < device_.width_count; ++i) {
      if (device_.widths[i] == rows) us = device_.verify_us[i];
    }
    const double growth = rows == 1 ? device_.growth_plain : device_.growth_verify;
    return us * (1.0 + growth * position(done) / 1000.0) * (done < device_.slow_tokens ? device_.slow : 1.0) *
           (hot(done) ? (rows == 1 ? device_.hot_plain : device_.hot_verify) : 1.0) * jitter(1, step);
  }

  double draft_us(int32_t k, int32_t done, int32_t step) const {
    double us = 0.0;
    for (int32_t i = 0; i < device_.length_count; ++i) {
      if (device_.lengths[i] == k) us = device_.draft_us[i];
    }
    return us * (1.0 + device_.growth_plain * position(done) / 1000.0) * (hot(done) ? device_.hot_plain : 1.0) *
           jitter(2, step);
  }

  // Draft j made after `done` tokens: whether the target agrees, given that it did with those before; the drafter's
  // confidence in it.
  bool right(int32_t done, int32_t j) const {
    return chance_.uniform(3, static_cast<uint64_t>(done), static_cast<uint64_t>(j)) < logistic(logit(done, j));
  }
  float confidence(int32_t done, int32_t j) const {
    const auto a = static_cast<uint64_t>(done), b = static_cast<uint64_t>(j);
    if (device_.confidence_noise < 0.0) return static_cast<float>(chance_.uniform(4, a, b));
    return static_cast<float>(
        logistic(device_.confidence_slope * logit(done, j) + device_.confidence_noise * chance_.normal(5, a, b)));
  }

  int32_t tokens() const { return tokens_; }

 private:
  bool hot(int32_t done) const { return done >= device_.hot_from * tokens_; }

  double jitter(uint64_t purpose, int32_t step) const {
    const auto at = static_cast<uint64_t>(step);
    const double outlier = chance_.uniform(10 + purpose, at) < device_.outlier_share ? device_.outlier_factor : 1.0;
    return std::exp(device_.noise * chance_.normal(20 + purpose, at)) * outlier;
  }

  double logit(int32_t done, int32_t j) const {
    int32_t segment = 0;
    while (segment + 1 < device_.segment_count && done >= device_.segment_end[segment] * tokens_) ++segment;
    const double own = chance_.normal(6, static_cast<uint64_t>(done), static_cast<uint64_t>(j));
    const double common = chance_.normal(7, static_cast<uint64_t>((done + j) / kBurst));
    return device_.difficulty[segment][std::min(j, kPositions - 1)] +
           device_.spread * (std::sqrt(1.0 - device_.burst) * own + std::sqrt(device_.burst) * common);
  }

  const Device& device_;
  Chance chance_;
  int32_t tokens_;
};

Capabilities capabilities(const Device& device) {
  return {{device.lengths, device.lengths + device.length_count}, {device.widths, device.widths + device.width_count}};
}

int32_t rows_for(const Device& device, int32_t drafts) {
  if (drafts == 0) return 1;
  int32_t i = 0;
  while (device.widths[i] < drafts + 1) ++i;
  return device.widths[i];
}

}  // namespace

extern "C" {

size_t allocations() { return allocated; }
void* controller_new(const Device* device) { return new Controller(capabilities(*device)); }
void* controller_copy(const void* controller) { return new Controller(*static_cast<const Controller*>(controller)); }
void controller_free(void* controller) { delete static_cast<Controller*>(controller); }
void controller_begin(void* controller) { static_cast<Controller*>(controller)->begin(); }
void controller_plan(void* controller, int32_t position, int32_t most, Plan* plan) {
  *plan = static_cast<Controller*>(controller)->plan(position, most);
}
int32_t controller_trim(const void* controller, int32_t position, const Proposal* proposal) {
  return static_cast<const Controller*>(controller)->trim(position, *proposal);
}
void controller_observe(void* controller, int32_t position, int32_t drafter_k, int32_t rows, const Proposal* proposal,
                        int32_t accepted, double draft_us, double rest_us) {
  static_cast<Controller*>(controller)->observe(position, drafter_k, rows, *proposal, accepted, draft_us, rest_us);
}
void controller_calibrate(void* controller, int32_t position, int32_t rows, int32_t k, double us) {
  static_cast<Controller*>(controller)->calibrate(position, rows, k, us);
}
double controller_believed_us(const void* controller, int32_t position, int32_t rows, int32_t k) {
  return static_cast<const Controller*>(controller)->believed_us(position, rows, k);
}
bool controller_check(void* controller, int32_t position, const Controller::Timing* timings, int32_t count) {
  return static_cast<Controller*>(controller)->check(position, {timings, timings + count});
}
int64_t controller_first_drafts(const void* controller) {
  return static_cast<const Controller*>(controller)->first_drafts();
}
int64_t controller_first_accepted(const void* controller) {
  return static_cast<const Controller*>(controller)->first_accepted();
}
// Adds the counts of a saved text to `counts`, judged and right; false if it is none.
bool controller_add_first_drafts(const char* text, size_t size, int64_t* counts) {
  return Controller::add_first_drafts(std::string(text, size), counts[0], counts[1]);
}
bool controller_calibrated(const void* controller) { return static_cast<const Controller*>(controller)->calibrated(); }
// Copies at most `size` bytes of the saved text, without a terminator; returns its length.
size_t controller_save(const void* controller, char* text, size_t size) {
  const std::string saved = static_cast<const Controller*>(controller)->save();
  std::copy_n(saved.data(), std::min(size, saved.size()), text);
  return saved.size();
}
bool controller_restore(void* controller, const char* text, size_t size) {
  return static_cast<Controller*>(controller)->restore(std::string(text, size));
}

// Times invocations as the session does at load. Returns the microseconds that it took.
double device_calibrate(const Device* device, void* controller, uint64_t seed, int32_t times) {
  const Text text(*device, seed, 1 << 20);
  auto* const judged = static_cast<Controller*>(controller);
  double total = 0.0;
  int32_t step = -1;
  const auto time_rows = [&](int32_t rows) {
    const double us = text.verify_us(rows, 0, --step);
    judged->calibrate(text.position(0), rows, 0, us);
    total += us;
  };
  for (int32_t i = 0; i < times; ++i) {
    time_rows(1);
    time_rows(device->widths[0]);
    if (device->width_count > 1) time_rows(device->widths[device->width_count - 1]);
    if (device->length_count == 0) continue;
    const int32_t longest = device->lengths[device->length_count - 1];
    const double us = text.draft_us(longest, 0, --step);
    judged->calibrate(text.position(0), 0, longest, us);
    total += us;
  }
  return total;
}

// One reply. `fixed` < 0: the controller chooses; otherwise every step has so many drafts, as far as the reply leaves
// room, and the controller, which may be NULL, looks on. The first step is plain: a drafter starts from a decoded token.
// `cut`: the controller is told of the verified drafts only. Time counts from token `from` on.
Run device_reply(const Device* device, void* controller, int32_t fixed, uint64_t seed, int32_t tokens, bool cut,
                 int32_t from) {
  const Text text(*device, seed, tokens);
  auto* const judged = static_cast<Controller*>(controller);
  Run run{};
  int32_t last_rows = 1, last_k = 0;
  if (judged != nullptr) judged->begin();
  for (int32_t done = 0; done < tokens; ++run.steps) {
    const int32_t most = done == 0 ? 0 : tokens - done - 1, position = text.position(done);
    int32_t k = 0;
    if (fixed < 0) {
      const Plan plan = judged->plan(position, most);
      k = plan.drafts;
      run.explored += plan.explore ? 1 : 0;
    } else {
      for (int32_t i = 0; i < device->length_count; ++i) {
        if (device->lengths[i] <= std::min(fixed, most)) k = device->lengths[i];
      }
    }
    Proposal proposal;
    for (int32_t j = 0; j < k; ++j) proposal.add(j, text.confidence(done, j), Source::kDrafter);
    const int32_t verify = fixed < 0 ? judged->trim(position, proposal) : k;
    const int32_t rows = rows_for(*device, verify);
    int32_t matching = 0;
    while (matching < k && text.right(done, matching)) ++matching;
    const int32_t accepted = std::min(matching, verify);
    const double draft_us = k > 0 ? text.draft_us(k, done, run.steps) * (k == last_k ? 1.0 : device->cold) : 0.0;
    const double rest_us = text.verify_us(rows, done, run.steps) * (rows == last_rows ? 1.0 : device->cold);
    last_rows = rows;
    if (k > 0) last_k = k;
    if (judged != nullptr) {
      if (cut) proposal.count = verify;
      judged->observe(position, k, rows, proposal, std::min({matching, verify + 1, proposal.count}), draft_us, rest_us);
    }
    if (done >= from) run.us += draft_us + rest_us;
    run.drafted += k;
    run.verified_rows += rows;
    done += accepted + 1;
  }
  return run;
}

// Many replies, as days of use give them: fixed K, plain and the controller in turn and in long stretches; contexts of
// 8 to 4,096 tokens; a machine that is up to 30 % faster or slower in each reply; caches that are up to `cold` (a
// logarithm) colder in a text's first tokens. After each reply that the controller steered, the error of what it believes
// an invocation to cost beside a plain step, as a logarithm: the mean of the worst graph, the root mean square, the most.
struct Drift {
  double mean, rms, most;
  int64_t seen;
};

Drift device_drift(const Device* device, void* controller, uint64_t seed, int32_t replies, int32_t tokens,
                   double cold) {
  const Chance chance{seed};
  auto* const judged = static_cast<Controller*>(controller);
  Drift drift{};
  std::array<double, 2 * kMaxDrafts> sums{};
  double squares = 0.0;
  size_t graphs = 0;
  int32_t mode = 0, left = 0;
  bool turns = false;
  for (int32_t i = 0; i < replies; ++i) {
    const auto at = static_cast<uint64_t>(i);
    if (left-- <= 0) {
      const double kind = chance.uniform(31, at);
      turns = kind < 0.5;
      left = static_cast<int32_t>(1.0 + 1500.0 * chance.uniform(32, at) * chance.uniform(33, at));
      mode = static_cast<int32_t>(3.0 * chance.uniform(34, at));
    }
    const int32_t now = turns ? i % 3 : mode;
    Device today = *device;
    const double speed = std::exp(0.3 * chance.normal(35, at));
    today.plain_us *= speed;
    for (double& us : today.verify_us) us *= speed;
    for (double& us : today.draft_us) us *= speed;
    today.first_position = std::exp2(3.0 + 9.0 * chance.uniform(37, at));
    today.slow = std::exp(cold * chance.uniform(38, at));
    today.slow_tokens = 4.0;
    const int32_t fixed = now == 0 ? 0 : now == 1 ? std::min(3, today.lengths[today.length_count - 1]) : -1;
    device_reply(&today, controller, fixed, mix(seed ^ at), tokens, false, 0);
    if (now != 2) continue;
    const auto position = static_cast<int32_t>(today.first_position) + tokens;
    const auto parted = [&](int32_t rows, int32_t k, double us) {
      return std::log(judged->believed_us(position, rows, k) / us);
    };
    const double plain = parted(1, 0, today.plain_us);
    ++drift.seen;
    const auto count = [&](size_t graph, double apart) {
      sums[graph] += apart;
      squares += apart * apart;
      drift.most = std::max(drift.most, std::fabs(apart));
    };
    size_t graph = 0;
    for (int32_t j = 0; j < today.width_count; ++j) count(graph++, parted(today.widths[j], 0, today.verify_us[j]) - plain);
    for (int32_t j = 0; j < today.length_count; ++j) count(graph++, parted(0, today.lengths[j], today.draft_us[j]) - plain);
    graphs = graph;
  }
  const auto seen = static_cast<double>(std::max<int64_t>(drift.seen, 1));
  for (const double sum : sums) drift.mean = std::max(drift.mean, std::fabs(sum) / seen);
  drift.rms = std::sqrt(squares / seen / static_cast<double>(std::max<size_t>(graphs, 1)));
  return drift;
}

}  // extern "C"
