// The edge_mtp ops as LiteRT custom-op kernels: thin adapters from tensor buffers to select.h, attention.h, candidates.h
// experts.h and low_bit.h.
#pragma once

#include <vector>

#include "litert_api.h"
#include "low_bit.h"
#include "worker_pool.h"

namespace edge_mtp {

constexpr char kVerifyOp[] = "edge_mtp.verify";
constexpr char kDraftOp[] = "edge_mtp.draft";
constexpr char kAttentionOp[] = "edge_mtp.attention";
constexpr char kCandidatesOp[] = "edge_mtp.candidates";
constexpr char kExpertsOp[] = "edge_mtp.experts";
constexpr char kProductOp[] = "edge_mtp.product";

// What the kernels of one graph share: their user data.
struct KernelMemory {
  explicit KernelMemory(int32_t threads) : pool(threads) {}
  WorkerPool pool;
  RowSums sums;
};

struct Kernel {
  const char* name;
  const litert::CustomOpKernel* kernel;
};

// All kernels, bound to `api`. A process can use only one LiteRT library: LiteRT passes no API to a kernel, so all
// kernels use the `api` of the first call. Their user data is a KernelMemory.
std::vector<Kernel> kernels(const litert::Api& api);

}  // namespace edge_mtp
