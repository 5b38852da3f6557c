// A file in a cache folder. Anything may lie under its name: a folder, a link, a pipe, a truncated file. That is no
// error: the entry counts as missing, and the next write replaces it.
#pragma once

#include <cstdio>
#include <memory>
#include <string>
#include <string_view>

namespace edge_mtp {

struct CloseFile {
  void operator()(FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<FILE, CloseFile>;

// Opens the entry for reading; nullptr if it is no readable regular file. Never waits, and follows no link.
File open_entry(const std::string& path);

// The content of the entry; empty if there is none or it has more than `most` bytes.
std::string read_entry(const std::string& path, size_t most);

// Creates a new file `part`, open for writing, to be moved to an entry; nullptr if it cannot be created.
File create_part(const std::string& part);

// Moves `part` to the entry `path`, and replaces whatever is there. On failure, deletes `part` and returns false.
bool move_entry(const std::string& part, const std::string& path);

// Writes `bytes` to the entry atomically. Returns false on failure; a cache that cannot be written is no error.
bool write_entry(const std::string& path, std::string_view bytes);

}  // namespace edge_mtp
