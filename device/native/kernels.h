// The edge_mtp ops as LiteRT custom-op kernels: thin adapters from tensor buffers to select.h.
#pragma once

#include <vector>

#include "litert_api.h"

namespace edge_mtp {

constexpr char kVerifyOp[] = "edge_mtp.verify";
constexpr char kDraftOp[] = "edge_mtp.draft";

struct Kernel {
  const char* name;
  const litert::CustomOpKernel* kernel;
};

// Both kernels, bound to `api`. All LiteRT libraries of a process must be one and the same, since LiteRT hands a
// kernel no context: the first call's `api` serves them all.
std::vector<Kernel> kernels(const litert::Api& api);

}  // namespace edge_mtp
