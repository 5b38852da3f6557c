// What the runtime reads and rewrites of TFLite models.
#include <memory>
#include <vector>

#include "fuzz.h"
#include "tflite_file.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  must_answer([&] {
    const auto table = edge_mtp::find_embedding_table({data, size});
    if (!table) return;
    must(table->width <= 8 * size, "a row is no wider than the file");
    const auto last = static_cast<int32_t>(table->vocabulary - 1);
    std::vector<float> row(table->width);
    for (const int32_t token : {0, last, last / 2}) table->row(token, row.data());
    for (const int32_t token : {-1, last + 1}) {
      bool refused = false;
      try {
        table->row(token, row.data());
      } catch (const edge_mtp::Error&) {
        refused = true;
      }
      must(refused, "a token outside the table is refused");
    }
  });
  const std::unique_ptr<uint8_t[]> copy(new uint8_t[size]);
  std::copy(data, data + size, copy.get());
  must_answer([&] { edge_mtp::claim_composites(copy.get(), size, "edge_mtp.verify"); });
  return 0;
}
