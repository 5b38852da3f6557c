#include "litert_api.h"

#include <dlfcn.h>

#include <map>
#include <mutex>

#include "error.h"

namespace edge_mtp::litert {

const Api& load(const std::string& library) {
  static std::mutex mutex;
  static std::map<std::string, Api> loaded;
  const std::lock_guard<std::mutex> lock(mutex);
  if (const auto found = loaded.find(library); found != loaded.end()) return found->second;

  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    throw Error("cannot open the LiteRT library '" + library + "': " + dlerror() +
                "; give the path of libLiteRt.so from ai-edge-litert 2.3");
  }
  Api api{};
#define EDGE_MTP_LITERT_RESOLVE(name, result, parameters)                                             \
  api.name = reinterpret_cast<result(*) parameters>(dlsym(handle, "LiteRt" #name));                   \
  if (api.name == nullptr) {                                                                          \
    throw Error("'" + library + "' has no LiteRt" #name "; this runtime needs ai-edge-litert 2.3");   \
  }
  EDGE_MTP_LITERT_FUNCTIONS(EDGE_MTP_LITERT_RESOLVE)
#undef EDGE_MTP_LITERT_RESOLVE
  return loaded.emplace(library, api).first->second;
}

void check(Status status, const std::string& what) {
  if (status != kOk) throw Error(what + " failed with LiteRT status " + std::to_string(status));
}

}  // namespace edge_mtp::litert
