#include "bundle.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "file_identity.h"

namespace edge_mtp {
namespace {

constexpr char kMagic[] = "LITERTLM";
constexpr uint32_t kMajorVersion = 1;
constexpr size_t kHeaderEnd = 24;
constexpr size_t kHeaderBegin = 32;
constexpr uint8_t kStringValue = 9;  // in the header's union of value types
constexpr size_t kItemBytes = 48;    // an item's least size in memory; in a header it takes at least half of this
constexpr size_t kShared = 8;        // how often a builder that shares equal strings may use a byte

// `budget`: bytes of items that are still accepted. Tables may overlap, so a small header could list endless items.
std::map<std::string, std::string> read_items(const flatbuffer::Vector& pairs, size_t& budget) {
  std::map<std::string, std::string> items;
  for (size_t i = 0; i < pairs.size(); ++i) {
    const flatbuffer::Table pair = pairs.table(i);
    const bool text = pair.scalar<uint8_t>(1, 0) == kStringValue;
    const std::string_view key = pair.string(0), value = text ? pair.table(2).string(0) : std::string_view();
    const size_t size = kItemBytes + key.size() + value.size();
    if (size > budget) throw Error("its header lists more items than it can hold");
    budget -= size;
    if (text) items.emplace(key, value);
  }
  return items;
}

}  // namespace

std::vector<Section> read_sections(flatbuffer::Bytes file) {
  if (std::memcmp(file.range(0, kHeaderBegin), kMagic, 8) != 0) throw Error("it does not start with LITERTLM");
  if (const uint32_t major = file.read<uint32_t>(8); major != kMajorVersion) {
    throw Error("its format version " + std::to_string(major) + " is not " + std::to_string(kMajorVersion));
  }
  const uint64_t header_end = file.read<uint64_t>(kHeaderEnd);
  if (header_end < kHeaderBegin) throw Error("its header ends before it begins");
  const size_t header_size = header_end - kHeaderBegin;
  const auto root = flatbuffer::Table::root({file.range(kHeaderBegin, header_size), header_size});
  const flatbuffer::Table section_metadata = root.table(1);
  const flatbuffer::Vector objects = section_metadata ? section_metadata.vector(0) : flatbuffer::Vector();
  std::vector<Section> sections;
  size_t budget = kShared * header_size;
  for (size_t i = 0; i < objects.size(); ++i) {
    if (budget < kItemBytes) throw Error("its header lists more sections than it can hold");
    budget -= kItemBytes;
    const flatbuffer::Table object = objects.table(i);
    const auto begin = object.scalar<uint64_t>(1, 0);
    const auto end = object.scalar<uint64_t>(2, 0);
    if (end < begin || end > file.size) {
      throw Error("section " + std::to_string(i) + " ends at byte " + std::to_string(end) + " of a file of " +
                  std::to_string(file.size) + " bytes; copy or export it again");
    }
    sections.push_back(
        {object.scalar<uint8_t>(3, 0), {file.data + begin, end - begin}, read_items(object.vector(0), budget)});
  }
  return sections;
}

Bundle::Bundle(const std::string& path) {
  file_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file_ < 0) throw Error("cannot open the bundle '" + path + "': " + std::strerror(errno));
  struct stat status{};
  const bool found = fstat(file_, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0;
  void* mapped = MAP_FAILED;
  if (found) {
    size_ = static_cast<size_t>(status.st_size);
    mapped = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE, file_, 0);
  }
  if (mapped == MAP_FAILED) {
    close(file_);
    throw Error("cannot read the bundle '" + path + "': it is empty or no regular file");
  }
  data_ = static_cast<uint8_t*>(mapped);

  try {
    sections_ = read_sections({data_, size_});
  } catch (const Error& error) {
    munmap(data_, size_);
    close(file_);
    throw Error("'" + path + "' is not a usable .litertlm bundle: " + error.what());
  }
}

Bundle::~Bundle() {
  munmap(data_, size_);
  close(file_);
}

uint64_t Bundle::identity(const std::string& path, const std::string& folder) const {
  return file_identity(file_, path, folder);
}

const Section* Bundle::model(const std::string& model_type) const {
  return find(Section::kTfliteModel, "model_type", model_type);
}

const Section* Bundle::own(const std::string& name) const { return find(Section::kGenericBinaryData, "edge_mtp", name); }

const Section* Bundle::own_graphs(const std::string& accelerator) const {
  const Section* section = find(Section::kTfliteModel, "edge_mtp", accelerator);
  return section != nullptr ? section : find(Section::kTfliteModel, "edge_mtp", "graphs");
}

flatbuffer::Bytes Bundle::with_followers(const Section& section) const {
  const uint8_t* end = section.bytes.data + section.bytes.size;
  for (const Section& other : sections_) {
    if (other.type == Section::kTfliteModel) end = std::max(end, other.bytes.data + other.bytes.size);
  }
  return {section.bytes.data, static_cast<size_t>(end - section.bytes.data)};
}

const Section* Bundle::find(uint8_t type, const std::string& item, const std::string& value) const {
  for (const Section& section : sections_) {
    if (section.type != type) continue;
    const auto found = section.items.find(item);
    if (found != section.items.end() && found->second == value) return &section;
  }
  return nullptr;
}

uint8_t* Bundle::writable(const Section& section) const { return data_ + (section.bytes.data - data_); }

}  // namespace edge_mtp
