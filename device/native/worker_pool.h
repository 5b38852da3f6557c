// Threads that share the parts of a computation with the thread that asks for it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace edge_mtp {

class WorkerPool {
 public:
  // `workers` includes the thread that calls run(). Threads start with the first run that has work for them.
  explicit WorkerPool(int32_t workers) : workers_(workers < 1 ? 1 : workers) {}
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  int32_t workers() const { return workers_; }

  // Calls part(0) .. part(count - 1), each once, and returns when all are done. Whoever is free takes the next: a thread
  // that another program keeps from running delays nobody. One call at a time.
  template <typename Part>
  void run(int32_t count, const Part& part) {
    run(count, [](const void* context, int32_t index) { (*static_cast<const Part*>(context))(index); }, &part);
  }

 private:
  using Function = void (*)(const void* context, int32_t index);
  void run(int32_t count, Function function, const void* context);
  void start();
  void serve();
  void take();
  uint32_t wait(uint32_t seen);

  const int32_t workers_;
  std::vector<std::thread> threads_;
  std::mutex running_;  // held during a run
  Function function_ = nullptr;
  const void* context_ = nullptr;
  int32_t count_ = 0;
  std::atomic<int32_t> next_{0};
  std::atomic<int32_t> active_{0};  // threads that may touch the members above
  // Odd while there are parts to take; changes with the beginning and with the end of a run.
  std::atomic<uint32_t> phase_{0};
  std::atomic<int32_t> sleepers_{0};
  std::atomic<bool> ends_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
};

}  // namespace edge_mtp
