// The memory of graphs' ports, which signatures share by name.
//
// On the CPU a block is host memory, and ports of the same name share it even if their shapes differ. So every graph
// updates the KV cache in place, and a draft reaches the verify graph without a copy.
//
// On an accelerator a block has a buffer there, too, and ports of the same name and shape share it. The host's memory
// is then a copy: a run sends what the host has changed, and fetch() brings what a graph has written. So the KV cache,
// hidden states, and logits that nobody reads stay there.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "litert_api.h"

namespace edge_mtp {

// What has crossed between the host and an accelerator.
struct Traffic {
  int32_t waits = 0;  // of the host for a run
  int64_t to_device = 0, to_host = 0;  // bytes
  bool running = false;                // nobody has waited for the last run yet
};

class Block {
 public:
  Block() = default;
  ~Block();
  Block(Block&& other) noexcept;
  Block& operator=(Block&&) = delete;
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  // The host's memory, zeroed and aligned to pages. The kernel allocates pages on the first write, so a KV cache takes
  // only the memory that the context fills.
  void* host();
  size_t bytes() const { return bytes_; }

  // Gives the block its buffers on an accelerator: one, or two that are used in turn, so that a graph can read the one
  // and write the other.
  void place(const litert::Api& api, std::vector<litert::TensorBuffer> buffers, Traffic& traffic);
  bool is_placed() const { return !buffers_.empty(); }
  bool is_doubled() const { return doubled_; }
  litert::TensorBuffer read_from() const { return buffers_[current_]; }
  litert::TensorBuffer write_to() const { return buffers_[doubled_ ? 1 - current_ : 0]; }

  // None of these does anything to a block that is not placed.
  void send();         // before a graph reads it: what the host has changed
  void was_written();  // by a graph, after its run
  void fetch();        // makes the host's memory equal to what a graph wrote
  void give();         // the host's memory replaces what a graph wrote

  // Lets `change` write `bytes` of the block where graphs read it.
  void edit(size_t bytes, const std::function<void(uint8_t*)>& change);

 private:
  friend class BufferPool;
  void* lock(litert::TensorBuffer buffer, litert::LockMode mode);
  void copy(litert::TensorBuffer buffer, litert::LockMode mode);

  size_t bytes_ = 0;
  bool doubled_ = false;
  void* host_ = nullptr;

  const litert::Api* api_ = nullptr;
  Traffic* traffic_ = nullptr;
  std::vector<litert::TensorBuffer> buffers_;
  size_t current_ = 0;
  bool host_is_newer_ = true, host_is_older_ = false;
  std::vector<uint8_t> sent_;  // what is there, to send no byte twice; empty where that is not known, or doubled
};

class BufferPool {
 public:
  // Makes a block of at least `bytes`. Reserve every user's size before the first one is used.
  void reserve(const std::string& name, size_t bytes, bool doubled = false);
  Block& block(const std::string& name);
  // The host's memory of a block.
  void* take(const std::string& name) { return block(name).host(); }

  Traffic& traffic() { return traffic_; }

 private:
  std::map<std::string, Block> blocks_;
  Traffic traffic_;
};

}  // namespace edge_mtp
