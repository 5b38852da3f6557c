// The identity of a file by its content, which keys everything that is cached for it. A replaced file gets another
// identity, even with the same name, size and times.
#pragma once

#include <cstdint>
#include <string>

namespace edge_mtp {

// The hash of the whole content of the open `file`. Files of equal size that differ in one word never have the same
// hash; any other two do with a probability of 2^-64.
//
// The hash is remembered in `folder` (empty: nowhere) under the name `path`, and trusted as long as device, inode,
// size, mtime, ctime and 65 pages spread over the file are unchanged. A program can set back mtime but not ctime
// (POSIX, st_ctim); on a file system without ctime, the pages reveal a change. A file that changed within the last two
// seconds may change again within one tick of the file system's clock, so its hash is not remembered.
// Throws Error naming `path` when the file cannot be read.
uint64_t file_identity(int file, const std::string& path, const std::string& folder);

// The same for a file by name.
uint64_t file_identity(const std::string& path, const std::string& folder);

}  // namespace edge_mtp
