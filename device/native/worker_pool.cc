#include "worker_pool.h"

#include <chrono>

namespace edge_mtp {
namespace {

// The attention of the next layer comes soon; LiteRT's own threads wait as long before they sleep.
constexpr std::chrono::microseconds kSpin{200};

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

WorkerPool::~WorkerPool() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ends_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void WorkerPool::run(int32_t count, Function function, const void* context) {
  const std::lock_guard<std::mutex> only(running_);
  if (threads_.empty()) start();
  function_ = function;
  context_ = context;
  count_ = count;
  next_ = 0;
  ++phase_;
  if (sleepers_ > 0) {
    { const std::lock_guard<std::mutex> lock(mutex_); }
    changed_.notify_all();
  }
  take();
  ++phase_;
  while (active_ > 0) pause();  // for parts that others have begun, not for threads that have not come
}

void WorkerPool::start() {
  for (int32_t i = 1; i < workers_; ++i) threads_.emplace_back([this] { serve(); });
}

void WorkerPool::serve() {
  uint32_t seen = 0;
  while (!ends_) {
    seen = wait(seen);
    ++active_;
    // The run may be over by now. If it is not, it now waits for this thread.
    if (phase_ % 2 == 1) take();
    --active_;
  }
}

void WorkerPool::take() {
  for (int32_t index; (index = next_++) < count_;) function_(context_, index);
}

// Returns the phase as soon as it is not `seen`, or when the pool ends.
uint32_t WorkerPool::wait(uint32_t seen) {
  const auto until = std::chrono::steady_clock::now() + kSpin;
  for (int turn = 1; phase_ == seen && !ends_; ++turn) {
    pause();
    if (turn % 64 != 0 || std::chrono::steady_clock::now() < until) continue;
    std::unique_lock<std::mutex> lock(mutex_);
    ++sleepers_;
    changed_.wait(lock, [&] { return phase_ != seen || ends_; });
    --sleepers_;
  }
  return phase_;
}

}  // namespace edge_mtp
