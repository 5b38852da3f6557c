#include "kernels.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "attention.h"
#include "low_bit.h"
#include "select.h"

namespace edge_mtp {
namespace {

using litert::CustomOpKernel;
using litert::kRead;
using litert::kWrite;
using litert::Layout;
using litert::LockMode;
using litert::RankedTensorType;
using litert::Status;
using litert::TensorBuffer;

const litert::Api* bound = nullptr;
constexpr Status kInvalidArgument = 1;

enum VerifyOperand { kLogits = 0, kDraft = 1, kControl = 2, kScalars = 3, kTokenMask = 4, kVerifyOperands = 5 };
enum AttentionOperand { kQuery = 0, kKeys = 1, kValues = 2, kSeen = 3, kAttentionOperands = 4 };
enum ProductOperand { kRows = 0, kWeights = 1, kScales = 2, kProductOperands = 3 };
enum DraftOperand { kIds = 1, kOffset = 4, kDraftOperands = 5 };

// Locks a tensor's memory for the lifetime of the object; a null pointer if that fails. LiteRT ignores the status of a
// kernel's run, so a kernel can report the failure only through its outputs.
template <typename T>
class Locked {
 public:
  Locked(TensorBuffer buffer, LockMode mode) : buffer_(buffer) {
    void* data = nullptr;
    if (bound->LockTensorBuffer(buffer, &data, mode) == litert::kOk) data_ = static_cast<T*>(data);
  }
  ~Locked() {
    if (data_ != nullptr) bound->UnlockTensorBuffer(buffer_);
  }
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;
  T* get() const { return data_; }

 private:
  TensorBuffer buffer_;
  T* data_ = nullptr;
};

void* scratch_for(int32_t vocab) {
  // Grows to the largest row of the process and is then reused, so the decode loop allocates nothing.
  thread_local std::vector<uint64_t> scratch;
  const size_t words = (edge_select_scratch_bytes(vocab) + sizeof(uint64_t) - 1) / sizeof(uint64_t);
  if (scratch.size() < words) scratch.resize(words);
  return scratch.data();
}

Layout vector_layout(int32_t length) {
  Layout layout{};
  layout.rank = 1;
  layout.dimensions[0] = length;
  return layout;
}

Status init(void*, const void*, size_t) { return litert::kOk; }
Status destroy(void*) { return litert::kOk; }

Status verify_layouts(void*, size_t n_in, const Layout* in, size_t n_out, Layout* out) {
  if (n_in != kVerifyOperands || n_out != 2) return kInvalidArgument;
  out[0] = vector_layout(1);
  out[1] = vector_layout(1);
  out[1].rank = 2;
  out[1].dimensions[1] = in[kLogits].dimensions[1];
  return litert::kOk;
}

Status verify_run(void*, size_t, const TensorBuffer* in, size_t, TensorBuffer* out) {
  RankedTensorType type;
  if (bound->GetTensorBufferTensorType(in[kLogits], &type) != litert::kOk) return kInvalidArgument;
  const int32_t rows = type.layout.dimensions[1];
  const int32_t vocab = type.layout.dimensions[2];
  const Locked<const float> logits(in[kLogits], kRead);
  const Locked<const int32_t> draft(in[kDraft], kRead), control(in[kControl], kRead), mask(in[kTokenMask], kRead);
  const Locked<const float> scalars(in[kScalars], kRead);
  const Locked<int32_t> n_accepted(out[0], kWrite), tokens(out[1], kWrite);
  if (n_accepted.get() == nullptr || tokens.get() == nullptr) return kInvalidArgument;
  if (!logits.get() || !draft.get() || !control.get() || !mask.get() || !scalars.get()) {
    *n_accepted.get() = EDGE_ERROR_UNSERVED;
    return kInvalidArgument;
  }
  *n_accepted.get() = edge_verify(logits.get(), rows, vocab, draft.get(), control.get(), scalars.get(), mask.get(),
                                  scratch_for(vocab), tokens.get());
  return litert::kOk;
}

Status draft_layouts(void*, size_t n_in, const Layout*, size_t n_out, Layout* out) {
  if (n_in != kDraftOperands || n_out != 2) return kInvalidArgument;
  out[0] = vector_layout(1);
  out[1] = vector_layout(1);
  return litert::kOk;
}

Status draft_run(void*, size_t, const TensorBuffer* in, size_t, TensorBuffer* out) {
  RankedTensorType type;
  if (bound->GetTensorBufferTensorType(in[kLogits], &type) != litert::kOk) return kInvalidArgument;
  const int32_t count = type.layout.dimensions[1];
  const Locked<const float> logits(in[kLogits], kRead), scalars(in[kScalars], kRead);
  const Locked<const int32_t> ids(in[kIds], kRead), control(in[kControl], kRead), offset(in[kOffset], kRead);
  const Locked<int32_t> token(out[0], kWrite);
  const Locked<float> confidence(out[1], kWrite);
  if (token.get() == nullptr || confidence.get() == nullptr) return kInvalidArgument;
  *token.get() = -1;
  *confidence.get() = 0.0f;
  if (!logits.get() || !ids.get() || !control.get() || !scalars.get() || !offset.get()) return kInvalidArgument;
  *token.get() = edge_draft(logits.get(), ids.get(), count, control.get(), scalars.get(), *offset.get(),
                            scratch_for(count), confidence.get());
  return litert::kOk;
}

size_t size_of(const Layout& layout) {
  size_t count = 1;
  for (unsigned axis = 0; axis < layout.rank; ++axis) count *= static_cast<size_t>(layout.dimensions[axis]);
  return count;
}

// Not a number in any result, so in any logit: the selection reports it.
Status fail(float* result, const Layout& layout) {
  std::fill_n(result, size_of(layout), std::numeric_limits<float>::quiet_NaN());
  return kInvalidArgument;
}

Status attention_layouts(void*, size_t n_in, const Layout* in, size_t n_out, Layout* out) {
  if (n_in != kAttentionOperands || n_out != 1) return kInvalidArgument;
  out[0] = in[kQuery];
  return litert::kOk;
}

// The types of the operands, as far as they fit one another; false if they do not.
bool describe(const TensorBuffer* in, Attention& call) {
  RankedTensorType types[kAttentionOperands];
  for (size_t i = 0; i < kAttentionOperands; ++i) {
    if (bound->GetTensorBufferTensorType(in[i], &types[i]) != litert::kOk) return false;
  }
  const auto size = [&](size_t operand, size_t axis) { return types[operand].layout.dimensions[axis]; };
  call.heads = size(kQuery, 1);
  call.rows = size(kQuery, 2);
  call.dim = size(kQuery, 3);
  call.context = size(kKeys, 2);
  call.tokens = size(kSeen, 0);
  call.int8 = types[kKeys].element_type == litert::kInt8;
  return call.dim % kAttentionDim == 0 && call.tokens > 0 && call.rows % call.tokens == 0 && size(kSeen, 1) == 2 &&
         size(kKeys, 1) == call.heads && size(kKeys, 3) == call.dim && size(kValues, 1) == call.heads &&
         size(kValues, 2) == call.dim && size(kValues, 3) == call.context &&
         types[kValues].element_type == types[kKeys].element_type &&
         (call.int8 || types[kKeys].element_type == litert::kFloat32);
}

Status attention_run(void* memory, size_t, const TensorBuffer* in, size_t, TensorBuffer* out) {
  const Locked<float> result(out[0], kWrite);
  RankedTensorType type;
  if (result.get() == nullptr || bound->GetTensorBufferTensorType(out[0], &type) != litert::kOk) return kInvalidArgument;
  Attention call{};
  const Locked<const float> query(in[kQuery], kRead);
  const Locked<const void> keys(in[kKeys], kRead), values(in[kValues], kRead);
  const Locked<const int32_t> seen(in[kSeen], kRead);
  if (!query.get() || !keys.get() || !values.get() || !seen.get() || !describe(in, call)) {
    return fail(result.get(), type.layout);
  }
  call.query = query.get();
  call.keys = keys.get();
  call.values = values.get();
  call.seen = seen.get();
  call.out = result.get();
  attend(call, &static_cast<KernelMemory*>(memory)->pool);
  return litert::kOk;
}

Status product_layouts(void*, size_t n_in, const Layout* in, size_t n_out, Layout* out) {
  if (n_in != kProductOperands || n_out != 1 || in[kRows].rank < 1 || in[kWeights].rank != 2) return kInvalidArgument;
  out[0] = in[kRows];
  out[0].dimensions[out[0].rank - 1] = in[kWeights].dimensions[0];
  return litert::kOk;
}

// The matrix but for its sums; false if the kernel does not take such operands.
bool describe(const TensorBuffer* in, const void* weights, const void* scales, LowBitMatrix& matrix) {
  RankedTensorType rows, of_weights, of_scales;
  if (bound->GetTensorBufferTensorType(in[kRows], &rows) != litert::kOk ||
      bound->GetTensorBufferTensorType(in[kWeights], &of_weights) != litert::kOk ||
      bound->GetTensorBufferTensorType(in[kScales], &of_scales) != litert::kOk) {
    return false;
  }
  const int type = of_weights.element_type;
  matrix.weights = static_cast<const uint8_t*>(weights);
  matrix.rows = of_weights.layout.dimensions[0];
  matrix.columns = of_weights.layout.dimensions[1];
  matrix.bits = type == litert::kInt8 ? 8 : type == litert::kInt4 ? 4 : type == litert::kInt2 ? 2 : 0;
  if (of_scales.element_type == litert::kFloat16 && of_scales.layout.rank == 2) {
    matrix.block_scales = static_cast<const uint16_t*>(scales);
    const int32_t blocks = of_scales.layout.dimensions[1];
    matrix.block = blocks > 0 && matrix.columns % blocks == 0 ? matrix.columns / blocks : -1;
  } else if (of_scales.element_type == litert::kFloat32) {
    matrix.scales = static_cast<const float*>(scales);
  } else {
    return false;
  }
  return of_scales.layout.dimensions[0] == matrix.rows &&
         rows.layout.dimensions[rows.layout.rank - 1] == matrix.columns && unsupported(matrix) == nullptr;
}

Status product_run(void* memory, size_t, const TensorBuffer* in, size_t, TensorBuffer* out) {
  auto* const shared = static_cast<KernelMemory*>(memory);
  const Locked<float> result(out[0], kWrite);
  RankedTensorType type;
  if (result.get() == nullptr || bound->GetTensorBufferTensorType(out[0], &type) != litert::kOk) return kInvalidArgument;
  const Locked<const float> rows(in[kRows], kRead);
  const Locked<const void> weights(in[kWeights], kRead), scales(in[kScales], kRead);
  LowBitMatrix matrix{};
  if (!rows.get() || !weights.get() || !scales.get() || !describe(in, weights.get(), scales.get(), matrix)) {
    return fail(result.get(), type.layout);
  }
  matrix.sums = shared->sums.of(matrix, &shared->pool);
  const auto count = static_cast<int32_t>(size_of(type.layout) / static_cast<size_t>(matrix.rows));
  multiply(matrix, rows.get(), count, result.get(), &shared->pool);
  return litert::kOk;
}

}  // namespace

std::vector<Kernel> kernels(const litert::Api& api) {
  static const CustomOpKernel verify{init, verify_layouts, verify_run, destroy};
  static const CustomOpKernel draft{init, draft_layouts, draft_run, destroy};
  static const CustomOpKernel attention{init, attention_layouts, attention_run, destroy};
  static const CustomOpKernel product{init, product_layouts, product_run, destroy};
  if (bound == nullptr) bound = &api;
  return {{kVerifyOp, &verify}, {kDraftOp, &draft}, {kAttentionOp, &attention}, {kProductOp, &product}};
}

}  // namespace edge_mtp
