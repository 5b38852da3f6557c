// A compiled TFLite section, its signatures, and calls of these on buffers that a session owns.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "accelerator.h"
#include "buffer_pool.h"
#include "flatbuffer.h"
#include "kernels.h"
#include "litert_api.h"

namespace edge_mtp {

// One input or output of a signature.
struct Port {
  std::string name;
  litert::RankedTensorType type;
  size_t bytes;

  int32_t dimension(size_t axis) const { return type.layout.dimensions[axis]; }
};

struct Signature {
  std::string name;
  size_t index;
  std::vector<Port> inputs;
  std::vector<Port> outputs;

  // The port of that name, or nullptr.
  const Port* input(const std::string& port) const;
  const Port* output(const std::string& port) const;
};

class Graph {
 public:
  struct Settings {
    Accelerator accelerator = Accelerator::kCpu;
    bool half = false;         // a GPU computes in half precision
    int openvino_device = -1;  // of OpenVINO, as an NPU: 0 CPU, 1 GPU, 2 NPU; -1 = its own choice
    int threads = 0;           // of the CPU; 0 = LiteRT's own choice
    std::string weight_cache;  // file for XNNPACK's packed weights; if empty or not writable, they stay in memory
    // Which signatures to compile; the others cannot run. Empty = all.
    std::function<bool(const Graph&, const std::string&)> wanted;
  };

  // Compiles `model` (a .tflite that must outlive the graph). On the CPU the edge_mtp kernels are registered, and all
  // signatures share one copy of the packed weights. On an accelerator no operator may be left to the CPU. Throws Error
  // with LiteRT's status.
  Graph(const litert::Api& api, litert::Environment environment, flatbuffer::Bytes model, const Settings& settings);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  const Signature* signature(const std::string& name) const;
  const std::vector<Signature>& signatures() const { return signatures_; }
  const litert::Api& api() const { return api_; }
  litert::Environment environment() const { return environment_; }
  litert::CompiledModel compiled() const { return compiled_; }
  Accelerator accelerator() const { return accelerator_; }

 private:
  void read_signatures();
  void compile_for_cpu(const Settings& settings, size_t bytes);
  void compile(const Settings& settings, const std::string& weight_cache);
  void release();

  const litert::Api& api_;
  litert::Environment environment_;
  Accelerator accelerator_;
  litert::Model model_ = nullptr;
  litert::Options options_ = nullptr;  // LiteRT's custom operators still read them after compilation
  litert::CompiledModel compiled_ = nullptr;
  KernelMemory kernels_;
  std::vector<Signature> signatures_;
};

// A signature with a buffer bound to every port. run() is exactly one LiteRT invocation.
class Call {
 public:
  // A port's block in the pool has the port's name, or "<signature>/<name>" if the port is listed in `own`; on an
  // accelerator followed by the shape.
  Call(const Graph& graph, const Signature& signature, BufferPool& pool, const std::vector<std::string>& own);
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  // On an accelerator this may return before the outputs are there; fetching one waits for them.
  void run();
  // Waits by fetching the smallest output: LiteRT 2.3 gives no event to wait for.
  void wait();
  const Signature& signature() const { return signature_; }

  // A port's block; throws Error when the signature lacks it.
  Block& input_block(const std::string& name) const { return find(signature_.inputs, input_blocks_, name); }
  Block& output_block(const std::string& name) const { return find(signature_.outputs, output_blocks_, name); }
  // The host's memory of a port.
  template <typename T>
  T* input(const std::string& name) const {
    return static_cast<T*>(input_block(name).host());
  }
  template <typename T>
  T* output(const std::string& name) const {
    return static_cast<T*>(output_block(name).host());
  }

  // Reserves the memory that a call of `signature` takes.
  static void reserve(const Graph& graph, const Signature& signature, BufferPool& pool,
                      const std::vector<std::string>& own);
  // The name of a port's block.
  static std::string block_name(const Graph& graph, const Signature& signature, const Port& port,
                                const std::vector<std::string>& own);

 private:
  Block& find(const std::vector<Port>& ports, const std::vector<Block*>& blocks, const std::string& name) const;
  void bind(const std::vector<Port>& ports, bool is_input, BufferPool& pool, const std::vector<std::string>& own);
  void send();
  void place(Block& block, const Port& port, bool is_input, size_t index);

  const Graph& graph_;
  const Signature& signature_;
  Traffic& traffic_;
  std::vector<Block*> input_blocks_, output_blocks_;
  std::vector<Block*> sent_, written_;  // of these, the ones with buffers on an accelerator
  std::vector<litert::TensorBuffer> inputs_, outputs_, host_buffers_;
};

}  // namespace edge_mtp
