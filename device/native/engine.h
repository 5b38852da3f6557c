// A bundle made ready to run: its graphs compiled, its embedding tables found. Shared by sessions.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bundle.h"
#include "graph.h"
#include "tflite_file.h"

namespace edge_mtp {

// Where the row of a token comes from: straight from the mapped table when the embedder graph is a plain look-up,
// else from a run of that graph.
class Embedder {
 public:
  Embedder(const litert::Api& api, litert::Environment environment, const Section& section,
           const Graph::Settings& settings);
  void row(int32_t token, float* out);
  size_t width() const { return width_; }

 private:
  std::optional<EmbeddingTable> table_;
  std::unique_ptr<Graph> graph_;
  BufferPool pool_;
  std::unique_ptr<Call> call_;
  int32_t* token_ = nullptr;
  const float* output_ = nullptr;
  size_t width_ = 0;
};

class Engine {
 public:
  struct Options {
    std::string litert_library;  // path of libLiteRt.so
    std::string cache_dir;       // where packed weights are kept between runs; empty = nowhere
    int threads = 0;             // 0 = LiteRT's own choice
  };

  // Throws Error naming the file and what it lacks.
  Engine(const std::string& bundle, const Options& options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const Graph& decoder() const { return *decoder_; }
  Embedder& embedder() { return *embedder_; }
  Embedder* per_layer_embedder() { return per_layer_embedder_.get(); }

  int32_t context_length() const { return context_length_; }
  int32_t vocabulary() const { return vocabulary_; }
  int32_t hidden_size() const { return hidden_size_; }
  // Prefill lengths, ascending; draft lengths K with both edge_draft_K and edge_verify_{K+1}, ascending.
  const std::vector<int32_t>& prefill_lengths() const { return prefill_lengths_; }
  const std::vector<int32_t>& draft_lengths() const { return draft_lengths_; }

 private:
  Bundle bundle_;
  const litert::Api& api_;
  litert::Environment environment_ = nullptr;
  std::unique_ptr<Graph> decoder_;
  std::unique_ptr<Embedder> embedder_, per_layer_embedder_;
  int32_t context_length_ = 0, vocabulary_ = 0, hidden_size_ = 0;
  std::vector<int32_t> prefill_lengths_, draft_lengths_;
};

}  // namespace edge_mtp
