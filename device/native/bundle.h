// A `.litertlm` file mapped into memory, and its sections.
// Container: magic "LITERTLM", three u32 of version, u64 end of header at byte 24, and from byte 32 a flatbuffer
// header that lists the sections as byte ranges (LiteRT-LM, schema/core/litertlm_header_schema.fbs).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "flatbuffer.h"

namespace edge_mtp {

struct Section {
  enum Type : uint8_t { kGenericBinaryData = 1, kTfliteModel = 3 };
  uint8_t type = 0;
  flatbuffer::Bytes bytes;
  std::map<std::string, std::string> items;  // the section's string-valued metadata
};

// The sections listed in the bytes of a file; they point into it. Throws Error if it is no bundle or is truncated.
std::vector<Section> read_sections(flatbuffer::Bytes file);

class Bundle {
 public:
  // Throws Error naming the path when the file cannot be mapped, is not a bundle, or is truncated.
  explicit Bundle(const std::string& path);
  ~Bundle();
  Bundle(const Bundle&) = delete;
  Bundle& operator=(const Bundle&) = delete;

  // The identity (file_identity.h) of the mapped file, even if `path` now names another one.
  uint64_t identity(const std::string& path, const std::string& folder) const;

  // The TFLite section of a model type, e.g. "tf_lite_prefill_decode"; nullptr when the bundle has none.
  const Section* model(const std::string& model_type) const;
  // The exporter's own section of a name, e.g. "token_bytes"; nullptr when the bundle has none.
  const Section* own(const std::string& name) const;
  // The TFLite section with our own signatures for an accelerator ("cpu", "gpu", "npu"): its own, or in older bundles
  // the one for all of them; nullptr in a bundle that has them in prefill_decode, or none.
  const Section* own_graphs(const std::string& accelerator) const;
  // The bytes from the beginning of a section to the end of the last TFLite section: our own graphs use the weights of
  // the sections that follow them.
  flatbuffer::Bytes with_followers(const Section& section) const;

  // The mapping is private: writes here change this process's view and never the file.
  uint8_t* writable(const Section& section) const;

 private:
  const Section* find(uint8_t type, const std::string& item, const std::string& value) const;

  int file_ = -1;
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
  std::vector<Section> sections_;
};

}  // namespace edge_mtp
