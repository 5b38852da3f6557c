// The KV cache of a session: where the entries of its context lie, port by port.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "graph.h"

namespace edge_mtp {

// A port as `outer` runs of entries, `inner` bytes each.
struct CacheLayout {
  size_t outer, inner;
};

class KvCache {
 public:
  // The cache is what a session's pool has for the kv_cache_* ports of `decode`, a signature of `graph`; each has one
  // dimension of `context` entries.
  KvCache(const Graph& graph, const Signature& decode, int32_t context);

  // False if the entries of some port cannot be told; then there is nothing to read or write.
  bool is_known() const { return known_; }
  size_t entry_bytes() const { return entry_bytes_; }  // of one entry in all ports together
  // The first `count` entries of each port, one port after another.
  std::vector<uint8_t> read(BufferPool& pool, int32_t count) const;
  void write(BufferPool& pool, int32_t count, const std::vector<uint8_t>& entries) const;

 private:
  struct Part {
    std::string block;  // of the pool
    CacheLayout layout;
  };
  std::vector<Part> parts_;
  size_t context_, entry_bytes_ = 0;
  bool known_ = true;
};

// Graphs for an NPU do not write the cache. They put out its new rows (`kv_new_*`), and the host appends them.
class NewRows {
 public:
  // Finds the outputs of `call`, which takes `rows` tokens. Often there are none. The cache is KvCache's: a graph need
  // not read every port that it has rows for.
  NewRows(const Call& call, int32_t rows, const Graph& graph, const Signature& decode, int32_t context,
          BufferPool& pool);

  bool is_empty() const { return copies_.empty(); }
  // Copies the first `count` rows to the entries from `first` on.
  void append(int32_t first, int32_t count);

 private:
  struct Copy {
    Block *from, *to;
    CacheLayout layout;
  };
  std::vector<Copy> copies_;
  size_t rows_, context_;
};

bool is_cache(const Port& port);

}  // namespace edge_mtp
