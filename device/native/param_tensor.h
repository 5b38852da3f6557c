// What the stock runtime tells kernels that update the cache in place: int32 [1,1,1,7], the first entry that is written,
// the one behind the last, that again as the end of what attention reads, and zeros (LiteRT-LM,
// runtime/executor/litert_compiled_model_executor_utils.cc). The official files ask for it.
#pragma once

#include <cstdint>

#include "graph.h"

namespace edge_mtp {

class ParamTensor {
 public:
  explicit ParamTensor(const Call& call) {
    if (call.signature().input("param_tensor") != nullptr) values_ = call.input<int32_t>("param_tensor");
  }

  // Entries first .. end - 1 are written. Nothing happens where the signature does not ask.
  void set(int32_t first, int32_t end) {
    if (values_ == nullptr) return;
    values_[0] = first;
    values_[1] = values_[2] = end;
  }

 private:
  int32_t* values_ = nullptr;  // zeroed by the pool
};

}  // namespace edge_mtp
