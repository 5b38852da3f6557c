// A bundle made ready to run: its graphs compiled, its embedding tables found. Shared by sessions.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bundle.h"
#include "graph.h"
#include "tflite_file.h"
#include "token_bytes.h"

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
    int threads = 0;             // of the CPU; 0 = LiteRT's own choice
    Accelerator accelerator = Accelerator::kCpu;
    bool half = false;           // a GPU computes in half precision
    std::string npu_libraries;   // folder of the NPU vendor's libraries; empty = that of LiteRT
    int openvino_device = -1;    // Graph::Settings
    std::string token_bytes;     // file with the table of a bundle that has none; empty = none
    bool stepwise = false;       // draft a step at a time even where the bundle has folded drafts
  };

  // Throws Error naming the file and what it lacks.
  Engine(const std::string& bundle, const Options& options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const Graph& decoder() const { return *decoder_; }
  // The signatures that sessions run, by their rows or drafts: our own where the bundle has them, else the stock ones.
  using Sized = std::map<int32_t, const Signature*>;
  const Signature& decode() const { return *decode_; }
  const Sized& prefills() const { return prefills_; }
  const Sized& verifies() const { return verifies_; }
  const Sized& folded_drafts() const { return folded_drafts_; }  // K drafter steps in one graph
  // The drafter as one graph a step; compiled where no folded one is, or when asked for. nullptr = none.
  const Graph* drafter() const { return drafter_.get(); }

  Embedder& embedder() { return *embedder_; }
  Embedder* per_layer_embedder() { return per_layer_embedder_.get(); }
  // nullptr when neither the bundle nor the host has the table.
  const TokenBytes* token_bytes() const { return token_bytes_ ? &*token_bytes_ : nullptr; }

  int32_t context_length() const { return context_length_; }
  int32_t vocabulary() const { return vocabulary_; }
  int32_t hidden_size() const { return hidden_size_; }
  // The most tokens that a step can draft, from whatever source; 0 = no verify graph.
  int32_t max_drafts() const { return verifies_.empty() ? 0 : verifies_.rbegin()->first - 1; }
  // Whether the verify graphs hold the verify op; else tokens are selected from their logits.
  bool verifies_inside() const { return !verifies_.empty() && verifies_.rbegin()->second->output("n_accepted") != nullptr; }
  // What the op inside selects is the greedy choice, whatever the request asks for: graphs of accelerators have no kernel.
  bool verifies_greedily() const { return accelerator() != Accelerator::kCpu; }
  Accelerator accelerator() const { return decoder_->accelerator(); }
  bool has_drafter() const { return !folded_drafts_.empty() || drafter_ != nullptr; }

  // File beside the packed weights for what a session learns of this bundle, LiteRT and threads; empty = nowhere.
  std::string memory_file(const std::string& suffix) const;
  static constexpr char kCosts[] = ".costs";  // what the controller saves
  // The same for an engine that is not open, of a bundle with this identity.
  static std::string memory_file(uint64_t identity, const Options& options, const std::string& suffix);
  const std::string& cache_dir() const { return cache_dir_; }
  // What the bundle holds (file_identity.h); 0 where nothing is kept.
  uint64_t identity() const { return identity_; }

 private:
  void open(const std::string& path, const Options& options);
  void release();
  void find_signatures(const std::string& path);
  void read_sizes(const std::string& path);

  Bundle bundle_;
  const litert::Api& api_;
  litert::Environment environment_ = nullptr;
  uint64_t identity_ = 0;
  std::string cache_dir_;
  std::string memory_;  // path of the files beside the packed weights, without suffix
  std::unique_ptr<Graph> decoder_, drafter_;
  std::unique_ptr<Embedder> embedder_, per_layer_embedder_;
  std::optional<std::vector<uint8_t>> host_token_bytes_;
  std::optional<TokenBytes> token_bytes_;
  const Signature* decode_ = nullptr;
  Sized prefills_, verifies_, folded_drafts_;
  int32_t context_length_ = 0, vocabulary_ = 0, hidden_size_ = 0;
};

}  // namespace edge_mtp
