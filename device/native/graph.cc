#include "graph.h"

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

constexpr int kMostParts = 64;  // that an NPU's compiler may cut a graph into; ours have one each

constexpr char kHidden[] = "activations", kNextHidden[] = "next_hidden";

int hardware_of(Accelerator accelerator) {
  switch (accelerator) {
    case Accelerator::kGpu: return litert::kGpu;
    case Accelerator::kNpu: return litert::kNpu;
    default: return litert::kCpu;
  }
}

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
    : api_(api), environment_(environment), accelerator_(settings.accelerator), kernels_(settings.threads) {
  try {
    litert::check(api.CreateModelFromBuffer(environment, model.data, model.size, &model_), "reading a graph");
    read_signatures();
    if (accelerator_ == Accelerator::kCpu) {
      compile_for_cpu(settings, model.size);
    } else {
      compile(settings, {});
      // An NPU's compiler has replaced the model by one with other numbers.
      signatures_.clear();
      read_signatures();
    }
  } catch (...) {
    release();
    if (model_ != nullptr) api.DestroyModel(model_);
    throw;
  }
}

// Compiles with the packed weights in the cache's file, which is built first if it is missing or damaged.
void Graph::compile_for_cpu(const Settings& settings, size_t bytes) {
  const std::string& cache = settings.weight_cache;
  if (cache.empty()) return compile(settings, kInMemory);
  if (is_sealed(cache)) return compile(settings, cache);
  if (!has_room(cache, bytes)) return compile(settings, kInMemory);
  // XNNPACK builds a missing cache file in place. Building it under another name and renaming it ensures that no run
  // ever reads half a cache, even if this one is killed or another starts at the same time.
  const std::string building = cache + "." + std::to_string(getpid());
  try {
    compile(settings, building);
    // Packing leaves a scratch buffer of the largest weight's size allocated; a graph that reads the cache has none.
    if (write_entry(cache + kSeal, seal_of(building, "")) && move_entry(building, cache)) {
      release();
      compile(settings, cache);
    }
  } catch (...) {
    std::remove(building.c_str());
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

void Graph::compile(const Settings& settings, const std::string& weight_cache) {
  litert::check(api_.CreateOptions(&options_), "creating options");
  litert::check(api_.SetOptionsHardwareAccelerators(options_, hardware_of(accelerator_)), "choosing the hardware");
  if (accelerator_ == Accelerator::kCpu) {
    for (const Kernel& kernel : kernels(api_)) {
      litert::check(api_.AddCustomOpKernelOption(options_, kernel.name, 1, kernel.kernel, &kernels_),
                    std::string("registering ") + kernel.name);
    }
    std::string cpu = "weight_cache_file_path = " + toml_quote(weight_cache) + "\n";
    if (settings.threads > 0) cpu += "num_threads = " + std::to_string(settings.threads) + "\n";
    add_options(api_, options_, "xnnpack", cpu);
  } else if (accelerator_ == Accelerator::kGpu) {
    // With external_tensor_patterns the delegate would use caches where they are, without copies of its own. On Mesa's
    // lavapipe these are textures that cannot be read back (status 7).
    add_options(api_, options_, "gpu_options", std::string("precision = ") + (settings.half ? "1" : "2") + "\n");
  } else if (settings.openvino_device >= 0) {
    std::string devices;
    for (int part = 0; part < kMostParts; ++part) {
      devices += "graph." + std::to_string(part) + ".graph_backend = " + std::to_string(settings.openvino_device) + "\n";
    }
    add_options(api_, options_, "intel_openvino", devices);
  }
  // Without runtime options, LiteRT 2.3 records an event per operator, which takes a quarter of a small graph's time.
  std::string runtime = "enable_profiling = false\n";
  if (settings.wanted) {
    std::string keys;
    for (const Signature& signature : signatures_) {
      if (!settings.wanted(*this, signature.name)) continue;
      if (!keys.empty()) keys += ", ";
      keys += toml_quote(signature.name);
    }
    if (keys.empty()) throw Error(std::string("the bundle has no graphs for the ") + name_of(accelerator_));
    runtime += "selected_signature_keys = [" + keys + "]\n";
  }
  add_options(api_, options_, "runtime_options_string", runtime);
  const litert::Status status = api_.CreateCompiledModel(environment_, model_, options_, &compiled_);
  if (accelerator_ == Accelerator::kCpu) return litert::check(status, "compiling a graph");
  bool full = false;
  if (status == litert::kOk) {
    litert::check(api_.CompiledModelIsNonCpuFullyAccelerated(compiled_, &full), "asking who runs a graph");
  }
  if (!full) {
    throw Error(std::string("LiteRT cannot run this bundle's graphs on the ") + name_of(accelerator_) + " (" +
                (status == litert::kOk ? "it leaves a part to the CPU" : "status " + std::to_string(status)) +
                ")" + kTakeCpu);
  }
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

Call::Call(const Graph& graph, const Signature& signature, BufferPool& pool, const std::vector<std::string>& own)
    : graph_(graph), signature_(signature), traffic_(pool.traffic()) {
  bind(signature.inputs, true, pool, own);
  bind(signature.outputs, false, pool, own);
}

Call::~Call() {
  for (litert::TensorBuffer buffer : host_buffers_) graph_.api().DestroyTensorBuffer(buffer);
}

std::string Call::block_name(const Graph& graph, const Signature& signature, const Port& port,
                             const std::vector<std::string>& own) {
  const bool owned = std::find(own.begin(), own.end(), port.name) != own.end();
  std::string name = owned ? signature.name + "/" + port.name : port.name;
  if (graph.accelerator() == Accelerator::kCpu) return name;
  if (name == kNextHidden) name = kHidden;
  for (unsigned axis = 0; axis < port.type.layout.rank; ++axis) name += " " + std::to_string(port.dimension(axis));
  return name;
}

void Call::reserve(const Graph& graph, const Signature& signature, BufferPool& pool,
                   const std::vector<std::string>& own) {
  // An accelerator that writes a cache while it reads it leaves garbage in it, without an error.
  const bool doubles = graph.accelerator() != Accelerator::kCpu;
  for (const Port& port : signature.inputs) {
    pool.reserve(block_name(graph, signature, port, own), port.bytes, doubles && signature.output(port.name) != nullptr);
  }
  for (const Port& port : signature.outputs) pool.reserve(block_name(graph, signature, port, own), port.bytes);
}

void Call::bind(const std::vector<Port>& ports, bool is_input, BufferPool& pool, const std::vector<std::string>& own) {
  const litert::Api& api = graph_.api();
  for (size_t i = 0; i < ports.size(); ++i) {
    const Port& port = ports[i];
    Block& block = pool.block(block_name(graph_, signature_, port, own));
    (is_input ? input_blocks_ : output_blocks_).push_back(&block);
    if (graph_.accelerator() != Accelerator::kCpu) place(block, port, is_input, i);
    litert::TensorBuffer buffer = nullptr;
    if (block.is_placed()) {
      (is_input ? sent_ : written_).push_back(&block);
    } else {
      litert::check(api.CreateTensorBufferFromHostMemory(&port.type, block.host(), port.bytes, nullptr, &buffer),
                    "binding " + signature_.name + "." + port.name);
      host_buffers_.push_back(buffer);
    }
    (is_input ? inputs_ : outputs_).push_back(buffer);
  }
}

// Gives a block its buffers on the accelerator, of the type that the signature asks for, unless that is host memory.
void Call::place(Block& block, const Port& port, bool is_input, size_t index) {
  if (block.is_placed()) return;
  const litert::Api& api = graph_.api();
  const std::string what = "binding " + signature_.name + "." + port.name;
  litert::BufferRequirements requirements = nullptr;
  const auto ask = is_input ? api.GetCompiledModelInputBufferRequirements : api.GetCompiledModelOutputBufferRequirements;
  litert::check(ask(graph_.compiled(), signature_.index, index, &requirements), what);
  int type = 0;
  size_t bytes = 0;
  litert::check(api.GetTensorBufferRequirementsSupportedTensorBufferType(requirements, 0, &type), what);
  if (type == litert::kHostMemory) return;
  litert::check(api.GetTensorBufferRequirementsBufferSize(requirements, &bytes), what);
  std::vector<litert::TensorBuffer> buffers(block.is_doubled() ? 2 : 1);
  for (litert::TensorBuffer& buffer : buffers) {
    litert::check(api.CreateManagedTensorBuffer(graph_.environment(), type, &port.type, bytes, &buffer), what);
  }
  block.place(api, std::move(buffers), traffic_);
}

Block& Call::find(const std::vector<Port>& ports, const std::vector<Block*>& blocks, const std::string& name) const {
  for (size_t i = 0; i < ports.size(); ++i) {
    if (ports[i].name == name) return *blocks[i];
  }
  throw Error("signature '" + signature_.name + "' has no '" + name + "'; export the bundle again");
}

void Call::run() {
  if (!sent_.empty() || !written_.empty()) send();
  const litert::Status status =
      graph_.api().RunCompiledModel(graph_.compiled(), signature_.index, inputs_.size(), inputs_.data(),
                                    outputs_.size(), outputs_.data());
  if (status != litert::kOk) {
    throw Error("'" + signature_.name + "' failed with LiteRT status " + std::to_string(status) +
                ": the bundle is damaged, or made for another LiteRT; copy or export it again" +
                (signature_.name.find("_draft_") != std::string::npos ? ", or use draft length 0" : ""));
  }
  for (Block* block : written_) block->was_written();
  traffic_.running = true;
}

void Call::wait() {
  const auto smallest = std::min_element(written_.begin(), written_.end(),
                                         [](const Block* a, const Block* b) { return a->bytes() < b->bytes(); });
  if (smallest != written_.end()) (*smallest)->fetch();
}

// Brings the accelerator's inputs up to date. Which of two buffers a graph reads changes with every run.
void Call::send() {
  for (Block* block : sent_) block->send();
  for (size_t i = 0; i < inputs_.size(); ++i) {
    if (input_blocks_[i]->is_placed()) inputs_[i] = input_blocks_[i]->read_from();
  }
  for (size_t i = 0; i < outputs_.size(); ++i) {
    if (output_blocks_[i]->is_placed()) outputs_[i] = output_blocks_[i]->write_to();
  }
}

}  // namespace edge_mtp
