// The part of LiteRT's C API (litert/c/*.h of release 2.3) that the runtime calls, reached through a table.
//
// The wheel and the Android archive ship libLiteRt.so without headers, and one runner must work with many builds of the
// library. So the library is opened at run time, and these declarations are our own. Handles are opaque; struct layouts
// follow the header's static_asserts for 64-bit targets, which are repeated below.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace edge_mtp::litert {

using Status = int;
constexpr Status kOk = 0;
constexpr Status kTimeoutExpired = 7;

using Environment = struct EnvironmentOpaque*;
using Model = struct ModelOpaque*;
using Options = struct OptionsOpaque*;
using OpaqueOptions = struct OpaqueOptionsOpaque*;
using CompiledModel = struct CompiledModelOpaque*;
using Signature = struct SignatureOpaque*;
using Tensor = struct TensorOpaque*;
using TensorBuffer = struct TensorBufferOpaque*;
using BufferRequirements = struct BufferRequirementsOpaque*;

enum Hardware : int { kCpu = 1, kGpu = 2, kNpu = 4 };
enum LockMode : int { kRead = 0, kWrite = 1, kReadWrite = 2 };
constexpr int kHostMemory = 1;  // a type of tensor buffer
enum ElementType : int { kFloat32 = 1, kInt32 = 2, kBool = 6, kInt8 = 9, kFloat16 = 10, kInt4 = 18, kInt2 = 20 };

struct Layout {
  unsigned int rank : 7;
  unsigned int has_strides : 1;
  int32_t dimensions[8];
  uint32_t strides[8];
};
static_assert(sizeof(Layout) == 68);

struct RankedTensorType {
  int element_type;
  Layout layout;
};
static_assert(sizeof(RankedTensorType) == 72);

struct EnvOption {
  int tag;
  struct {
    int type;
    union {
      int64_t int_value;
      const char* str_value;
    };
  } value;
};
static_assert(sizeof(EnvOption) == 24);
constexpr int kCompilerPluginDir = 0;
constexpr int kDispatchLibraryDir = 1;
constexpr int kRuntimeLibraryDir = 22;
constexpr int kMinLoggerSeverity = 25;
constexpr int kIntValue = 2;
constexpr int kStringValue = 8;

struct CustomOpKernel {
  Status (*init)(void* user, const void* data, size_t size);
  Status (*output_layouts)(void* user, size_t n_in, const Layout* in, size_t n_out, Layout* out);
  Status (*run)(void* user, size_t n_in, const TensorBuffer* in, size_t n_out, TensorBuffer* out);
  Status (*destroy)(void* user);
};

// One line per function: name without the prefix LiteRt, return type, parameters.
#define EDGE_MTP_LITERT_FUNCTIONS(F)                                                                      \
  F(CreateEnvironment, Status, (int, const EnvOption*, Environment*))                                     \
  F(DestroyEnvironment, void, (Environment))                                                              \
  F(CreateModelFromBuffer, Status, (Environment, const void*, size_t, Model*))                            \
  F(DestroyModel, void, (Model))                                                                          \
  F(GetNumModelSignatures, Status, (Model, size_t*))                                                      \
  F(GetModelSignature, Status, (Model, size_t, Signature*))                                               \
  F(GetSignatureKey, Status, (Signature, const char**))                                                   \
  F(GetNumSignatureInputs, Status, (Signature, size_t*))                                                  \
  F(GetNumSignatureOutputs, Status, (Signature, size_t*))                                                 \
  F(GetSignatureInputName, Status, (Signature, size_t, const char**))                                     \
  F(GetSignatureOutputName, Status, (Signature, size_t, const char**))                                    \
  F(GetSignatureInputTensorByIndex, Status, (Signature, size_t, Tensor*))                                 \
  F(GetSignatureOutputTensorByIndex, Status, (Signature, size_t, Tensor*))                                \
  F(GetRankedTensorType, Status, (Tensor, RankedTensorType*))                                             \
  F(CreateOptions, Status, (Options*))                                                                    \
  F(DestroyOptions, void, (Options))                                                                      \
  F(SetOptionsHardwareAccelerators, Status, (Options, int))                                               \
  F(AddCustomOpKernelOption, Status, (Options, const char*, int, const CustomOpKernel*, void*))           \
  F(CreateOpaqueOptions, Status, (const char*, void*, void (*)(void*), OpaqueOptions*))                   \
  F(AddOpaqueOptions, Status, (Options, OpaqueOptions))                                                   \
  F(CreateCompiledModel, Status, (Environment, Model, Options, CompiledModel*))                           \
  F(DestroyCompiledModel, void, (CompiledModel))                                                          \
  F(RunCompiledModel, Status, (CompiledModel, size_t, size_t, TensorBuffer*, size_t, TensorBuffer*))      \
  F(CreateTensorBufferFromHostMemory, Status,                                                             \
    (const RankedTensorType*, void*, size_t, void (*)(void*), TensorBuffer*))                             \
  F(CreateManagedTensorBuffer, Status, (Environment, int, const RankedTensorType*, size_t, TensorBuffer*)) \
  F(GetCompiledModelInputBufferRequirements, Status, (CompiledModel, size_t, size_t, BufferRequirements*)) \
  F(GetCompiledModelOutputBufferRequirements, Status, (CompiledModel, size_t, size_t, BufferRequirements*)) \
  F(GetNumTensorBufferRequirementsSupportedBufferTypes, Status, (BufferRequirements, int*))               \
  F(GetTensorBufferRequirementsSupportedTensorBufferType, Status, (BufferRequirements, int, int*))        \
  F(GetTensorBufferRequirementsBufferSize, Status, (BufferRequirements, size_t*))                         \
  F(CompiledModelIsNonCpuFullyAccelerated, Status, (CompiledModel, bool*))                                \
  F(GetTensorBufferTensorType, Status, (TensorBuffer, RankedTensorType*))                                 \
  F(LockTensorBuffer, Status, (TensorBuffer, void**, LockMode))                                           \
  F(UnlockTensorBuffer, Status, (TensorBuffer))                                                           \
  F(DestroyTensorBuffer, void, (TensorBuffer))

struct Api {
#define EDGE_MTP_LITERT_POINTER(name, result, parameters) result(*name) parameters;
  EDGE_MTP_LITERT_FUNCTIONS(EDGE_MTP_LITERT_POINTER)
#undef EDGE_MTP_LITERT_POINTER
};

// Opens `library` (a path to libLiteRt.so) and fills the table. The library stays open until the process ends, because
// LiteRT's global registries outlive every handle. Throws Error naming the file, and the function if one is missing.
const Api& load(const std::string& library);

// Throws Error("<what> failed with LiteRT status <number>", a LiteRtStatus of litert_common.h) unless `status` is ok.
void check(Status status, const std::string& what);

}  // namespace edge_mtp::litert
