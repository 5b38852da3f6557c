// The bundle's header and list of sections.
#include "bundle.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  must_answer([&] {
    for (const edge_mtp::Section& section : edge_mtp::read_sections({data, size})) {
      must(section.bytes.data >= data && section.bytes.data + section.bytes.size <= data + size, "sections lie inside");
      for (const auto& [name, value] : section.items) {
        touch(name);
        touch(value);
      }
    }
  });
  return 0;
}
