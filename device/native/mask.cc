#include "mask.h"

#include <algorithm>
#include <cstring>

#include "error.h"

namespace edge_mtp {

Mask::Mask(const Call& call) {
  if (call.signature().input("mask") == nullptr) return;
  const Port& port = *call.signature().input("mask");
  values_ = call.input<uint8_t>("mask");
  switch (port.type.element_type) {
    case litert::kFloat32: {
      const float hidden = -1e4f;
      std::memcpy(&hidden_, &hidden, sizeof hidden);
      seen_ = 0;
      element_ = sizeof hidden;
      break;
    }
    case litert::kFloat16:
      hidden_ = 0xf0e2;  // -1e4
      seen_ = 0;
      element_ = 2;
      break;
    case litert::kBool:
      hidden_ = 0;
      seen_ = 1;
      element_ = 1;
      break;
    default:
      throw Error("the mask of '" + call.signature().name + "' has element type " +
                  std::to_string(port.type.element_type) + "; this runtime takes bool, float32 and float16");
  }
  columns_ = port.dimension(3);
  visible_.assign(static_cast<size_t>(port.dimension(2)), 0);
  for (size_t row = 0; row < visible_.size(); ++row) fill(row, 0, columns_, false);
}

void Mask::show(int32_t first, int32_t grow) {
  for (size_t row = 0; row < visible_.size(); ++row) {
    const int32_t want = std::min(first + static_cast<int32_t>(row) * grow, columns_);
    fill(row, visible_[row], want, true);
    fill(row, want, visible_[row], false);
    visible_[row] = want;
  }
}

void Mask::fill(size_t row, int32_t from, int32_t to, bool seen) {
  if (from >= to) return;
  uint8_t* at = values_ + (row * static_cast<size_t>(columns_) + static_cast<size_t>(from)) * element_;
  const auto count = static_cast<size_t>(to - from);
  const uint32_t value = seen ? seen_ : hidden_;
  // The pool's memory is aligned to pages, so each element is aligned to its size.
  if (element_ == 4) {
    std::fill_n(reinterpret_cast<uint32_t*>(at), count, value);
  } else if (element_ == 2) {
    std::fill_n(reinterpret_cast<uint16_t*>(at), count, static_cast<uint16_t>(value));
  } else {
    std::fill_n(at, count, static_cast<uint8_t>(value));
  }
}

}  // namespace edge_mtp
