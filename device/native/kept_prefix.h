// The cache of a prompt's beginning (system prompt, tools), kept on disk and restored without prefill.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "graph.h"

namespace edge_mtp {

class KeptPrefix {
 public:
  // `folder` empty = nothing is kept. The KV cache lies in `pool`, under the names of `decode`'s kv_cache_* ports, each
  // with one dimension of `context` entries. `identity` names the bundle.
  KeptPrefix(std::string folder, uint64_t identity, const Signature& decode, int32_t context);

  // Fills entries 0 .. count-1 from the file kept for tokens[0..count); false when there is none that fits.
  bool restore(const std::vector<int32_t>& tokens, int32_t count, BufferPool& pool) const;
  // Whether there is such a file, sound or not.
  bool is_kept(const std::vector<int32_t>& tokens, int32_t count) const;
  // Keeps them; false when the disk does not take it. The file appears whole or not at all.
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
  size_t entry_bytes_ = 0;  // of one entry in all blocks
};

}  // namespace edge_mtp
