// Weights in a mapped file: what is about to be read, and perhaps not in memory.
#pragma once

#include <cstddef>

namespace edge_mtp {

// Asks the system to begin reading [begin, begin + size) of a mapped file if its first page is not in memory. Where all
// of it is, that costs far less than it does to ask for each page.
void will_read(const void* begin, size_t size);

}  // namespace edge_mtp
