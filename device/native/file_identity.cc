#include "file_identity.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <vector>

#include "cache_entry.h"
#include "error.h"
#include "hash.h"

namespace edge_mtp {
namespace {

constexpr size_t kLanes = 8;
constexpr size_t kStride = kLanes * sizeof(uint64_t);
constexpr size_t kChunk = 1 << 20;  // a multiple of kStride
constexpr size_t kPage = 4096;
constexpr uint64_t kPages = 64;  // besides the first, which has the header
constexpr time_t kSettled = 2;   // seconds
constexpr uint64_t kFactor = 0x9e3779b97f4a7c15ull;

// The state for which a remembered hash is valid. Compared as bytes, so it has no padding.
struct State {
  uint64_t version, device, inode, size;
  int64_t modified_s, modified_ns, changed_s, changed_ns;
  uint64_t pages;
};

struct Record {
  State state;
  uint64_t hash, sum;
};

// One-to-one in `lane` for a fixed word, and in `word` for a fixed lane, so a difference never disappears again.
uint64_t stir(uint64_t lane, uint64_t word) {
  lane ^= word;
  return (lane << 29 | lane >> 35) * kFactor;
}

class Reader {
 public:
  Reader(int file, const std::string& path) : file_(file), path_(path), buffer_(kChunk) {}

  // Returns the number of bytes read, which is less than `size` only at the end of the file.
  size_t read(uint64_t at, size_t size) {
    size_t done = 0;
    while (done < size) {
      const ssize_t count = pread(file_, buffer_.data() + done, size - done, static_cast<off_t>(at + done));
      if (count == 0) break;
      if (count < 0 && errno != EINTR) throw Error("cannot read '" + path_ + "': " + std::strerror(errno));
      if (count > 0) done += static_cast<size_t>(count);
    }
    return done;
  }

  uint8_t* data() { return buffer_.data(); }

 private:
  int file_;
  const std::string& path_;
  std::vector<uint8_t> buffer_;
};

// Reads through a buffer, since a mapping of gigabytes would count as this process's memory.
uint64_t hash_content(Reader& reader) {
  uint64_t lanes[kLanes] = {1, 2, 3, 4, 5, 6, 7, 8};
  uint64_t size = 0;
  for (size_t count = kChunk; count == kChunk; size += count) {
    count = reader.read(size, kChunk);
    const size_t padded = (count + kStride - 1) / kStride * kStride;
    std::memset(reader.data() + count, 0, padded - count);
    for (size_t at = 0; at < padded; at += kStride) {
      uint64_t words[kLanes];
      std::memcpy(words, reader.data() + at, sizeof words);
      for (size_t i = 0; i < kLanes; ++i) lanes[i] = stir(lanes[i], words[i]);
    }
  }
  uint64_t hash = size;
  for (const uint64_t lane : lanes) hash = stir(hash, lane);
  hash = (hash ^ hash >> 32) * kFactor;
  return hash ^ hash >> 29;
}

uint64_t hash_pages(Reader& reader, uint64_t size) {
  uint64_t hash = kHashSeed, last = UINT64_MAX;
  for (uint64_t i = 0; i <= kPages; ++i) {
    const uint64_t at = size / (kPages + 1) * i / kPage * kPage;
    if (at == last) continue;
    last = at;
    hash = hash_bytes(hash, reader.data(), reader.read(at, kPage));
  }
  return hash;
}

std::string record_path(const std::string& path, const std::string& folder) {
  char* resolved = realpath(path.c_str(), nullptr);
  const std::string whole = resolved == nullptr ? path : resolved;
  free(resolved);
  char name[32];
  std::snprintf(name, sizeof name, "/%016" PRIx64 ".identity", hash_bytes(kHashSeed, whole.data(), whole.size()));
  return folder + name;
}

State state_of(const struct stat& status) {
  State state{};
  state.version = 1;
  state.device = status.st_dev;
  state.inode = status.st_ino;
  state.size = static_cast<uint64_t>(status.st_size);
  state.modified_s = status.st_mtim.tv_sec;
  state.modified_ns = status.st_mtim.tv_nsec;
  state.changed_s = status.st_ctim.tv_sec;
  state.changed_ns = status.st_ctim.tv_nsec;
  return state;
}

}  // namespace

uint64_t file_identity(int file, const std::string& path, const std::string& folder) {
  struct stat status{};
  if (fstat(file, &status) != 0) throw Error("cannot read '" + path + "': " + std::strerror(errno));
  Reader reader(file, path);
  if (folder.empty()) return hash_content(reader);

  State state = state_of(status);
  state.pages = hash_pages(reader, state.size);
  const std::string kept = record_path(path, folder);
  Record record{};
  const std::string bytes = read_entry(kept, sizeof record);
  if (bytes.size() == sizeof record) {
    std::memcpy(&record, bytes.data(), sizeof record);
    if (std::memcmp(&record.state, &state, sizeof state) == 0 &&
        record.sum == hash_bytes(kHashSeed, &record, offsetof(Record, sum))) {
      return record.hash;
    }
  }
  record.state = state;
  record.hash = hash_content(reader);
  record.sum = hash_bytes(kHashSeed, &record, offsetof(Record, sum));
  struct stat after{};
  const time_t settled = time(nullptr) - kSettled;
  const bool read = fstat(file, &after) == 0;
  State now = state_of(after);
  now.pages = state.pages;
  if (read && std::memcmp(&now, &state, sizeof now) == 0 && state.modified_s < settled && state.changed_s < settled) {
    write_entry(kept, {reinterpret_cast<const char*>(&record), sizeof record});
  }
  return record.hash;
}

uint64_t file_identity(const std::string& path, const std::string& folder) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) throw Error("cannot read '" + path + "': " + std::strerror(errno));
  try {
    const uint64_t identity = file_identity(file, path, folder);
    close(file);
    return identity;
  } catch (...) {
    close(file);
    throw;
  }
}

}  // namespace edge_mtp
