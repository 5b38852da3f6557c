#include "tflite_file.h"

#include <cstring>

namespace edge_mtp {
namespace {

using flatbuffer::Bytes;
using flatbuffer::Table;
using flatbuffer::Vector;

// Fields of the schema's tables, by declaration order.
enum ModelField { kOperatorCodes = 1, kSubgraphs = 2, kBuffers = 4 };
enum OperatorCodeField { kCustomCode = 1, kBuiltinCode = 3 };
enum SubgraphField { kTensors = 0, kOperators = 3 };
enum OperatorField { kOpcodeIndex = 0, kInputs = 1, kBuiltinOptions2 = 12 };
enum TensorField { kShape = 0, kType = 1, kBuffer = 2, kQuantization = 4 };
enum BufferField { kData = 0, kOffset = 1, kSize = 2 };
enum Builtin : int32_t {
  kCast = 53, kCustom = 32, kDequantize = 6, kEmbeddingLookup = 7, kGather = 36, kMul = 18, kReshape = 22,
  kStablehloComposite = 206
};
enum TensorType : int8_t { kFloat32 = 0, kInt8 = 9 };

int32_t builtin_code(const Vector& codes, uint32_t index) {
  return codes.table(index).scalar<int32_t>(kBuiltinCode, 0);
}

struct Constant {
  const uint8_t* data = nullptr;
  size_t size = 0;
};

// The bytes of a constant tensor; empty for a computed one. Large models keep them past the flatbuffer, by offset.
Constant constant_of(const Bytes& model, const Table& root, const Table& tensor) {
  const Table buffer = root.vector(kBuffers).table(tensor.scalar<uint32_t>(kBuffer, 0));
  if (const auto offset = buffer.scalar<uint64_t>(kOffset, 0); offset > 1) {
    const auto size = buffer.scalar<uint64_t>(kSize, 0);
    return {model.range(offset, size), size};
  }
  const Vector data = buffer.vector(kData);
  return data.size() == 0 ? Constant{} : Constant{data.data(1), data.size()};
}

}  // namespace

size_t claim_composites(uint8_t* model, size_t size, const char* name) {
  const Bytes bytes{model, size};
  const Table root = Table::root(bytes);
  const Vector codes = root.vector(kOperatorCodes);
  uint32_t custom = 0;
  while (custom < codes.size() &&
         !(builtin_code(codes, custom) == kCustom && codes.table(custom).string(kCustomCode) == name)) {
    ++custom;
  }
  if (custom == codes.size()) return 0;

  size_t claimed = 0;
  const Vector subgraphs = root.vector(kSubgraphs);
  for (size_t g = 0; g < subgraphs.size(); ++g) {
    const Vector operators = subgraphs.table(g).vector(kOperators);
    for (size_t o = 0; o < operators.size(); ++o) {
      const Table op = operators.table(o);
      const size_t opcode_at = op.field(kOpcodeIndex);
      // Opcode 0 is the default and then has no bytes to rewrite; the exporter's composites never are opcode 0.
      if (opcode_at == 0 || builtin_code(codes, bytes.read<uint32_t>(opcode_at)) != kStablehloComposite) continue;
      const Table composite = op.table(kBuiltinOptions2);
      if (!composite || composite.string(0) != name) continue;
      std::memcpy(model + opcode_at, &custom, sizeof custom);
      ++claimed;
    }
  }
  return claimed;
}

std::optional<EmbeddingTable> find_embedding_table(Bytes model) {
  const Table root = Table::root(model);
  const Vector codes = root.vector(kOperatorCodes);
  const Vector subgraphs = root.vector(kSubgraphs);
  if (subgraphs.size() != 1) return std::nullopt;
  const Vector tensors = subgraphs.table(0).vector(kTensors);
  const Vector operators = subgraphs.table(0).vector(kOperators);

  std::optional<EmbeddingTable> found;
  float multiplier = 1.0f;
  for (size_t o = 0; o < operators.size(); ++o) {
    const Table op = operators.table(o);
    const int32_t code = builtin_code(codes, op.scalar<uint32_t>(kOpcodeIndex, 0));
    const Vector inputs = op.vector(kInputs);
    switch (code) {
      case kReshape:
      case kCast:
        break;
      case kMul: {
        // One factor is the looked-up row, the other must be a scalar constant.
        size_t scalars = 0;
        for (size_t i = 0; i < inputs.size(); ++i) {
          const Constant value = constant_of(model, root, tensors.table(inputs.scalar<uint32_t>(i)));
          if (value.size != sizeof(float)) continue;
          float factor;
          std::memcpy(&factor, value.data, sizeof factor);
          multiplier *= factor;
          ++scalars;
        }
        if (!found || scalars != 1) return std::nullopt;
        break;
      }
      case kEmbeddingLookup:
      case kGather: {
        // EMBEDDING_LOOKUP takes (ids, table), GATHER takes (table, ids).
        if (found || inputs.size() != 2) return std::nullopt;
        const Table tensor = tensors.table(inputs.scalar<uint32_t>(code == kGather ? 0 : 1));
        const Vector shape = tensor.vector(kShape);
        const Constant rows = constant_of(model, root, tensor);
        const auto type = tensor.scalar<int8_t>(kType, 0);
        if (shape.size() != 2 || (type != kFloat32 && type != kInt8)) return std::nullopt;
        const auto vocabulary = static_cast<size_t>(shape.scalar<int32_t>(0));
        const auto width = static_cast<size_t>(shape.scalar<int32_t>(1));
        const size_t item = type == kFloat32 ? sizeof(float) : 1;
        if (vocabulary == 0 || width == 0 || rows.size / item / vocabulary != width) return std::nullopt;
        EmbeddingTable table{type == kFloat32 ? EmbeddingTable::Type::kFloat32 : EmbeddingTable::Type::kInt8,
                             rows.data, {}, vocabulary, width, 1.0f};
        if (type == kInt8) {
          const Table quantization = tensor.table(kQuantization);
          const Vector scales = quantization ? quantization.vector(2) : Vector();
          if (scales.size() != vocabulary) return std::nullopt;
          for (size_t i = 0; i < vocabulary; ++i) table.scales.push_back(scales.scalar<float>(i));
        }
        found = std::move(table);
        break;
      }
      default:
        return std::nullopt;
    }
  }
  if (found) found->multiplier = multiplier;
  return found;
}

void EmbeddingTable::row(int32_t token, float* out) const {
  const size_t start = static_cast<size_t>(token) * width;
  if (type == Type::kFloat32) {
    const float* in = static_cast<const float*>(rows) + start;
    for (size_t i = 0; i < width; ++i) out[i] = in[i] * multiplier;
    return;
  }
  const int8_t* in = static_cast<const int8_t*>(rows) + start;
  const float scale = scales[static_cast<size_t>(token)];
  for (size_t i = 0; i < width; ++i) out[i] = static_cast<float>(in[i]) * scale * multiplier;
}

}  // namespace edge_mtp
