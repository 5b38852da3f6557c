#include "kv_cache.h"

#include <cstring>
#include <optional>
#include <string>

#include "error.h"

namespace edge_mtp {
namespace {

const std::string kCache = "kv_cache_", kNew = "kv_new_";

bool begins(const std::string& name, const std::string& prefix) { return name.rfind(prefix, 0) == 0; }

CacheLayout layout_at(const Port& port, unsigned axis) {
  CacheLayout layout{1, port.bytes};
  for (unsigned i = 0; i < axis; ++i) layout.outer *= static_cast<size_t>(port.dimension(i));
  layout.inner = port.bytes / layout.outer / static_cast<size_t>(port.dimension(axis));
  return layout;
}

// The one axis in which `rows`, of a graph that takes `count`, differs from `cache`, which has `context` entries.
std::optional<unsigned> grown_axis(const Port& rows, int32_t count, const Port& cache, int32_t context) {
  const litert::Layout &a = rows.type.layout, &b = cache.type.layout;
  if (a.rank != b.rank || rows.type.element_type != cache.type.element_type) return std::nullopt;
  std::optional<unsigned> found;
  for (unsigned axis = 0; axis < a.rank; ++axis) {
    if (a.dimensions[axis] == b.dimensions[axis]) continue;
    if (found || a.dimensions[axis] != count || b.dimensions[axis] != context) return std::nullopt;
    found = axis;
  }
  return found;
}

// The layout of a port with one dimension of `entries`; nullopt if it cannot be told.
std::optional<CacheLayout> layout_of(const Port& port, int32_t entries) {
  std::vector<unsigned> axes;
  for (unsigned axis = 0; axis < port.type.layout.rank; ++axis) {
    if (port.dimension(axis) == entries) axes.push_back(axis);
  }
  if (axes.empty()) return std::nullopt;
  if (axes.size() == 1) return layout_at(port, axes.front());
  // A head is as wide as the context is long. Float caches are K [1,h,C,D] and V [1,h,D,C]; int8 ones are not always.
  if (port.type.element_type == litert::kInt8) return std::nullopt;
  return layout_at(port, begins(port.name, kCache + "k_") ? axes.front() : axes.back());
}

}  // namespace

bool is_cache(const Port& port) { return begins(port.name, kCache); }

KvCache::KvCache(const Graph& graph, const Signature& decode, int32_t context)
    : context_(static_cast<size_t>(context)) {
  for (const Port& port : decode.inputs) {
    if (!is_cache(port)) continue;
    const std::optional<CacheLayout> layout = layout_of(port, context);
    known_ = known_ && layout;
    if (!layout) continue;
    parts_.push_back({Call::block_name(graph, decode, port, {}), *layout});
    entry_bytes_ += layout->outer * layout->inner;
  }
}

std::vector<uint8_t> KvCache::read(BufferPool& pool, int32_t count) const {
  std::vector<uint8_t> entries;
  entries.reserve(entry_bytes_ * static_cast<size_t>(count));
  for (const Part& part : parts_) {
    const auto [outer, inner] = part.layout;
    Block& block = pool.block(part.block);
    block.fetch();
    const auto* from = static_cast<const uint8_t*>(block.host());
    for (size_t o = 0; o < outer; ++o) {
      const uint8_t* run = from + o * context_ * inner;
      entries.insert(entries.end(), run, run + inner * static_cast<size_t>(count));
    }
  }
  return entries;
}

void KvCache::write(BufferPool& pool, int32_t count, const std::vector<uint8_t>& entries) const {
  const uint8_t* from = entries.data();
  for (const Part& part : parts_) {
    const auto [outer, inner] = part.layout;
    const size_t bytes = inner * static_cast<size_t>(count);
    Block& block = pool.block(part.block);
    auto* to = static_cast<uint8_t*>(block.host());
    for (size_t o = 0; o < outer; ++o, from += bytes) std::memcpy(to + o * context_ * inner, from, bytes);
    block.give();
  }
}

NewRows::NewRows(const Call& call, int32_t rows, const Graph& graph, const Signature& decode, int32_t context,
                 BufferPool& pool)
    : rows_(static_cast<size_t>(rows)), context_(static_cast<size_t>(context)) {
  for (const Port& port : call.signature().outputs) {
    if (!begins(port.name, kNew)) continue;
    const Port* const whole = decode.input(kCache + port.name.substr(kNew.size()));
    const std::optional<unsigned> axis = whole == nullptr ? std::nullopt : grown_axis(port, rows, *whole, context);
    if (!axis) {
      throw Error("'" + port.name + "' of '" + call.signature().name + "' does not fit its cache; export the bundle again");
    }
    Block& to = pool.block(Call::block_name(graph, decode, *whole, {}));
    copies_.push_back({&call.output_block(port.name), &to, layout_at(*whole, *axis)});
  }
}

void NewRows::append(int32_t first, int32_t count) {
  const auto skipped = static_cast<size_t>(first), copied = static_cast<size_t>(count);
  for (const Copy& copy : copies_) {
    copy.from->fetch();
    const auto* rows = static_cast<const uint8_t*>(copy.from->host());
    copy.to->edit(copy.layout.outer * copied * copy.layout.inner, [&](uint8_t* cache) {
      for (size_t o = 0; o < copy.layout.outer; ++o) {
        std::memcpy(cache + (o * context_ + skipped) * copy.layout.inner, rows + o * rows_ * copy.layout.inner,
                    copied * copy.layout.inner);
      }
    });
  }
}

}  // namespace edge_mtp
