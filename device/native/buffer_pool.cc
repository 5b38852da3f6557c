#include "buffer_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "clock.h"
#include "error.h"

namespace edge_mtp {
namespace {

constexpr double kPatienceUs = 60e6;

}  // namespace

Block::Block(Block&& other) noexcept
    : bytes_(other.bytes_), doubled_(other.doubled_), host_(std::exchange(other.host_, nullptr)), api_(other.api_),
      traffic_(other.traffic_), buffers_(std::move(other.buffers_)), current_(other.current_), host_is_newer_(other.host_is_newer_),
      host_is_older_(other.host_is_older_), sent_(std::move(other.sent_)) {
  other.buffers_.clear();
}

Block::~Block() {
  for (litert::TensorBuffer buffer : buffers_) api_->DestroyTensorBuffer(buffer);
  if (host_ != nullptr) munmap(host_, bytes_);
}

void* Block::host() {
  if (host_ == nullptr) {
    // LiteRT needs addresses aligned to 64 bytes, which pages are.
    void* mapped = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw Error("no memory for " + std::to_string(bytes_) + " bytes of a graph's data");
    host_ = mapped;
  }
  return host_;
}

void Block::place(const litert::Api& api, std::vector<litert::TensorBuffer> buffers, Traffic& traffic) {
  api_ = &api;
  traffic_ = &traffic;
  buffers_ = std::move(buffers);
}

void Block::copy(litert::TensorBuffer buffer, litert::LockMode mode) {
  void* const there = lock(buffer, mode);
  if (mode == litert::kRead) {
    std::memcpy(host(), there, bytes_);
    traffic_->to_host += static_cast<int64_t>(bytes_);
    if (std::exchange(traffic_->running, false)) ++traffic_->waits;
  } else {
    std::memcpy(there, host(), bytes_);
    traffic_->to_device += static_cast<int64_t>(bytes_);
  }
  litert::check(api_->UnlockTensorBuffer(buffer), "leaving the accelerator's memory");
}

// LiteRT waits for a run for some seconds only, and a slow accelerator may be busy for longer.
void* Block::lock(litert::TensorBuffer buffer, litert::LockMode mode) {
  void* there = nullptr;
  litert::Status status = litert::kTimeoutExpired;
  for (const Clock clock; status == litert::kTimeoutExpired && clock.elapsed() < kPatienceUs;) {
    status = api_->LockTensorBuffer(buffer, &there, mode);
  }
  litert::check(status, "reaching the accelerator's memory");
  return there;
}

void Block::send() {
  if (!is_placed() || host_is_older_) return;
  const auto* bytes = static_cast<const uint8_t*>(host());
  if (is_doubled()) {
    if (!std::exchange(host_is_newer_, false)) return;
  } else {
    if (sent_.size() == bytes_ && std::memcmp(sent_.data(), bytes, bytes_) == 0) return;
    sent_.assign(bytes, bytes + bytes_);
  }
  copy(read_from(), litert::kWrite);
}

void Block::was_written() {
  if (is_doubled()) current_ = 1 - current_;
  host_is_older_ = true;
  host_is_newer_ = false;
  sent_.clear();
}

void Block::fetch() {
  if (!is_placed() || !std::exchange(host_is_older_, false)) return;
  copy(read_from(), litert::kRead);
  if (is_doubled()) return;
  const auto* bytes = static_cast<const uint8_t*>(host());
  sent_.assign(bytes, bytes + bytes_);
}

void Block::give() {
  host_is_older_ = false;
  host_is_newer_ = true;
}

void Block::edit(size_t bytes, const std::function<void(uint8_t*)>& change) {
  if (!is_placed()) return change(static_cast<uint8_t*>(host()));
  send();
  change(static_cast<uint8_t*>(lock(read_from(), litert::kReadWrite)));
  litert::check(api_->UnlockTensorBuffer(read_from()), "leaving the accelerator's memory");
  traffic_->to_device += static_cast<int64_t>(bytes);
  host_is_older_ = true;
  sent_.clear();
}

void BufferPool::reserve(const std::string& name, size_t bytes, bool doubled) {
  Block& block = blocks_[name];
  block.bytes_ = std::max(block.bytes_, bytes);
  block.doubled_ = block.doubled_ || doubled;
}

Block& BufferPool::block(const std::string& name) {
  const auto found = blocks_.find(name);
  if (found == blocks_.end()) throw Error("no memory was reserved for '" + name + "'");
  return found->second;
}

}  // namespace edge_mtp
