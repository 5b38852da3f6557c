// A file in a cache folder. What stands under its name may be anything: a folder, a link, a pipe, a file that was cut.
// That is no error, only an entry that is not there, and the next write puts a file in its place.
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

// The entry, open for reading; nullptr for what is no readable regular file of its own. Never waits, follows no link.
File open_entry(const std::string& path);

// What the entry holds; empty where there is none, and for one of more than `most` bytes.
std::string read_entry(const std::string& path, size_t most);

// A file of another name beside `path`, new and open for writing; nullptr where the disk takes none.
File create_part(const std::string& part);

// `part` becomes the entry `path`, whatever stands there. False, and no `part` left, where that cannot be.
bool move_entry(const std::string& part, const std::string& path);

// The entry holds `bytes`, or what it held before. What is kept is worth keeping and not worth an error.
bool write_entry(const std::string& path, std::string_view bytes);

}  // namespace edge_mtp
