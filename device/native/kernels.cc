#include "kernels.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "attention.h"
#include "candidates.h"
#include "experts.h"
#include "few_rows.h"
#include "low_bit.h"
#include "matrix.h"
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
enum CandidatesOperand { kState = 0, kNearest = 1, kHead = 2, kTokens = 3, kCandidatesOperands = 4 };
enum ExpertsOperand { kRows = 0, kChosen = 1, kShares = 2, kGateUp = 3, kDown = 4, kExpertsOperands = 5 };
enum ProductOperand { kFactors = 0, kWeights = 1, kScales = 2, kProductOperands = 3 };
enum DraftOperand { kIds = 1, kOffset = 4, kDraftOperands = 5 };

// Locks a tensor's memory for the lifetime of the object; a null pointer if that fails. LiteRT ignores the status of a
// kernel's run, so a kernel can report the failure only through its outputs.
template <typename T>
class Locked {
 public:
  Locked(TensorBuffer buffer, LockMode mode) : buffer_(buffer) {
    void* data = nullptr;
    if (buffer != nullptr && bound->LockTensorBuffer(buffer, &data, mode) == litert::kOk) data_ = static_cast<T*>(data);
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

// A weight of n_in operands, the scales of which are operand `scales`, if it has some. False if they do not fit.
bool describe(const TensorBuffer* in, size_t n_in, size_t weight, size_t scales, Matrix& matrix) {
  RankedTensorType type, scale;
  if (bound->GetTensorBufferTensorType(in[weight], &type) != litert::kOk || type.layout.rank != 2) return false;
  matrix = {};
  matrix.rows = type.layout.dimensions[0];
  matrix.width = type.layout.dimensions[1];
  switch (type.element_type) {
    case litert::kFloat32: matrix.type = Matrix::Type::kFloat32; return true;
    case litert::kFloat16: matrix.type = Matrix::Type::kFloat16; return true;
    case litert::kInt8: matrix.type = Matrix::Type::kInt8; break;
    case litert::kInt4: matrix.type = Matrix::Type::kInt4; break;
    case litert::kInt2: matrix.type = Matrix::Type::kInt2; break;
    default: return false;
  }
  if (scales >= n_in || bound->GetTensorBufferTensorType(in[scales], &scale) != litert::kOk) return false;
  if (scale.layout.dimensions[0] != matrix.rows) return false;
  if (scale.layout.rank == 1) return scale.element_type == litert::kFloat32;
  const int32_t blocks = scale.layout.dimensions[1];
  if (scale.layout.rank != 2 || scale.element_type != litert::kFloat16 || blocks < 1) return false;
  matrix.block = matrix.width / blocks;
  return matrix.block * blocks == matrix.width && matrix.block * matrix.bits() % 8 == 0;
}

Status candidates_layouts(void*, size_t n_in, const Layout* in, size_t n_out, Layout* out) {
  if (n_in < kCandidatesOperands || n_out != 2) return kInvalidArgument;
  for (size_t i = 0; i < 2; ++i) {
    out[i] = vector_layout(1);
    out[i].rank = 2;
    out[i].dimensions[1] = in[kNearest].dimensions[0] * in[kTokens].dimensions[1];
  }
  return litert::kOk;
}

Status candidates_run(void* memory, size_t n_in, const TensorBuffer* in, size_t, TensorBuffer* out) {
  const Locked<float> logits(out[0], kWrite);
  const Locked<int32_t> ids(out[1], kWrite);
  RankedTensorType state, nearest, tokens;
  if (logits.get() == nullptr || ids.get() == nullptr ||
      bound->GetTensorBufferTensorType(in[kState], &state) != litert::kOk ||
      bound->GetTensorBufferTensorType(in[kNearest], &nearest) != litert::kOk ||
      bound->GetTensorBufferTensorType(in[kTokens], &tokens) != litert::kOk) {
    return kInvalidArgument;
  }
  Candidates call{};
  call.count = nearest.layout.dimensions[0];
  call.centroids = tokens.layout.dimensions[0];
  call.members = tokens.layout.dimensions[1];
  // Floats have no scales, and LiteRT locks no operand twice.
  const bool has_scales = n_in > kCandidatesOperands;
  const Locked<const float> given(in[kState], kRead);
  const Locked<const int32_t> chosen(in[kNearest], kRead), table(in[kTokens], kRead);
  const Locked<const void> head(in[kHead], kRead), scales(has_scales ? in[kCandidatesOperands] : nullptr, kRead);
  if (!given.get() || !chosen.get() || !table.get() || !head.get() || (has_scales && !scales.get()) ||
      !describe(in, n_in, kHead, kCandidatesOperands, call.head) || call.head.width > kMostCandidateWidth ||
      call.head.width != state.layout.dimensions[state.layout.rank - 1] ||
      call.head.rows != call.centroids * call.members) {
    std::fill_n(logits.get(), call.count * call.members, std::numeric_limits<float>::quiet_NaN());  // no draft
    std::fill_n(ids.get(), call.count * call.members, 0);
    return kInvalidArgument;
  }
  call.state = given.get();
  call.nearest = chosen.get();
  call.head.data = head.get();
  call.head.scales = scales.get();
  call.tokens = table.get();
  call.logits = logits.get();
  call.ids = ids.get();
  find_candidates(call, &static_cast<KernelMemory*>(memory)->pool);
  return litert::kOk;
}

Status product_layouts(void*, size_t n_in, const Layout* in, size_t n_out, Layout* out) {
  if (n_in != kProductOperands || n_out != 1 || in[kFactors].rank < 1 || in[kWeights].rank != 2) return kInvalidArgument;
  out[0] = in[kFactors];
  out[0].dimensions[out[0].rank - 1] = in[kWeights].dimensions[0];
  return litert::kOk;
}

Status product_run(void* memory, size_t n_in, const TensorBuffer* in, size_t, TensorBuffer* out) {
  auto* const shared = static_cast<KernelMemory*>(memory);
  const Locked<float> result(out[0], kWrite);
  RankedTensorType rows, type;
  if (result.get() == nullptr || bound->GetTensorBufferTensorType(out[0], &type) != litert::kOk ||
      bound->GetTensorBufferTensorType(in[kFactors], &rows) != litert::kOk) {
    return kInvalidArgument;
  }
  const Locked<const float> given(in[kFactors], kRead);
  const Locked<const void> weights(in[kWeights], kRead), scales(in[kScales], kRead);
  Matrix stored;
  if (!given.get() || !weights.get() || !scales.get() || !describe(in, n_in, kWeights, kScales, stored) ||
      !stored.is_integer() || rows.layout.dimensions[rows.layout.rank - 1] != stored.width) {
    return fail(result.get(), type.layout);
  }
  const bool has_blocks = stored.block > 0;
  LowBitMatrix matrix{static_cast<const uint8_t*>(weights.get()),
                      has_blocks ? nullptr : static_cast<const float*>(scales.get()),
                      has_blocks ? static_cast<const uint16_t*>(scales.get()) : nullptr,
                      nullptr, stored.rows, stored.width, stored.bits(), stored.block};
  if (unsupported(matrix) != nullptr) return fail(result.get(), type.layout);
  matrix.sums = shared->sums.of(matrix, &shared->pool);
  const auto count = static_cast<int32_t>(size_of(type.layout) / static_cast<size_t>(matrix.rows));
  multiply(matrix, given.get(), count, result.get(), &shared->pool);
  return litert::kOk;
}

Status experts_layouts(void*, size_t n_in, const Layout* in, size_t n_out, Layout* out) {
  if (n_in < kExpertsOperands || n_out != 1) return kInvalidArgument;
  out[0] = in[kRows];
  return litert::kOk;
}

// The types of the operands, as far as they fit one another; false if they do not.
bool describe(const TensorBuffer* in, size_t n_in, Experts& call) {
  RankedTensorType types[kGateUp];
  for (size_t i = 0; i < kGateUp; ++i) {
    if (bound->GetTensorBufferTensorType(in[i], &types[i]) != litert::kOk || types[i].layout.rank != 2) return false;
  }
  const auto size = [&](size_t operand, size_t axis) { return types[operand].layout.dimensions[axis]; };
  // Behind the operands stand the scales of each weight that has some.
  if (!describe(in, n_in, kGateUp, kExpertsOperands, call.gate_up)) return false;
  if (!describe(in, n_in, kDown, kExpertsOperands + (call.gate_up.is_integer() ? 1 : 0), call.down)) return false;
  call.count = size(kRows, 0);
  call.choices = size(kChosen, 1);
  call.hidden = size(kRows, 1);
  call.inner = call.down.width;
  call.experts = call.down.rows / call.hidden;
  return size(kChosen, 0) == call.count && size(kShares, 0) == call.count && size(kShares, 1) == call.choices &&
         call.gate_up.width == call.hidden && call.down.rows == call.experts * call.hidden &&
         call.gate_up.rows == call.experts * 2 * call.inner && can_multiply(call.gate_up) && can_multiply(call.down);
}

Status experts_run(void* memory, size_t n_in, const TensorBuffer* in, size_t, TensorBuffer* out) {
  const Locked<float> result(out[0], kWrite);
  RankedTensorType type;
  if (!result.get() || bound->GetTensorBufferTensorType(out[0], &type) != litert::kOk) return kInvalidArgument;
  Experts call{};
  // A buffer can be locked only once, so what is not there is no other operand instead.
  const auto scales = [&](size_t number) { return number < n_in ? in[number] : nullptr; };
  const Locked<const float> rows(in[kRows], kRead), shares(in[kShares], kRead);
  const Locked<const int32_t> chosen(in[kChosen], kRead);
  const Locked<const void> gate_up(in[kGateUp], kRead), down(in[kDown], kRead);
  const Locked<const void> first(scales(kExpertsOperands), kRead), second(scales(kExpertsOperands + 1), kRead);
  const bool is_described = describe(in, n_in, call);
  call.gate_up.scales = first.get();
  call.down.scales = call.gate_up.is_integer() ? second.get() : first.get();
  const auto is_whole = [](const Matrix& weight) { return !weight.is_integer() || weight.scales != nullptr; };
  if (!is_described || !is_whole(call.gate_up) || !is_whole(call.down) || !rows.get() || !shares.get() ||
      !chosen.get() || !gate_up.get() || !down.get()) {
    // Not a number in any logit: the selection reports it.
    const int32_t* const sizes = type.layout.dimensions;
    const auto count = static_cast<size_t>(sizes[0]) * static_cast<size_t>(sizes[1]);
    std::fill_n(result.get(), count, std::numeric_limits<float>::quiet_NaN());
    return kInvalidArgument;
  }
  call.rows = rows.get();
  call.chosen = chosen.get();
  call.shares = shares.get();
  call.gate_up.data = gate_up.get();
  call.down.data = down.get();
  call.out = result.get();
  mix_experts(call, &static_cast<KernelMemory*>(memory)->pool);
  return litert::kOk;
}

}  // namespace

std::vector<Kernel> kernels(const litert::Api& api) {
  static const CustomOpKernel verify{init, verify_layouts, verify_run, destroy};
  static const CustomOpKernel draft{init, draft_layouts, draft_run, destroy};
  static const CustomOpKernel attention{init, attention_layouts, attention_run, destroy};
  static const CustomOpKernel candidates{init, candidates_layouts, candidates_run, destroy};
  static const CustomOpKernel experts{init, experts_layouts, experts_run, destroy};
  static const CustomOpKernel product{init, product_layouts, product_run, destroy};
  if (bound == nullptr) bound = &api;
  return {{kVerifyOp, &verify},
          {kDraftOp, &draft},
          {kAttentionOp, &attention},
          {kCandidatesOp, &candidates},
          {kExpertsOp, &experts},
          {kProductOp, &product}};
}

}  // namespace edge_mtp
