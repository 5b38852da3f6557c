// The edge_mtp ops as LiteRT custom-op kernels: thin adapters from tensor buffers to select.h, attention.h, candidates.h
// and experts.h.
#pragma once

#include <vector>

#include "litert_api.h"

namespace edge_mtp {

constexpr char kVerifyOp[] = "edge_mtp.verify";
constexpr char kDraftOp[] = "edge_mtp.draft";
constexpr char kAttentionOp[] = "edge_mtp.attention";
constexpr char kCandidatesOp[] = "edge_mtp.candidates";
constexpr char kExpertsOp[] = "edge_mtp.experts";

struct Kernel {
  const char* name;
  const litert::CustomOpKernel* kernel;
};

// All kernels, bound to `api`. A process can use only one LiteRT library: LiteRT passes no API to a kernel, so all
// kernels use the `api` of the first call. Their user data is a WorkerPool.
std::vector<Kernel> kernels(const litert::Api& api);

}  // namespace edge_mtp
