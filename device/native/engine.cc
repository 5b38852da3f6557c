#include "engine.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>

#include "error.h"
#include "kernels.h"

namespace edge_mtp {
namespace {

constexpr char kDecoderSection[] = "tf_lite_prefill_decode";
constexpr char kEmbedderSection[] = "tf_lite_embedder";
constexpr char kPerLayerSection[] = "tf_lite_per_layer_embedder";
constexpr int kErrorSeverity = 4;

const Section& require_section(const Bundle& bundle, const std::string& path, const char* model_type) {
  const Section* section = bundle.model(model_type);
  if (section == nullptr) {
    throw Error("'" + path + "' has no " + model_type + " section; export it with 'edge-mtp export'");
  }
  return *section;
}

const Port& require_port(const Port* port, const char* name) {
  if (port == nullptr) throw Error(std::string("signature 'decode' has no '") + name + "'; export the bundle again");
  return *port;
}

litert::Environment create_environment(const litert::Api& api) {
  litert::EnvOption severity{};
  severity.tag = litert::kMinLoggerSeverity;
  severity.value.type = litert::kIntValue;
  severity.value.int_value = kErrorSeverity;
  litert::Environment environment = nullptr;
  litert::check(api.CreateEnvironment(1, &severity, &environment), "creating a LiteRT environment");
  return environment;
}

}  // namespace

Embedder::Embedder(const litert::Api& api, litert::Environment environment, const Section& section,
                   const Graph::Settings& settings)
    : table_(find_embedding_table(section.bytes)) {
  if (table_) {
    width_ = table_->width;
    return;
  }
  graph_ = std::make_unique<Graph>(api, environment, section.bytes, settings);
  const Signature& signature = graph_->signatures().at(0);
  for (const Port& port : signature.inputs) pool_.reserve(port.name, port.bytes);
  for (const Port& port : signature.outputs) pool_.reserve(port.name, port.bytes);
  call_ = std::make_unique<Call>(*graph_, signature, pool_, std::vector<std::string>());
  token_ = call_->input<int32_t>(signature.inputs.at(0).name);
  output_ = call_->output<float>(signature.outputs.at(0).name);
  width_ = signature.outputs.at(0).bytes / sizeof(float);
}

void Embedder::row(int32_t token, float* out) {
  if (table_) {
    table_->row(token, out);
    return;
  }
  *token_ = token;
  call_->run();
  std::copy_n(output_, width_, out);
}

Engine::Engine(const std::string& path, const Options& options)
    : bundle_(path), api_(litert::load(options.litert_library)), environment_(create_environment(api_)) {
  try {
    const auto settings = [&](const char* section) {
      Graph::Settings result;
      result.threads = options.threads;
      if (!options.cache_dir.empty()) {
        // Another LiteRT may pack differently, and would rebuild in place what it cannot read.
        char name[40];
        std::snprintf(name, sizeof name, "%016" PRIx64 "-%016" PRIx64, file_identity(path),
                      file_identity(options.litert_library));
        result.weight_cache = options.cache_dir + "/" + name + "." + section + ".xnnpack";
      }
      return result;
    };
    const Section& decoder = require_section(bundle_, path, kDecoderSection);
    uint8_t* model = bundle_.writable(decoder);
    const size_t claimed = claim_composites(model, decoder.bytes.size, kVerifyOp) +
                           claim_composites(model, decoder.bytes.size, kDraftOp);
    Graph::Settings decoding = settings(kDecoderSection);
    decoding.wanted = [](const Graph& graph, const std::string& name) {
      // Ours do the same with the selection inside.
      return name != "verify" && (name != "decode" || graph.signature("edge_decode") == nullptr);
    };
    decoder_ = std::make_unique<Graph>(api_, environment_, decoder.bytes, decoding);
    embedder_ = std::make_unique<Embedder>(api_, environment_, require_section(bundle_, path, kEmbedderSection),
                                           settings(kEmbedderSection));

    const Signature* decode = decoder_->signature("decode");
    if (decode == nullptr) throw Error("'" + path + "' has no decode signature; export it with 'edge-mtp export'");
    context_length_ = require_port(decode->input("mask"), "mask").dimension(3);
    vocabulary_ = require_port(decode->output("logits"), "logits").dimension(2);
    hidden_size_ = require_port(decode->input("embeddings"), "embeddings").dimension(2);
    if (embedder_->width() != static_cast<size_t>(hidden_size_)) {
      throw Error("the embedder of '" + path + "' answers " + std::to_string(embedder_->width()) +
                  " values where decode takes " + std::to_string(hidden_size_));
    }
    if (const Port* per_layer = decode->input("per_layer_embeddings"); per_layer != nullptr) {
      per_layer_embedder_ = std::make_unique<Embedder>(
          api_, environment_, require_section(bundle_, path, kPerLayerSection), settings(kPerLayerSection));
      if (per_layer_embedder_->width() * sizeof(float) != per_layer->bytes) {
        throw Error("the per-layer embedder of '" + path + "' does not fit decode's per_layer_embeddings");
      }
    }

    for (const Signature& signature : decoder_->signatures()) {
      if (signature.name.rfind("prefill", 0) == 0) {
        const Port* positions = signature.input("input_pos");
        if (positions != nullptr) prefill_lengths_.push_back(positions->dimension(0));
      }
      int length = 0;
      if (std::sscanf(signature.name.c_str(), "edge_draft_%d", &length) == 1 &&
          decoder_->signature("edge_verify_" + std::to_string(length + 1)) != nullptr) {
        draft_lengths_.push_back(length);
      }
    }
    if (claimed == 0 && !draft_lengths_.empty()) {
      throw Error("'" + path + "' has edge signatures without operator codes to claim; export it again");
    }
    std::sort(prefill_lengths_.begin(), prefill_lengths_.end());
    std::sort(draft_lengths_.begin(), draft_lengths_.end());
  } catch (...) {
    decoder_.reset();
    embedder_.reset();
    per_layer_embedder_.reset();
    api_.DestroyEnvironment(environment_);
    throw;
  }
}

Engine::~Engine() {
  per_layer_embedder_.reset();
  embedder_.reset();
  decoder_.reset();
  api_.DestroyEnvironment(environment_);
}

}  // namespace edge_mtp
