// What the runtime itself reads, and in one place rewrites, of a .tflite flatbuffer (schema: tflite/schema/schema.fbs).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "flatbuffer.h"

namespace edge_mtp {

// Turns every STABLEHLO_COMPOSITE named `name` into the CUSTOM operator of the same name by rewriting its
// opcode_index, so that a kernel registered for that custom op claims it. The exporter leaves the custom operator
// code in the model's table; a runtime that does not rewrite runs the composite's decomposition instead.
// `model` must be a private mapping. Returns the number of operators claimed: 0 when the table lacks the code.
size_t claim_composites(uint8_t* model, size_t size, const char* name);

// A token-indexed table stored as a constant of an embedder graph: row(token) * multiplier.
struct EmbeddingTable {
  enum class Type { kFloat32, kInt8 };
  Type type;
  const void* rows;           // [vocabulary, width]
  std::vector<float> scales;  // one per row when int8
  size_t vocabulary;
  size_t width;
  float multiplier;

  // Writes `width` floats: what the embedder graph would answer for `token`.
  void row(int32_t token, float* out) const;
};

// The table of an embedder graph whose only work is a look-up and a constant factor; nothing for any other graph.
std::optional<EmbeddingTable> find_embedding_table(flatbuffer::Bytes model);

}  // namespace edge_mtp
