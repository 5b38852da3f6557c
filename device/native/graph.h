// A compiled TFLite section, its signatures, and calls of these on buffers that a session owns.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "flatbuffer.h"
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
    int threads = 0;           // 0 = LiteRT's own choice
    std::string weight_cache;  // file for XNNPACK's packed weights; if empty or not writable, they stay in memory
    // Which signatures to compile; the others cannot run. Empty = all.
    std::function<bool(const Graph&, const std::string&)> wanted;
  };

  // Compiles `model` (a .tflite that must outlive the graph) for the CPU, with the edge_mtp kernels registered.
  // All signatures share one copy of the packed weights. Throws Error with LiteRT's status.
  Graph(const litert::Api& api, litert::Environment environment, flatbuffer::Bytes model, const Settings& settings);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  const Signature* signature(const std::string& name) const;
  const std::vector<Signature>& signatures() const { return signatures_; }
  const litert::Api& api() const { return api_; }
  litert::CompiledModel compiled() const { return compiled_; }

 private:
  void read_signatures();
  void compile(litert::Environment environment, const Settings& settings, const std::string& weight_cache);
  void release();

  const litert::Api& api_;
  litert::Model model_ = nullptr;
  litert::Options options_ = nullptr;  // LiteRT's custom operators still read them after compilation
  litert::CompiledModel compiled_ = nullptr;
  std::vector<Signature> signatures_;
};

// Zeroed host memory by name; each block has the size of its largest user. Ports of the same name share a block: so
// every graph updates the KV cache in place, and a draft reaches the verify graph without a copy.
// The kernel allocates pages on the first write, so a KV cache takes only the memory that the context fills.
class BufferPool {
 public:
  BufferPool() = default;
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;
  // Memory of at least `bytes`, by name. Reserve every user's size before the first take().
  void reserve(const std::string& name, size_t bytes);
  void* take(const std::string& name);
  size_t bytes(const std::string& name) const { return blocks_.at(name).bytes; }

 private:
  struct Block {
    size_t bytes = 0;
    void* data = nullptr;
  };
  std::map<std::string, Block> blocks_;
};

// A signature with a buffer bound to every port. run() is exactly one LiteRT invocation.
class Call {
 public:
  // A port's memory in the pool has the port's name, or "<signature>/<name>" if the port is listed in `own`.
  Call(const Graph& graph, const Signature& signature, BufferPool& pool, const std::vector<std::string>& own);
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  void run();
  const Signature& signature() const { return signature_; }

  // Memory of a port; throws Error when the signature lacks it.
  template <typename T>
  T* input(const std::string& name) const {
    return static_cast<T*>(find(signature_.inputs, input_memory_, name));
  }
  template <typename T>
  T* output(const std::string& name) const {
    return static_cast<T*>(find(signature_.outputs, output_memory_, name));
  }

  // Reserves the memory that a call of `signature` takes.
  static void reserve(const Signature& signature, BufferPool& pool, const std::vector<std::string>& own);

 private:
  static std::string block_name(const Signature& signature, const Port& port, const std::vector<std::string>& own);
  void* find(const std::vector<Port>& ports, const std::vector<void*>& memory, const std::string& name) const;
  void bind(const std::vector<Port>& ports, BufferPool& pool, const std::vector<std::string>& own,
            std::vector<void*>& memory, std::vector<litert::TensorBuffer>& buffers);

  const Graph& graph_;
  const Signature& signature_;
  std::vector<void*> input_memory_, output_memory_;
  std::vector<litert::TensorBuffer> inputs_, outputs_;
};

}  // namespace edge_mtp
