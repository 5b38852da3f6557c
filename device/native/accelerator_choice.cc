#include "accelerator_choice.h"

#include <dirent.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <sstream>
#include <vector>

#if defined(__ANDROID__)
#include <sys/system_properties.h>
#endif

#include "bundle.h"
#include "cache_entry.h"
#include "child_process.h"
#include "error.h"
#include "experiment.h"
#include "file_identity.h"
#include "hash.h"
#include "trial.h"

namespace edge_mtp {
namespace {

constexpr int kTrialSeconds = 300;         // to compile a model's shaders can take a minute on a phone
constexpr double kAcceptance = 0.7;        // of a draft, of published pairs; the rates of accelerators hardly depend on it
constexpr size_t kMostRemembered = 1 << 12;
constexpr char kChoices[] = ".accelerator";

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

std::string memory_file(const Bundle& bundle, const std::string& path, const Engine::Options& options) {
  if (options.cache_dir.empty()) return {};
  char name[80];
  std::snprintf(name, sizeof name, "/%016" PRIx64 "-%016" PRIx64 ".threads-%d%s.%d",
                bundle.identity(path, options.cache_dir), driver_identity(options), options.threads,
                options.half ? "-half" : "", options.openvino_device);
  return options.cache_dir + name + kChoices;
}

// The line that a trial prints: how much faster than the CPU the accelerator is, or why it is not right.
constexpr char kFaster[] = "faster ", kWrong[] = "wrong ";

struct Verdict {
  double faster = 0.0;
  std::string fault;
};

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
    if (line.rfind(kWrong, 0) == 0) return {0.0, line.substr(sizeof kWrong - 1)};
    if (line.rfind(kFaster, 0) == 0 && answer.fault.empty()) return {std::atof(line.c_str() + sizeof kFaster - 1), {}};
  }
  return {0.0, answer.fault.empty() ? "its trial told nothing" : answer.fault};
}

std::string times(double ratio) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3gx", ratio);
  return text;
}

std::optional<AcceleratorChoice> remembered(const std::string& file) {
  const std::string text = file.empty() ? std::string() : read_entry(file, kMostRemembered);
  const size_t end = text.find('\n');
  if (end == std::string::npos) return std::nullopt;
  const std::optional<Accelerator> taken = accelerator_of(text.substr(0, end));
  if (!taken) return std::nullopt;
  return AcceleratorChoice{*taken, text.substr(end + 1)};
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
  const std::string file = memory_file(bundle, path, options);
  if (std::optional<AcceleratorChoice> known = remembered(file)) return *known;
  if (program.empty()) return {Accelerator::kCpu, "no accelerator was tried on this device yet"};

  AcceleratorChoice choice;
  double best = 1.0;
  std::string reasons;
  for (const Accelerator accelerator : offered) {
    const Verdict verdict = ask_child(program, path, options, accelerator);
    const std::string name = std::string("the ") + name_of(accelerator);
    if (!reasons.empty()) reasons += "; ";
    if (!verdict.fault.empty()) {
      reasons += name + " is out: " + verdict.fault;
    } else {
      reasons += name + " is right, at " + times(verdict.faster) + " the cpu's speed";
      if (verdict.faster > best) {
        best = verdict.faster;
        choice.taken = accelerator;
      }
    }
  }
  choice.why = reasons;
  if (!file.empty()) write_entry(file, std::string(name_of(choice.taken)) + "\n" + choice.why);
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
    char text[32];
    std::snprintf(text, sizeof text, "%.4f", best_rate(found, kAcceptance) / best_rate(reference, kAcceptance));
    return kFaster + std::string(text);
  } catch (const std::exception& error) {
    return kWrong + std::string(error.what());
  }
}

}  // namespace edge_mtp
