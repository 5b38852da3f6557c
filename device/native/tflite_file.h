// What the runtime itself reads, and in one place rewrites, of a .tflite flatbuffer (schema: tflite/schema/schema.fbs).
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

// A token-indexed table stored as a constant of an embedder graph, in any encoding that the exporter writes
// (docs/recipes.md). Rows and scales are read where they lie in the mapped file; neither need be aligned.
struct EmbeddingTable {
  enum class Type { kFloat32, kFloat16, kInt8, kInt4, kInt2 };
  Type type;
  const uint8_t* rows;    // [vocabulary, width]; below 8 bits packed, the first value in the lowest bits
  const uint8_t* scales;  // of integers: float32 [vocabulary], or float16 [vocabulary, width / block]
  size_t vocabulary;
  size_t width;
  size_t block;      // values that share a scale; 0 = a whole row
  float multiplier;  // of every value

  // Writes `width` floats: what the embedder graph would answer for `token`, bit for bit. Throws Error for a token
  // that the table lacks.
  void row(int32_t token, float* out) const;
};

// The table of an embedder graph whose only work is a look-up and at most one constant factor; nothing for any other
// graph. Throws Error for a graph that points outside the file.
std::optional<EmbeddingTable> find_embedding_table(flatbuffer::Bytes model);

}  // namespace edge_mtp
