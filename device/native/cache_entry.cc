#include "cache_entry.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <system_error>

namespace edge_mtp {
namespace {

File open_as(const std::string& path, int flags, const char* mode) {
  const int file = open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
  if (file < 0) return nullptr;
  struct stat status{};
  FILE* stream = fstat(file, &status) == 0 && S_ISREG(status.st_mode) ? fdopen(file, mode) : nullptr;
  if (stream == nullptr) close(file);
  return File(stream);
}

}  // namespace

File open_entry(const std::string& path) { return open_as(path, O_RDONLY, "rb"); }

std::string read_entry(const std::string& path, size_t most) {
  const File file = open_entry(path);
  if (file == nullptr) return {};
  std::string bytes(most + 1, '\0');
  bytes.resize(std::fread(bytes.data(), 1, bytes.size(), file.get()));
  return bytes.size() > most || std::ferror(file.get()) != 0 ? std::string() : bytes;
}

File create_part(const std::string& part) {
  std::remove(part.c_str());  // left by a killed process that had the same number
  return open_as(part, O_WRONLY | O_CREAT | O_EXCL, "wb");
}

bool move_entry(const std::string& part, const std::string& path) {
  if (std::rename(part.c_str(), path.c_str()) == 0) return true;
  // Only a folder can block the rename. Its name is one of ours, and remove_all follows no links.
  std::error_code ignored;
  if (std::filesystem::symlink_status(path, ignored).type() == std::filesystem::file_type::directory) {
    std::filesystem::remove_all(path, ignored);
    if (std::rename(part.c_str(), path.c_str()) == 0) return true;
  }
  std::remove(part.c_str());
  return false;
}

bool write_entry(const std::string& path, std::string_view bytes) {
  const std::string part = path + "." + std::to_string(getpid());
  File file = create_part(part);
  if (file == nullptr) return false;
  const bool written = std::fwrite(bytes.data(), 1, bytes.size(), file.get()) == bytes.size();
  if (std::fclose(file.release()) != 0 || !written) {
    std::remove(part.c_str());
    return false;
  }
  return move_entry(part, path);
}

}  // namespace edge_mtp
