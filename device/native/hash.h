// FNV-1a, 64 bits: names for caches, not protection against anybody.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edge_mtp {

constexpr uint64_t kHashSeed = 0xcbf29ce484222325ull;

inline uint64_t hash_bytes(uint64_t hash, const void* data, size_t size) {
  for (size_t i = 0; i < size; ++i) hash = (hash ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001b3ull;
  return hash;
}

}  // namespace edge_mtp
