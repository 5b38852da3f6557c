#include "accelerator_choice.h"

#include <dirent.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <optional>
#include <sstream>
#include <vector>

#if defined(__ANDROID__)
#include <sys/system_properties.h>
#endif

#include "bundle.h"
#include "cache_entry.h"
#include "child_process.h"
#include "controller.h"
#include "error.h"
#include "experiment.h"
#include "file_identity.h"
#include "hash.h"
#include "trial.h"

namespace edge_mtp {
namespace {

// To compile a model's shaders can take a minute on a phone. Two trials must end before the caller of a runner counts it
// as hung, after 600 s.
constexpr int kTrialSeconds = 240;
constexpr size_t kMostRemembered = 1 << 12, kMostCosts = 1 << 20;
constexpr char kTrials[] = ".accelerator", kFormat[] = "edge-mtp-trials-1";

void mix(uint64_t& hash, const std::string& text) { hash = hash_bytes(hash, text.data(), text.size()); }

// Names, sizes and times of the files of a folder, in any order.
void mix_folder(uint64_t& hash, const std::string& folder) {
  DIR* const open = opendir(folder.c_str());
  if (open == nullptr) return;
  uint64_t sum = 0;
  while (const dirent* entry = readdir(open)) {
    struct stat status {};
    if (stat((folder + "/" + entry->d_name).c_str(), &status) != 0 || !S_ISREG(status.st_mode)) continue;
    std::ostringstream line;
    line << entry->d_name << ' ' << status.st_size << ' ' << status.st_mtime;
    const std::string text = line.str();
    sum += hash_bytes(kHashSeed, text.data(), text.size());
  }
  closedir(open);
  hash = hash_bytes(hash, &sum, sizeof sum);
}

// Changes with the driver: with the system, its Vulkan drivers, and the libraries beside LiteRT's.
uint64_t driver_identity(const Engine::Options& options) {
  uint64_t hash = kHashSeed;
  utsname system{};
  if (uname(&system) == 0) mix(hash, std::string(system.release) + " " + system.version);
#if defined(__ANDROID__)
  char value[PROP_VALUE_MAX] = "";
  __system_property_get("ro.build.fingerprint", value);
  mix(hash, value);
#endif
  for (const char* name : {"VK_ICD_FILENAMES", "VK_DRIVER_FILES", "LD_LIBRARY_PATH"}) {
    if (const char* value = std::getenv(name)) mix(hash, value);
  }
  mix(hash, read_entry("/proc/driver/nvidia/version", kMostRemembered));
  for (const char* folder : {"/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"}) mix_folder(hash, folder);
  mix_folder(hash, options.litert_library.substr(0, options.litert_library.rfind('/')));
  if (!options.npu_libraries.empty()) mix_folder(hash, options.npu_libraries);
  return hash;
}

std::string memory_file(uint64_t identity, const Engine::Options& options) {
  if (options.cache_dir.empty()) return {};
  char name[80];
  std::snprintf(name, sizeof name, "/%016" PRIx64 "-%016" PRIx64 ".threads-%d%s.%d", identity,
                driver_identity(options), options.threads, options.half ? "-half" : "", options.openvino_device);
  return options.cache_dir + name + kTrials;
}

// What the bundle's texts have taught of its drafts, whatever they ran on.
FirstDrafts known_drafts(uint64_t identity, const Engine::Options& options) {
  FirstDrafts known;
  for (const Accelerator accelerator : {Accelerator::kCpu, Accelerator::kGpu, Accelerator::kNpu}) {
    Engine::Options settings = options;
    settings.accelerator = accelerator;
    const std::string file = Engine::memory_file(identity, settings, Engine::kCosts);
    if (file.empty()) continue;
    known.decoded |= Controller::add_first_drafts(read_entry(file, kMostCosts), known.judged, known.right);
  }
  return known;
}

// The line that a trial prints: how many times as fast as the CPU the accelerator is at the acceptance that is expected
// of an unknown pair, and SpeedUp's text; or why it is not right.
constexpr char kFaster[] = "faster ", kWrong[] = "wrong ";

struct Verdict {
  std::optional<SpeedUp> faster;
  std::string fault;  // why not, in one line
};

// The verdict in such a line; nothing in any other line.
std::optional<Verdict> verdict_in(const std::string& line) {
  if (line.rfind(kWrong, 0) == 0) return Verdict{std::nullopt, line.substr(sizeof kWrong - 1)};
  const size_t curve = line.find(' ', sizeof kFaster);
  if (line.rfind(kFaster, 0) != 0 || curve == std::string::npos) return std::nullopt;
  const std::optional<SpeedUp> faster = SpeedUp::read(line.substr(curve));
  if (!faster) return std::nullopt;
  return Verdict{faster, {}};
}

std::string line_of(const SpeedUp& faster) {
  char number[32];
  std::snprintf(number, sizeof number, "%.4g ", faster.times(expected_acceptance({})));
  return kFaster + std::string(number) + faster.text();
}

Verdict ask_child(const std::string& program, const std::string& bundle, const Engine::Options& options,
                  Accelerator accelerator) {
  std::vector<std::string> command = {program, "--bundle", bundle, "--litert", options.litert_library,
                                      "--try", name_of(accelerator)};
  const auto add = [&](const char* flag, const std::string& value) {
    if (!value.empty()) command.insert(command.end(), {flag, value});
  };
  add("--cache-dir", options.cache_dir);
  add("--threads", options.threads > 0 ? std::to_string(options.threads) : std::string());
  add("--npu-libraries", options.npu_libraries);
  if (options.openvino_device >= 0) {
    add("--openvino-device", name_of(static_cast<Accelerator>(options.openvino_device)));
  }
  if (options.half) command.push_back("--half");
  const Answer answer = ask(command, kTrialSeconds);
  std::istringstream lines(answer.output);
  for (std::string line; std::getline(lines, line);) {
    const std::optional<Verdict> verdict = verdict_in(line);
    if (verdict && (!verdict->faster || answer.fault.empty())) return *verdict;
  }
  return {std::nullopt, answer.fault.empty() ? "its trial told nothing" : answer.fault};
}

std::string times(double ratio) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3gx", ratio);
  return text;
}

using Verdicts = std::map<Accelerator, Verdict>;

// One line for each accelerator: its name and the line of its trial.
void remember(const std::string& file, const Verdicts& verdicts) {
  if (file.empty()) return;
  std::string text = std::string(kFormat) + "\n";
  for (const auto& [accelerator, verdict] : verdicts) {
    text += std::string(name_of(accelerator)) + " " +
            (verdict.faster ? line_of(*verdict.faster) : kWrong + verdict.fault) + "\n";
  }
  write_entry(file, text);
}

Verdicts remembered(const std::string& file) {
  Verdicts verdicts;
  std::istringstream lines(file.empty() ? std::string() : read_entry(file, kMostRemembered));
  std::string line;
  if (!std::getline(lines, line) || line != kFormat) return verdicts;
  while (std::getline(lines, line)) {
    const size_t space = std::min(line.find(' '), line.size());
    const std::optional<Accelerator> accelerator = accelerator_of(line.substr(0, space));
    const std::optional<Verdict> verdict = verdict_in(line.substr(std::min(space + 1, line.size())));
    if (accelerator && verdict) verdicts.emplace(*accelerator, *verdict);
  }
  return verdicts;
}

}  // namespace

AcceleratorChoice choose_accelerator(const std::string& program, const std::string& path,
                                     const Engine::Options& options) {
  const Bundle bundle(path);
  std::vector<Accelerator> offered;
  for (const Accelerator accelerator : {Accelerator::kGpu, Accelerator::kNpu}) {
    if (bundle.own_graphs(accelerator) != nullptr) offered.push_back(accelerator);
  }
  if (offered.empty()) return {Accelerator::kCpu, "the bundle has graphs for the cpu only"};
  const uint64_t identity = options.cache_dir.empty() ? 0 : bundle.identity(path, options.cache_dir);
  const std::string file = memory_file(identity, options);
  Verdicts verdicts = remembered(file);
  const size_t known = verdicts.size();
  for (const Accelerator accelerator : offered) {
    if (verdicts.count(accelerator) != 0) continue;
    if (program.empty()) return {Accelerator::kCpu, "no accelerator was tried on this device yet"};
    verdicts.emplace(accelerator, ask_child(program, path, options, accelerator));
  }
  if (verdicts.size() > known) remember(file, verdicts);

  AcceleratorChoice choice;
  const FirstDrafts known_of_drafts = known_drafts(identity, options);
  const double acceptance = expected_acceptance(known_of_drafts);
  std::vector<Accelerator> right = {Accelerator::kCpu};
  std::vector<SpeedUp> speeds;
  for (const Accelerator accelerator : offered) {
    const Verdict& verdict = verdicts.at(accelerator);
    if (!choice.why.empty()) choice.why += "; ";
    choice.why += std::string("the ") + name_of(accelerator);
    if (!verdict.faster) {
      choice.why += " is out: " + verdict.fault;
      continue;
    }
    choice.why += " is right, at " + times(verdict.faster->times(acceptance)) + " the cpu's speed";
    right.push_back(accelerator);
    speeds.push_back(*verdict.faster);
  }
  const Taken taken = take(speeds, known_of_drafts);
  choice.taken = right[taken.index];
  if (taken.to_learn) choice.why += std::string("; the ") + name_of(choice.taken) + " shows what drafts are worth";
  return choice;
}

std::string try_accelerator(const std::string& bundle, const Engine::Options& options) {
  const auto trial = [&](Accelerator accelerator, int32_t& vocabulary) {
    Engine::Options settings = options;
    settings.accelerator = accelerator;
    Engine engine(bundle, settings);
    vocabulary = engine.vocabulary();
    return try_out(engine);
  };
  try {
    int32_t vocabulary = 0;
    // One after the other: a phone may not have the memory for both.
    const Trial reference = trial(Accelerator::kCpu, vocabulary);
    const Trial found = trial(options.accelerator, vocabulary);
    const std::string told = difference(reference, found, vocabulary);
    if (!told.empty()) return kWrong + told;
    return line_of(SpeedUp(reference, found));
  } catch (const std::exception& error) {
    std::string fault = error.what();
    const size_t cure = fault.rfind(kTakeCpu);  // nobody asked for this one
    if (cure != std::string::npos) fault.erase(cure, sizeof kTakeCpu - 1);
    return kWrong + fault;
  }
}

}  // namespace edge_mtp
