// What a bundle's graphs run on. Each accelerator has signatures of its own, told by the beginning of their names.
#pragma once

#include <optional>
#include <string>

namespace edge_mtp {

enum class Accelerator { kCpu, kGpu, kNpu };

constexpr Accelerator kAccelerators[] = {Accelerator::kCpu, Accelerator::kGpu, Accelerator::kNpu};

// "cpu", "gpu" or "npu": the name in commands, and of a bundle's section.
constexpr const char* name_of(Accelerator accelerator) {
  switch (accelerator) {
    case Accelerator::kGpu: return "gpu";
    case Accelerator::kNpu: return "npu";
    default: return "cpu";
  }
}

// The beginning of the names of its signatures.
constexpr const char* prefix_of(Accelerator accelerator) {
  switch (accelerator) {
    case Accelerator::kGpu: return "gpu_";
    case Accelerator::kNpu: return "npu_";
    default: return "edge_";
  }
}

// The end of messages to whoever asked for an accelerator that does not serve.
constexpr char kTakeCpu[] = "; take --accelerator cpu";

inline std::optional<Accelerator> accelerator_of(const std::string& name) {
  for (const Accelerator accelerator : kAccelerators) {
    if (name == name_of(accelerator)) return accelerator;
  }
  return std::nullopt;
}

}  // namespace edge_mtp
