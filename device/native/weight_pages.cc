#include "weight_pages.h"

#include <cstdint>

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace edge_mtp {

void will_read([[maybe_unused]] const void* begin, [[maybe_unused]] size_t size) {
#ifdef __linux__
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto at = reinterpret_cast<uintptr_t>(begin), first = at / page * page;
  auto* const pages = reinterpret_cast<void*>(first);
  unsigned char is_there = 1;
  if (mincore(pages, 1, &is_there) == 0 && (is_there & 1) == 0) madvise(pages, at + size - first, MADV_WILLNEED);
#endif
}

}  // namespace edge_mtp
