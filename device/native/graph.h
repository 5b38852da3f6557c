// A compiled TFLite section and its signatures, and calls of them on buffers that a session owns.
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
    std::string weight_cache;  // file that keeps XNNPACK's packed weights; empty, or where it cannot be: memory
    // Which of the signatures to compile; only those run. Empty = all.
    std::function<bool(const Graph&, const std::string&)> wanted;
  };

  // Compiles `model` (a .tflite that must outlive the graph) for the CPU, with the edge_mtp kernels registered.
  // The packed weights exist once, for all signatures. Throws Error with LiteRT's status.
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
  litert::Options options_ = nullptr;  // LiteRT's custom operators go on reading them after compilation
  litert::CompiledModel compiled_ = nullptr;
  std::vector<Signature> signatures_;
};

// Zeroed host memory under names, each as large as its largest user asked for. Ports of the same name share it:
// that is how the KV cache is updated in place by every graph, and how a draft flows into the verify unseen.
// Pages come into being when they are written: a KV cache costs what the context fills of it.
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

// A signature with a buffer bound to every port. run() is one LiteRT invocation and nothing else.
class Call {
 public:
  // Ports are looked up in the pool under their own names, or as "<signature>/<name>" when named in `own`.
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

  // Reserves the memory that a call will take.
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
