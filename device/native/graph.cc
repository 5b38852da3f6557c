#include "graph.h"

#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cache_entry.h"
#include "error.h"
#include "file_identity.h"
#include "kernels.h"

namespace edge_mtp {
namespace {

size_t element_bytes(int type) {
  switch (type) {
    case litert::kFloat32:
    case litert::kInt32:
      return 4;
    case litert::kFloat16:
      return 2;
    case litert::kBool:
    case litert::kInt8:
      return 1;
    default:
      throw Error("a graph uses element type " + std::to_string(type) +
                  "; this runtime takes float32, float16, int32, int8 and bool");
  }
}

template <typename Count, typename Name, typename TensorAt>
std::vector<Port> read_ports(const litert::Api& api, litert::Signature signature, Count count_of, Name name_of,
                             TensorAt tensor_at) {
  size_t count = 0;
  litert::check(count_of(signature, &count), "reading a signature");
  std::vector<Port> ports(count);
  for (size_t i = 0; i < count; ++i) {
    const char* name = nullptr;
    litert::Tensor tensor = nullptr;
    litert::check(name_of(signature, i, &name), "reading a port's name");
    litert::check(tensor_at(signature, i, &tensor), std::string("reading the tensor of ") + name);
    ports[i].name = name;
    litert::check(api.GetRankedTensorType(tensor, &ports[i].type), std::string("reading the type of ") + name);
    size_t bytes = element_bytes(ports[i].type.element_type);
    for (unsigned axis = 0; axis < ports[i].type.layout.rank; ++axis) {
      const int32_t dimension = ports[i].dimension(axis);
      if (dimension <= 0) throw Error("'" + ports[i].name + "' has a dimension of " + std::to_string(dimension));
      bytes *= static_cast<size_t>(dimension);
    }
    ports[i].bytes = bytes;
  }
  return ports;
}

const Port* find_port(const std::vector<Port>& ports, const std::string& name) {
  const auto found = std::find_if(ports.begin(), ports.end(), [&](const Port& p) { return p.name == name; });
  return found == ports.end() ? nullptr : &*found;
}

std::string toml_quote(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + "\"";
}

void add_options(const litert::Api& api, litert::Options options, const char* identifier, const std::string& toml) {
  litert::OpaqueOptions opaque = nullptr;
  litert::check(api.CreateOpaqueOptions(identifier, strdup(toml.c_str()), free, &opaque), "setting options");
  litert::check(api.AddOpaqueOptions(options, opaque), "setting options");
}

// XNNPACK's name for a cache without a file. With no cache at all, it would keep a copy of the weights per signature.
constexpr char kInMemory[] = ":memory";
constexpr char kSeal[] = ".seal";

// Whether `file` can be written and grow to the packed size of a graph of `bytes`: LiteRT ends the process when it
// runs out of space. Packing keeps the size of integers and may widen fp16.
bool has_room(const std::string& file, size_t bytes) {
  const std::string folder = file.substr(0, file.rfind('/') + 1);
  const uint64_t need = 2 * static_cast<uint64_t>(bytes) + (16 << 20);
  struct statvfs space {};
  return access(folder.c_str(), W_OK | X_OK) == 0 && statvfs(folder.c_str(), &space) == 0 &&
         static_cast<uint64_t>(space.f_bavail) * space.f_frsize >= need;
}

// The hash of a cache file; empty if there is no such file. XNNPACK uses packed weights directly from the file without
// a check, so the hash of the file as built is stored beside it, to detect changed bits.
std::string seal_of(const std::string& file, const std::string& folder) {
  if (open_entry(file) == nullptr) return {};
  char seal[17];
  std::snprintf(seal, sizeof seal, "%016" PRIx64, file_identity(file, folder));
  return seal;
}

bool is_sealed(const std::string& cache) {
  const std::string seal = read_entry(cache + kSeal, 16);
  return !seal.empty() && seal == seal_of(cache, cache.substr(0, cache.rfind('/')));
}

}  // namespace

const Port* Signature::input(const std::string& port) const { return find_port(inputs, port); }
const Port* Signature::output(const std::string& port) const { return find_port(outputs, port); }

Graph::Graph(const litert::Api& api, litert::Environment environment, flatbuffer::Bytes model,
             const Settings& settings)
    : api_(api) {
  std::string building;
  try {
    litert::check(api.CreateModelFromBuffer(environment, model.data, model.size, &model_), "reading a graph");
    read_signatures();
    const std::string& cache = settings.weight_cache;
    if (cache.empty()) {
      compile(environment, settings, kInMemory);
    } else if (is_sealed(cache)) {
      compile(environment, settings, cache);
    } else if (!has_room(cache, model.size)) {
      compile(environment, settings, kInMemory);
    } else {
      // XNNPACK builds a missing cache file in place. Building it under another name and renaming it ensures that no
      // run ever reads half a cache, even if this one is killed or another starts at the same time.
      building = cache + "." + std::to_string(getpid());
      compile(environment, settings, building);
      // Packing leaves a scratch buffer of the largest weight's size allocated; a graph that reads the cache has none.
      if (write_entry(cache + kSeal, seal_of(building, "")) && move_entry(building, cache)) {
        release();
        compile(environment, settings, cache);
      }
    }
  } catch (...) {
    release();
    if (model_ != nullptr) api.DestroyModel(model_);
    if (!building.empty()) std::remove(building.c_str());
    throw;
  }
}

Graph::~Graph() {
  release();
  api_.DestroyModel(model_);
}

void Graph::read_signatures() {
  size_t count = 0;
  litert::check(api_.GetNumModelSignatures(model_, &count), "counting signatures");
  for (size_t i = 0; i < count; ++i) {
    litert::Signature handle = nullptr;
    const char* key = nullptr;
    litert::check(api_.GetModelSignature(model_, i, &handle), "reading a signature");
    litert::check(api_.GetSignatureKey(handle, &key), "reading a signature's name");
    signatures_.push_back(
        {key, i,
         read_ports(api_, handle, api_.GetNumSignatureInputs, api_.GetSignatureInputName,
                    api_.GetSignatureInputTensorByIndex),
         read_ports(api_, handle, api_.GetNumSignatureOutputs, api_.GetSignatureOutputName,
                    api_.GetSignatureOutputTensorByIndex)});
  }
}

void Graph::compile(litert::Environment environment, const Settings& settings, const std::string& weight_cache) {
  litert::check(api_.CreateOptions(&options_), "creating options");
  litert::check(api_.SetOptionsHardwareAccelerators(options_, litert::kCpu), "choosing the CPU");
  for (const Kernel& kernel : kernels(api_)) {
    litert::check(api_.AddCustomOpKernelOption(options_, kernel.name, 1, kernel.kernel, nullptr),
                  std::string("registering ") + kernel.name);
  }
  std::string cpu = "weight_cache_file_path = " + toml_quote(weight_cache) + "\n";
  if (settings.threads > 0) cpu += "num_threads = " + std::to_string(settings.threads) + "\n";
  add_options(api_, options_, "xnnpack", cpu);
  // Without runtime options, LiteRT 2.3 records an event per operator, which takes a quarter of a small graph's time.
  std::string runtime = "enable_profiling = false\n";
  if (settings.wanted) {
    std::string keys;
    for (const Signature& signature : signatures_) {
      if (!settings.wanted(*this, signature.name)) continue;
      if (!keys.empty()) keys += ", ";
      keys += toml_quote(signature.name);
    }
    runtime += "selected_signature_keys = [" + keys + "]\n";
  }
  add_options(api_, options_, "runtime_options_string", runtime);
  litert::check(api_.CreateCompiledModel(environment, model_, options_, &compiled_), "compiling a graph");
}

void Graph::release() {
  if (compiled_ != nullptr) api_.DestroyCompiledModel(compiled_);
  if (options_ != nullptr) api_.DestroyOptions(options_);
  compiled_ = nullptr;
  options_ = nullptr;
}

const Signature* Graph::signature(const std::string& name) const {
  const auto found =
      std::find_if(signatures_.begin(), signatures_.end(), [&](const Signature& s) { return s.name == name; });
  return found == signatures_.end() ? nullptr : &*found;
}

BufferPool::~BufferPool() {
  for (auto& [name, block] : blocks_) {
    if (block.data != nullptr) munmap(block.data, block.bytes);
  }
}

void BufferPool::reserve(const std::string& name, size_t bytes) {
  Block& block = blocks_[name];
  block.bytes = std::max(block.bytes, bytes);
}

void* BufferPool::take(const std::string& name) {
  Block& block = blocks_.at(name);
  if (block.data == nullptr) {
    // LiteRT needs addresses aligned to 64 bytes, which pages are.
    void* mapped = mmap(nullptr, block.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw Error("no memory for " + std::to_string(block.bytes) + " bytes of '" + name + "'");
    block.data = mapped;
  }
  return block.data;
}

Call::Call(const Graph& graph, const Signature& signature, BufferPool& pool, const std::vector<std::string>& own)
    : graph_(graph), signature_(signature) {
  bind(signature.inputs, pool, own, input_memory_, inputs_);
  bind(signature.outputs, pool, own, output_memory_, outputs_);
}

Call::~Call() {
  for (litert::TensorBuffer buffer : inputs_) graph_.api().DestroyTensorBuffer(buffer);
  for (litert::TensorBuffer buffer : outputs_) graph_.api().DestroyTensorBuffer(buffer);
}

std::string Call::block_name(const Signature& signature, const Port& port, const std::vector<std::string>& own) {
  const bool owned = std::find(own.begin(), own.end(), port.name) != own.end();
  return owned ? signature.name + "/" + port.name : port.name;
}

void Call::reserve(const Signature& signature, BufferPool& pool, const std::vector<std::string>& own) {
  for (const Port& port : signature.inputs) pool.reserve(block_name(signature, port, own), port.bytes);
  for (const Port& port : signature.outputs) pool.reserve(block_name(signature, port, own), port.bytes);
}

void Call::bind(const std::vector<Port>& ports, BufferPool& pool, const std::vector<std::string>& own,
                std::vector<void*>& memory, std::vector<litert::TensorBuffer>& buffers) {
  const litert::Api& api = graph_.api();
  for (const Port& port : ports) {
    memory.push_back(pool.take(block_name(signature_, port, own)));
    litert::TensorBuffer buffer = nullptr;
    litert::check(api.CreateTensorBufferFromHostMemory(&port.type, memory.back(), port.bytes, nullptr, &buffer),
          "binding " + signature_.name + "." + port.name);
    buffers.push_back(buffer);
  }
}

void* Call::find(const std::vector<Port>& ports, const std::vector<void*>& memory, const std::string& name) const {
  for (size_t i = 0; i < ports.size(); ++i) {
    if (ports[i].name == name) return memory[i];
  }
  throw Error("signature '" + signature_.name + "' has no '" + name + "'; export the bundle again");
}

void Call::run() {
  const litert::Status status =
      graph_.api().RunCompiledModel(graph_.compiled(), signature_.index, inputs_.size(), inputs_.data(),
                                    outputs_.size(), outputs_.data());
  if (status == litert::kOk) return;
  throw Error("'" + signature_.name + "' failed with LiteRT status " + std::to_string(status) +
              ": the bundle is damaged, or made for another LiteRT; copy or export it again" +
              (signature_.name.rfind("edge_draft", 0) == 0 ? ", or use draft length 0" : ""));
}

}  // namespace edge_mtp
