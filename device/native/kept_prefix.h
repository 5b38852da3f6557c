// Saves the KV cache of a prompt's beginning (system prompt, tools) to disk and restores it, instead of prefilling.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "graph.h"

namespace edge_mtp {

class KeptPrefix {
 public:
  // An empty `folder` disables it. The KV cache is in the pool, under the names of `decode`'s kv_cache_* ports, each
  // with one dimension of `context` entries. `identity` identifies the bundle.
  KeptPrefix(std::string folder, uint64_t identity, const Signature& decode, int32_t context);

  // Fills entries 0 .. count-1 from the file for tokens[0..count); false when there is no valid one.
  bool restore(const std::vector<int32_t>& tokens, int32_t count, BufferPool& pool) const;
  // Whether there is such a file, valid or not.
  bool is_kept(const std::vector<int32_t>& tokens, int32_t count) const;
  // Saves these entries atomically; false when the file cannot be written.
  bool keep(const std::vector<int32_t>& tokens, int32_t count, BufferPool& pool) const;

 private:
  // One port of the cache as `outer` runs of `context` entries of `inner` bytes.
  struct Block {
    std::string name;
    size_t outer, inner;
  };
  struct Header;

  Header header(const std::vector<int32_t>& tokens, int32_t count) const;
  std::string path(const Header& header) const;

  std::string folder_;
  uint64_t layout_;  // hash of bundle, context, and the cache's ports, types and shapes
  std::vector<Block> blocks_;
  size_t context_;
  size_t entry_bytes_ = 0;  // size of one entry in all blocks together
};

}  // namespace edge_mtp
