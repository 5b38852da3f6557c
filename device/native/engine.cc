#include "engine.h"

#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "error.h"
#include "file_identity.h"
#include "kernels.h"
#include "proposal.h"

namespace edge_mtp {
namespace {

constexpr char kDecoderSection[] = "tf_lite_prefill_decode";
constexpr char kOwnGraphs[] = "tf_lite_aux";
constexpr char kEmbedderSection[] = "tf_lite_embedder";
constexpr char kPerLayerSection[] = "tf_lite_per_layer_embedder";
constexpr char kDrafterSection[] = "tf_lite_mtp_drafter";
constexpr char kSoc[] = "edge_mtp_soc";  // item of a section that edge-mtp compile has made
constexpr int kErrorSeverity = 4;

const Section& require_section(const Bundle& bundle, const std::string& path, const char* model_type) {
  const Section* section = bundle.model(model_type);
  if (section == nullptr) {
    throw Error("'" + path + "' has no " + model_type + " section; export it with 'edge-mtp export'");
  }
  return *section;
}

const Port& require_port(const Signature& signature, const Port* port, const char* name) {
  if (port == nullptr) throw Error("signature '" + signature.name + "' has no '" + name + "'; export the bundle again");
  return *port;
}

bool begins(const std::string& name, const std::string& prefix) { return name.rfind(prefix, 0) == 0; }

// Positions of the cache. Graphs without a mask are ours, whose keys are [1,h,C,D].
int32_t context_of(const Signature& decode) {
  if (const Port* mask = decode.input("mask"); mask != nullptr) return mask->dimension(3);
  for (const Port& port : decode.inputs) {
    if (begins(port.name, "kv_cache_k_") && port.type.layout.rank == 4) return port.dimension(2);
  }
  throw Error("signature '" + decode.name + "' has neither a mask nor keys; export the bundle again");
}

bool has_numbered(const Graph& graph, const char* prefix) {
  const auto& all = graph.signatures();
  return std::any_of(all.begin(), all.end(), [&](const Signature& s) { return s.name.rfind(prefix, 0) == 0; });
}

// Whether a signature is for the accelerator. Stock signatures are for the CPU.
bool is_for(Accelerator accelerator, const std::string& name) {
  if (begins(name, prefix_of(accelerator))) return true;
  return accelerator == Accelerator::kCpu && !begins(name, prefix_of(Accelerator::kGpu)) &&
         !begins(name, prefix_of(Accelerator::kNpu));
}

// Whether a session gives the input of this name its meaning. An input left at zero would be silently wrong.
bool is_served(const std::string& input) {
  static const char* const kServed[] = {"embeddings", "per_layer_embeddings", "input_pos", "mask", "param_tensor",
                                        "token", "activations", "draft", "control", "scalars", "token_mask"};
  return input.rfind("kv_cache_", 0) == 0 || std::find(std::begin(kServed), std::end(kServed), input) != std::end(kServed);
}

// Throws Error on an input that no session fills.
void check_inputs(const std::string& path, const Signature& signature) {
  for (const Port& port : signature.inputs) {
    if (is_served(port.name)) continue;
    throw Error("signature '" + signature.name + "' of '" + path + "' takes '" + port.name +
                "', which this runtime does not fill; export the checkpoint with 'edge-mtp export'");
  }
}

// Throws Error on a drafter that was not made for the target that `decode` belongs to: its drafts would be noise.
void check_drafter(const std::string& path, const Signature& drafter, const Signature& decode) {
  check_inputs(path, drafter);
  const auto refuse = [&](const std::string& port) {
    throw Error("the drafter of '" + path + "' does not fit its target in '" + port + "'; export the pair together");
  };
  for (const Port& port : drafter.inputs) {
    if (port.name.rfind("kv_cache_", 0) != 0) continue;
    const Port* own = decode.input(port.name);
    // K [1,h,C,D] and V [1,h,D,C] are equally large.
    if (own == nullptr || own->type.element_type != port.type.element_type || own->bytes != port.bytes ||
        own->dimension(2) != port.dimension(2)) {
      refuse(port.name);
    }
  }
  const Port& activations = require_port(drafter, drafter.input("activations"), "activations");
  const Port& logits = require_port(drafter, drafter.output("logits"), "logits");
  if (activations.dimension(2) != 2 * require_port(decode, decode.input("embeddings"), "embeddings").dimension(2)) {
    refuse("activations");
  }
  if (logits.dimension(2) != require_port(decode, decode.output("logits"), "logits").dimension(2)) refuse("logits");
}

std::vector<uint8_t> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<uint8_t> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file) throw Error("cannot read '" + path + "'");
  return bytes;
}

// A folder inside another if there is one of that name, else the other itself.
std::string folder_in(const std::string& folder, const char* name) {
  const std::string inner = folder + "/" + name;
  return access(inner.c_str(), X_OK) == 0 ? inner : folder;
}

// Path of the packed weights, without the section's name.
std::string packed_weights(uint64_t identity, const Engine::Options& options) {
  // Another LiteRT may pack differently, and would rebuild in place what it cannot read.
  char name[40];
  std::snprintf(name, sizeof name, "/%016" PRIx64 "-%016" PRIx64, identity,
                file_identity(options.litert_library, options.cache_dir));
  return options.cache_dir + name;
}

// What a session's costs depend on.
std::string settings_in_name(const Engine::Options& options) {
  if (options.accelerator == Accelerator::kCpu) return ".threads-" + std::to_string(options.threads);
  return std::string(".") + name_of(options.accelerator) + (options.half ? "-half" : "");
}

litert::Environment create_environment(const litert::Api& api, const Engine::Options& options) {
  std::vector<litert::EnvOption> settings(1);
  settings[0].tag = litert::kMinLoggerSeverity;
  settings[0].value.type = litert::kIntValue;
  settings[0].value.int_value = kErrorSeverity;
  const auto folder = [&](int tag, const std::string& path) {
    litert::EnvOption setting{};
    setting.tag = tag;
    setting.value.type = litert::kStringValue;
    setting.value.str_value = path.c_str();
    settings.push_back(setting);
  };
  const std::string own = options.litert_library.substr(0, options.litert_library.rfind('/'));
  if (options.accelerator != Accelerator::kCpu) folder(litert::kRuntimeLibraryDir, own);
  const std::string& npu = options.npu_libraries.empty() ? own : options.npu_libraries;
  std::string dispatch, compiler;
  if (options.accelerator == Accelerator::kNpu) {
    // The wheel has the dispatch library and the compiler in a folder each, a device has both in one.
    folder(litert::kDispatchLibraryDir, dispatch = folder_in(npu, "dispatch"));
    folder(litert::kCompilerPluginDir, compiler = folder_in(npu, "compiler"));
  }
  litert::Environment environment = nullptr;
  litert::check(api.CreateEnvironment(static_cast<int>(settings.size()), settings.data(), &environment),
                "creating a LiteRT environment");
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
  Call::reserve(*graph_, signature, pool_, {});
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
    : bundle_(path),
      api_(litert::load(options.litert_library)),
      environment_(create_environment(api_, options)),
      cache_dir_(options.cache_dir) {
  try {
    open(path, options);
  } catch (...) {
    release();
    throw;
  }
}

Engine::~Engine() { release(); }

void Engine::release() {
  drafter_.reset();
  per_layer_embedder_.reset();
  embedder_.reset();
  decoder_.reset();
  api_.DestroyEnvironment(environment_);
}

void Engine::open(const std::string& path, const Options& options) {
  std::string packed;
  if (!options.cache_dir.empty()) {
    identity_ = bundle_.identity(path, options.cache_dir);
    packed = packed_weights(identity_, options);
    memory_ = packed + settings_in_name(options);
  }
  const auto settings = [&](const char* section) {
    Graph::Settings result;
    result.threads = options.threads;
    if (!packed.empty()) result.weight_cache = packed + "." + section + ".xnnpack";
    return result;
  };
  const auto embedder = [&](const char* section) {
    return std::make_unique<Embedder>(api_, environment_, require_section(bundle_, path, section), settings(section));
  };

  // Our own graphs, with the weights behind them; else the stock graphs, which older bundles have ours among.
  const Accelerator accelerator = options.accelerator;
  const Section* own = bundle_.own_graphs(accelerator);
  if (own == nullptr && accelerator != Accelerator::kCpu) {
    throw Error("'" + path + "' has no graphs for the " + name_of(accelerator) + "; export it with --accelerators cpu," +
                name_of(accelerator) + ", or take --accelerator cpu");
  }
  if (options.stepwise && accelerator != Accelerator::kCpu) {
    throw Error("drafts a step at a time are made on the CPU only" + std::string(kTakeCpu));
  }
  const Section& decoder = own != nullptr ? *own : require_section(bundle_, path, kDecoderSection);
  const flatbuffer::Bytes content = own != nullptr ? bundle_.with_followers(decoder) : decoder.bytes;
  uint8_t* model = bundle_.writable(decoder);
  size_t claimed = 0;  // of the ops that select tokens
  if (accelerator == Accelerator::kCpu) {
    for (const char* op : {kVerifyOp, kDraftOp}) claimed += claim_composites(model, decoder.bytes.size, op);
    for (const char* op : {kAttentionOp, kCandidatesOp, kExpertsOp, kProductOp}) {
      claim_composites(model, decoder.bytes.size, op);
    }
  }
  Graph::Settings decoding = settings(own != nullptr ? kOwnGraphs : kDecoderSection);
  decoding.accelerator = accelerator;
  decoding.half = options.half;
  decoding.openvino_device = options.openvino_device;
  decoding.wanted = [&](const Graph& graph, const std::string& name) {
    if (!is_for(accelerator, name)) return false;
    // Ours do the same with the selection inside.
    if (name == "decode") return graph.signature("edge_decode") == nullptr;
    if (name == "verify") return !has_numbered(graph, "edge_verify_");
    return !begins(name, "edge_draft_") || !options.stepwise;
  };
  try {
    decoder_ = std::make_unique<Graph>(api_, environment_, content, decoding);
  } catch (const Error& error) {
    const auto soc = decoder.items.find(kSoc);
    if (soc == decoder.items.end()) throw;
    throw Error(std::string(error.what()) + "; they are compiled for " + soc->second + " and run on no other");
  }
  find_signatures(path);
  if (options.stepwise) folded_drafts_.clear();
  if (accelerator == Accelerator::kCpu && claimed == 0 && (!folded_drafts_.empty() || verifies_inside())) {
    throw Error("'" + path + "' has edge signatures without operator codes to claim; export it again");
  }
  if (const Section* section = bundle_.model(kDrafterSection);
      section != nullptr && folded_drafts_.empty() && accelerator == Accelerator::kCpu &&
      decode_->output("activations") != nullptr) {
    drafter_ = std::make_unique<Graph>(api_, environment_, section->bytes, settings(kDrafterSection));
  }
  embedder_ = embedder(kEmbedderSection);
  if (decode_->input("per_layer_embeddings") != nullptr) per_layer_embedder_ = embedder(kPerLayerSection);
  read_sizes(path);
  if (drafter_ != nullptr) check_drafter(path, drafter_->signatures().at(0), *decode_);

  if (const Section* section = bundle_.own("token_bytes"); section != nullptr) {
    token_bytes_.emplace(section->bytes);
  } else if (!options.token_bytes.empty()) {
    host_token_bytes_ = read_file(options.token_bytes);
    token_bytes_.emplace(flatbuffer::Bytes{host_token_bytes_->data(), host_token_bytes_->size()});
  }
  if (token_bytes_ && token_bytes_->vocabulary() != vocabulary_) {
    throw Error("the token-bytes table of '" + path + "' has " + std::to_string(token_bytes_->vocabulary()) +
                " tokens and the model " + std::to_string(vocabulary_) + "; export it again");
  }
}

void Engine::find_signatures(const std::string& path) {
  const Accelerator accelerator = decoder_->accelerator();
  const std::string prefix = prefix_of(accelerator);
  for (const Signature& signature : decoder_->signatures()) {
    if (!is_for(accelerator, signature.name)) continue;
    const bool own = begins(signature.name, prefix);
    const std::string name = own ? signature.name.substr(prefix.size()) : signature.name;
    int count = 0;
    if (name == "decode" && (own || decoder_->signature(prefix + name) == nullptr)) {
      decode_ = &signature;
    } else if (begins(name, "prefill")) {
      prefills_[require_port(signature, signature.input("input_pos"), "input_pos").dimension(0)] = &signature;
    } else if (own && std::sscanf(name.c_str(), "verify_%d", &count) == 1) {
      verifies_[count] = &signature;
    } else if (own && std::sscanf(name.c_str(), "draft_%d", &count) == 1) {
      folded_drafts_[count] = &signature;
    }
  }
  if (decode_ == nullptr) throw Error("'" + path + "' has no decode signature; export it with 'edge-mtp export'");
  if (const Signature* verify = decoder_->signature("verify"); verify != nullptr && verifies_.empty()) {
    verifies_[require_port(*verify, verify->input("input_pos"), "input_pos").dimension(0)] = verify;
  }
  verifies_.erase(1);
  if (max_drafts() > kMaxDrafts) {
    throw Error("'" + path + "' verifies " + std::to_string(max_drafts()) + " drafts at once and this runtime at most " +
                std::to_string(kMaxDrafts) + "; export it with narrower --widths");
  }
  // A fold longer than the widest verify could not be used up.
  folded_drafts_.erase(folded_drafts_.upper_bound(max_drafts()), folded_drafts_.end());

  check_inputs(path, *decode_);
  for (const Sized* kind : {&prefills_, &verifies_, &folded_drafts_}) {
    for (const auto& [size, signature] : *kind) check_inputs(path, *signature);
  }
}

void Engine::read_sizes(const std::string& path) {
  context_length_ = context_of(*decode_);
  vocabulary_ = require_port(*decode_, decode_->output("logits"), "logits").dimension(2);
  hidden_size_ = require_port(*decode_, decode_->input("embeddings"), "embeddings").dimension(2);
  if (embedder_->width() != static_cast<size_t>(hidden_size_)) {
    throw Error("the embedder of '" + path + "' answers " + std::to_string(embedder_->width()) +
                " values where decode takes " + std::to_string(hidden_size_));
  }
  if (per_layer_embedder_ != nullptr &&
      per_layer_embedder_->width() * sizeof(float) != decode_->input("per_layer_embeddings")->bytes) {
    throw Error("the per-layer embedder of '" + path + "' does not fit decode's per_layer_embeddings");
  }
}

std::string Engine::memory_file(const std::string& suffix) const {
  return memory_.empty() ? std::string() : memory_ + suffix;
}

std::string Engine::memory_file(uint64_t identity, const Options& options, const std::string& suffix) {
  return options.cache_dir.empty() ? std::string()
                                   : packed_weights(identity, options) + settings_in_name(options) + suffix;
}

}  // namespace edge_mtp
