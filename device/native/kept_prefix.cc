#include "kept_prefix.h"

#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "cache_entry.h"
#include "hash.h"

namespace edge_mtp {
namespace {

constexpr char kMagic[8] = {'E', 'M', 'K', 'V', 0, 0, 0, 2};

}  // namespace

// Precedes the entries. A file is used only if the whole header matches, and the checksum after the entries too.
struct KeptPrefix::Header {
  char magic[8];
  uint64_t layout, tokens, count;
};

KeptPrefix::KeptPrefix(std::string folder, uint64_t identity, const Graph& graph, const Signature& decode,
                       int32_t context)
    : folder_(std::move(folder)), layout_(hash_bytes(kHashSeed, &identity, sizeof identity)),
      cache_(graph, decode, context) {
  if (!cache_.is_known()) folder_.clear();  // another kind of cache, which is not saved
  // Accelerators round otherwise than the CPU.
  const std::string accelerator = name_of(graph.accelerator());
  layout_ = hash_bytes(layout_, accelerator.data(), accelerator.size());
  for (const Port& port : decode.inputs) {
    if (!is_cache(port)) continue;
    layout_ = hash_bytes(layout_, port.name.data(), port.name.size());
    layout_ = hash_bytes(layout_, &port.type.element_type, sizeof port.type.element_type);
    layout_ = hash_bytes(layout_, port.type.layout.dimensions, port.type.layout.rank * sizeof(int32_t));
  }
}

KeptPrefix::Header KeptPrefix::header(const std::vector<int32_t>& tokens, int32_t count) const {
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.layout = layout_;
  header.tokens = hash_bytes(kHashSeed, tokens.data(), static_cast<size_t>(count) * sizeof(int32_t));
  header.count = static_cast<uint64_t>(count);
  return header;
}

std::string KeptPrefix::path(const Header& header) const {
  char name[64];
  std::snprintf(name, sizeof name, "/%016" PRIx64 "-%016" PRIx64 ".prefix", header.layout, header.tokens);
  return folder_ + name;
}

bool KeptPrefix::restore(const std::vector<int32_t>& tokens, int32_t count, BufferPool& pool) const {
  if (folder_.empty()) return false;
  const Header wanted = header(tokens, count);
  const File file = open_entry(path(wanted));
  Header found{};
  if (file == nullptr || std::fread(&found, sizeof found, 1, file.get()) != 1 ||
      std::memcmp(&found, &wanted, sizeof wanted) != 0) {
    return false;
  }
  // The whole file is read and checked before any of it reaches the cache.
  std::vector<int32_t> ids(static_cast<size_t>(count));
  std::vector<uint8_t> entries(cache_.entry_bytes() * static_cast<size_t>(count));
  uint64_t sum = 0;
  if (std::fread(ids.data(), sizeof(int32_t), ids.size(), file.get()) != ids.size() ||
      !std::equal(ids.begin(), ids.end(), tokens.begin()) ||
      std::fread(entries.data(), 1, entries.size(), file.get()) != entries.size() ||
      std::fread(&sum, sizeof sum, 1, file.get()) != 1 || sum != hash_bytes(kHashSeed, entries.data(), entries.size())) {
    return false;
  }
  cache_.write(pool, count, entries);
  return true;
}

bool KeptPrefix::is_kept(const std::vector<int32_t>& tokens, int32_t count) const {
  return !folder_.empty() && access(path(header(tokens, count)).c_str(), F_OK) == 0;
}

bool KeptPrefix::keep(const std::vector<int32_t>& tokens, int32_t count, BufferPool& pool) const {
  if (folder_.empty()) return false;
  const Header head = header(tokens, count);
  const std::vector<uint8_t> entries = cache_.read(pool, count);
  const uint64_t sum = hash_bytes(kHashSeed, entries.data(), entries.size());
  const std::string whole = path(head), part = whole + "." + std::to_string(getpid());
  bool written = false;
  if (const File file = create_part(part); file != nullptr) {
    written = std::fwrite(&head, sizeof head, 1, file.get()) == 1 &&
              std::fwrite(tokens.data(), sizeof(int32_t), static_cast<size_t>(count), file.get()) ==
                  static_cast<size_t>(count) &&
              std::fwrite(entries.data(), 1, entries.size(), file.get()) == entries.size() &&
              std::fwrite(&sum, sizeof sum, 1, file.get()) == 1 && std::fflush(file.get()) == 0;
  }
  if (!written) std::remove(part.c_str());
  return written && move_entry(part, whole);
}

}  // namespace edge_mtp
