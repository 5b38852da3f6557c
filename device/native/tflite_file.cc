#include "tflite_file.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <string>

#include "half.h"

namespace edge_mtp {
namespace {

using flatbuffer::Bytes;
using flatbuffer::Table;
using flatbuffer::Vector;

// Fields of the schema's tables, by declaration order.
enum ModelField { kOperatorCodes = 1, kSubgraphs = 2, kBuffers = 4 };
enum OperatorCodeField { kCustomCode = 1, kBuiltinCode = 3 };
enum SubgraphField { kTensors = 0, kGraphInputs = 1, kGraphOutputs = 2, kOperators = 3 };
enum OperatorField { kOpcodeIndex = 0, kInputs = 1, kOutputs = 2, kBuiltinOptions = 4, kBuiltinOptions2 = 12 };
enum TensorField { kShape = 0, kType = 1, kBuffer = 2, kQuantization = 4 };
enum QuantizationField { kScale = 2, kZeroPoint = 3, kDetailsType = 4, kDetails = 5, kQuantizedDimension = 6 };
enum BlockwiseField { kBlockScales = 0, kBlockSize = 2 };
enum MulOptionsField { kFusedActivation = 0 };
enum BufferField { kData = 0, kOffset = 1, kSize = 2 };
enum Builtin : int32_t {
  kCast = 53, kCustom = 32, kDequantize = 6, kEmbeddingLookup = 7, kMul = 18, kReshape = 22, kStablehloComposite = 206
};
enum TensorType : int8_t { kFloat32 = 0, kFloat16 = 1, kInt8 = 9, kInt4 = 17, kInt2 = 19 };
enum Details : uint8_t { kNoDetails = 0, kBlockwise = 2 };

int32_t builtin_code(const Vector& codes, uint32_t index) {
  return codes.table(index).scalar<int32_t>(kBuiltinCode, 0);
}

struct Encoding {
  TensorType tensor_type;
  EmbeddingTable::Type type;
  size_t bits;
  bool is_integer;
};
constexpr Encoding kEncodings[] = {
    {kFloat32, EmbeddingTable::Type::kFloat32, 32, false}, {kFloat16, EmbeddingTable::Type::kFloat16, 16, false},
    {kInt8, EmbeddingTable::Type::kInt8, 8, true},         {kInt4, EmbeddingTable::Type::kInt4, 4, true},
    {kInt2, EmbeddingTable::Type::kInt2, 2, true},
};

struct Constant {
  const uint8_t* data = nullptr;
  size_t size = 0;
};

// The bytes of a constant tensor; empty for a computed one. Large models store them after the flatbuffer, by offset.
Constant constant_of(const Bytes& model, const Table& root, const Table& tensor) {
  const Table buffer = root.vector(kBuffers).table(tensor.scalar<uint32_t>(kBuffer, 0));
  if (const auto offset = buffer.scalar<uint64_t>(kOffset, 0); offset > 1) {
    const auto size = buffer.scalar<uint64_t>(kSize, 0);
    return {model.range(offset, size), size};
  }
  const Vector data = buffer.vector(kData);
  return data.size() == 0 ? Constant{} : Constant{data.data(1), data.size()};
}

// The constant table of an EMBEDDING_LOOKUP; nothing for a table that only LiteRT's own kernel should read.
std::optional<EmbeddingTable> table_of(const Bytes& model, const Table& root, const Vector& tensors,
                                       const Table& tensor) {
  const Vector shape = tensor.vector(kShape);
  const auto type = tensor.scalar<int8_t>(kType, kFloat32);
  const auto encoding = std::find_if(std::begin(kEncodings), std::end(kEncodings),
                                     [&](const Encoding& each) { return each.tensor_type == type; });
  if (shape.size() != 2 || encoding == std::end(kEncodings)) return std::nullopt;
  const auto vocabulary = shape.scalar<int32_t>(0), width = shape.scalar<int32_t>(1);
  if (vocabulary <= 0 || width <= 0) return std::nullopt;
  EmbeddingTable table{encoding->type, nullptr, nullptr, static_cast<size_t>(vocabulary), static_cast<size_t>(width),
                       0, 1.0f};
  const Constant rows = constant_of(model, root, tensor);
  const size_t row_bits = table.width * encoding->bits;
  if (row_bits % 8 != 0 || rows.size % table.vocabulary != 0 || rows.size / table.vocabulary != row_bits / 8) {
    return std::nullopt;
  }
  table.rows = rows.data;
  if (!encoding->is_integer) return table;

  const Table quantization = tensor.table(kQuantization);
  if (!quantization || quantization.scalar<int32_t>(kQuantizedDimension, 0) != 0) return std::nullopt;
  switch (quantization.scalar<uint8_t>(kDetailsType, kNoDetails)) {
    case kNoDetails: {
      const Vector scales = quantization.vector(kScale), zeros = quantization.vector(kZeroPoint);
      if (scales.size() != table.vocabulary) return std::nullopt;
      if (zeros.size() > 0 && zeros.scalar<int64_t>(0) != 0) return std::nullopt;
      table.scales = scales.data(sizeof(float));
      return table;
    }
    case kBlockwise: {
      const Table details = quantization.table(kDetails);
      const int32_t block = details ? details.scalar<int32_t>(kBlockSize, 0) : 0;
      if (block <= 0 || table.width % static_cast<size_t>(block) != 0 || block * encoding->bits % 8 != 0 ||
          encoding->bits == 8) {
        return std::nullopt;
      }
      table.block = static_cast<size_t>(block);
      const Table tensor_of_scales = tensors.table(details.scalar<uint32_t>(kBlockScales, 0));
      const Constant scales = constant_of(model, root, tensor_of_scales);
      const size_t row_bytes = table.width / table.block * sizeof(uint16_t);
      if (tensor_of_scales.scalar<int8_t>(kType, kFloat32) != kFloat16 || scales.size % table.vocabulary != 0 ||
          scales.size / table.vocabulary != row_bytes) {
        return std::nullopt;
      }
      table.scales = scales.data;
      return table;
    }
    default:
      return std::nullopt;
  }
}

template <typename T>
T load(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// `count` packed integers times `scale` times `multiplier`, rounded after each product as the graph's operators do.
// Each value is shifted to the top of a byte and arithmetically back, which extends its sign.
template <int kBits>
void unpack(const uint8_t* in, size_t count, float scale, float multiplier, float* out) {
  constexpr size_t kPerByte = 8 / kBits;
  for (size_t byte = 0; byte < count / kPerByte; ++byte) {
    for (size_t i = 0; i < kPerByte; ++i) {
      const auto top = static_cast<int8_t>(static_cast<uint8_t>(in[byte] << (8 - kBits * (i + 1))));
      out[byte * kPerByte + i] = static_cast<float>(top >> (8 - kBits)) * scale * multiplier;
    }
  }
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

  size_t claimed = 0, listed = 0;
  const Vector subgraphs = root.vector(kSubgraphs);
  for (size_t g = 0; g < subgraphs.size(); ++g) {
    const Vector operators = subgraphs.table(g).vector(kOperators);
    // The subgraphs of a damaged file may share one vector, which would be read again for each.
    if ((listed += operators.size()) > size / sizeof(uint32_t)) throw Error("flatbuffer: more operators than bytes");
    for (size_t o = 0; o < operators.size(); ++o) {
      const Table op = operators.table(o);
      const size_t opcode_at = op.field(kOpcodeIndex);
      // Opcode 0, the default, has no bytes to rewrite; the exporter's composites never have opcode 0.
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
  const Table graph = subgraphs.table(0);
  const Vector tensors = graph.vector(kTensors), operators = graph.vector(kOperators);
  const Vector graph_inputs = graph.vector(kGraphInputs), graph_outputs = graph.vector(kGraphOutputs);
  if (graph_inputs.size() != 1 || graph_outputs.size() != 1) return std::nullopt;

  // The operators must be one chain from the token to the row.
  std::optional<EmbeddingTable> found;
  bool scaled = false;
  uint32_t current = graph_inputs.scalar<uint32_t>(0);
  for (size_t o = 0; o < operators.size(); ++o) {
    const Table op = operators.table(o);
    const Vector inputs = op.vector(kInputs), outputs = op.vector(kOutputs);
    if (inputs.size() == 0 || outputs.size() != 1) return std::nullopt;
    uint32_t data = inputs.scalar<uint32_t>(0);
    const uint32_t output = outputs.scalar<uint32_t>(0);
    const auto output_type = tensors.table(output).scalar<int8_t>(kType, kFloat32);
    switch (builtin_code(codes, op.scalar<uint32_t>(kOpcodeIndex, 0))) {
      case kReshape:
        break;
      case kCast:
        if (found) return std::nullopt;
        break;
      case kEmbeddingLookup: {
        if (found || inputs.size() != 2) return std::nullopt;
        found = table_of(model, root, tensors, tensors.table(inputs.scalar<uint32_t>(1)));
        if (!found) return std::nullopt;
        // LiteRT would round integers once more to make them float16.
        if (output_type != (found->type == EmbeddingTable::Type::kFloat16 ? kFloat16 : kFloat32)) return std::nullopt;
        break;
      }
      case kDequantize:
        if (!found || found->type != EmbeddingTable::Type::kFloat16 || scaled) return std::nullopt;
        break;
      case kMul: {
        if (!found || scaled || inputs.size() != 2 || output_type != kFloat32) return std::nullopt;
        const Table options = op.table(kBuiltinOptions);
        if (options && options.scalar<int8_t>(kFusedActivation, 0) != 0) return std::nullopt;
        uint32_t factor = inputs.scalar<uint32_t>(1);
        if (factor == current) std::swap(factor, data);
        const Constant value = constant_of(model, root, tensors.table(factor));
        if (tensors.table(factor).scalar<int8_t>(kType, kFloat32) != kFloat32 || value.size != sizeof(float)) {
          return std::nullopt;
        }
        found->multiplier = load<float>(value.data);
        scaled = true;
        break;
      }
      default:
        return std::nullopt;
    }
    if (data != current) return std::nullopt;
    current = output;
  }
  if (!found || current != graph_outputs.scalar<uint32_t>(0)) return std::nullopt;
  if (tensors.table(current).scalar<int8_t>(kType, kFloat32) != kFloat32) return std::nullopt;
  return found;
}

void EmbeddingTable::row(int32_t token, float* out) const {
  const auto index = static_cast<size_t>(token);
  if (token < 0 || index >= vocabulary) {
    throw Error("token " + std::to_string(token) + " is outside the embedding table of " +
                std::to_string(vocabulary) + " rows; export the bundle again");
  }
  const auto integers = [&](auto convert, size_t bits) {
    const size_t count = block == 0 ? width : block;
    const size_t blocks = width / count;
    for (size_t b = 0; b < blocks; ++b) {
      const size_t scale_at = index * blocks + b;
      const float scale = block == 0 ? load<float>(scales + scale_at * sizeof(float))
                                     : half_to_float(load<uint16_t>(scales + scale_at * sizeof(uint16_t)));
      convert(rows + scale_at * (count * bits / 8), count, scale, multiplier, out + b * count);
    }
  };
  switch (type) {
    case Type::kFloat32:
      for (size_t i = 0; i < width; ++i) {
        out[i] = load<float>(rows + (index * width + i) * sizeof(float)) * multiplier;
      }
      break;
    case Type::kFloat16:
      for (size_t i = 0; i < width; ++i) {
        out[i] = half_to_float(load<uint16_t>(rows + (index * width + i) * sizeof(uint16_t))) * multiplier;
      }
      break;
    case Type::kInt8:
      integers(unpack<8>, 8);
      break;
    case Type::kInt4:
      integers(unpack<4>, 4);
      break;
    case Type::kInt2:
      integers(unpack<2>, 2);
      break;
  }
}

}  // namespace edge_mtp
