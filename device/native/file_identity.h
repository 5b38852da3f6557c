// What a file is, by its content: the key of everything that is kept of it. A file that was replaced, under the same
// name and with the same size and times, is another file.
#pragma once

#include <cstdint>
#include <string>

namespace edge_mtp {

// Hash of all that the open `file` holds. Files of one size that differ in one word never share it; any two others do
// with a chance of 2^-64.
//
// The hash is remembered in `folder` (empty: nowhere), under the name `path`, and believed while device, inode, size,
// both times of change and 65 pages spread over the file are as they were: a program can set the one time back and
// not the other (POSIX, st_ctim), and where a file system keeps no such time, the pages tell. What changed within the
// last two seconds may change again within one tick of its clock, so it is not remembered.
// Throws Error naming `path` when the file cannot be read.
uint64_t file_identity(int file, const std::string& path, const std::string& folder);

// The same for a file by its name.
uint64_t file_identity(const std::string& path, const std::string& folder);

}  // namespace edge_mtp
