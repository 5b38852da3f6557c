// The parts of a .tflite flatbuffer that the runtime itself reads or rewrites (schema: tflite/schema/schema.fbs).
#pragma once

#include <cstdint>
#include <optional>

#include "flatbuffer.h"

namespace edge_mtp {

// Turns every STABLEHLO_COMPOSITE named `name` into the CUSTOM operator of the same name by rewriting its
// opcode_index, so that a kernel registered for that custom op claims it. The exporter leaves the custom operator
// code in the model's table; a runtime that does not rewrite runs the composite's decomposition instead.
// `model` must be a private mapping. Returns the number of operators claimed: 0 when the table lacks the code.
size_t claim_composites(uint8_t* model, size_t size, const char* name);

// A table indexed by token, stored as a constant of an embedder graph, in any encoding that the exporter writes
// (docs/recipes.md). Rows and scales are read in place from the mapped file and need not be aligned.
struct EmbeddingTable {
  enum class Type { kFloat32, kFloat16, kInt8, kInt4, kInt2 };
  Type type;
  const uint8_t* rows;    // [vocabulary, width]; packed below 8 bits, the first value in the lowest bits
  const uint8_t* scales;  // only of integers: float32 [vocabulary], or float16 [vocabulary, width / block]
  size_t vocabulary;
  size_t width;
  size_t block;      // number of values that share a scale; 0 = a whole row
  float multiplier;  // factor of every value

  // Writes `width` floats, bit for bit what the embedder graph would output for `token`. Throws Error for a token
  // outside the table.
  void row(int32_t token, float* out) const;
};

// The table of an embedder graph that consists of a look-up and at most one constant factor; nothing for any other
// graph. Throws Error for a graph that points outside the file.
std::optional<EmbeddingTable> find_embedding_table(flatbuffer::Bytes model);

}  // namespace edge_mtp
