// Saves the KV cache of a prompt's beginning (system prompt, tools) to disk and restores it, instead of prefilling.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "graph.h"
#include "kv_cache.h"

namespace edge_mtp {

class KeptPrefix {
 public:
  // An empty `folder` disables it. The arguments behind `identity`, which identifies the bundle, are KvCache's.
  KeptPrefix(std::string folder, uint64_t identity, const Graph& graph, const Signature& decode, int32_t context);

  // Fills entries 0 .. count-1 from the file for tokens[0..count); false when there is no valid one.
  bool restore(const std::vector<int32_t>& tokens, int32_t count, BufferPool& pool) const;
  // Whether there is such a file, valid or not.
  bool is_kept(const std::vector<int32_t>& tokens, int32_t count) const;
  // Saves these entries atomically; false when the file cannot be written.
  bool keep(const std::vector<int32_t>& tokens, int32_t count, BufferPool& pool) const;

 private:
  struct Header;

  Header header(const std::vector<int32_t>& tokens, int32_t count) const;
  std::string path(const Header& header) const;

  std::string folder_;
  uint64_t layout_;  // hash of bundle, accelerator, context, and the cache's ports, types and shapes
  KvCache cache_;
};

}  // namespace edge_mtp
