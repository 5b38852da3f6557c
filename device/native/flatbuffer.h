// Reads tables of a flatbuffer without generated code, every access checked against the buffer's end, so that a
// damaged file ends in an Error and never in a stray read. Format: https://flatbuffers.dev/internals/
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

#include "error.h"

namespace edge_mtp::flatbuffer {

struct Bytes {
  const uint8_t* data = nullptr;
  size_t size = 0;

  template <typename T>
  T read(size_t at) const {
    if (at > size || size - at < sizeof(T)) throw Error("flatbuffer: offset outside the buffer");
    T value;
    std::memcpy(&value, data + at, sizeof(T));
    return value;
  }

  const uint8_t* range(size_t at, size_t length) const {
    if (at > size || size - at < length) throw Error("flatbuffer: range outside the buffer");
    return data + at;
  }
};

class Vector;

class Table {
 public:
  Table() = default;
  Table(Bytes bytes, size_t at) : bytes_(bytes), at_(at) {}

  static Table root(Bytes bytes) { return {bytes, bytes.read<uint32_t>(0)}; }

  explicit operator bool() const { return bytes_.data != nullptr; }

  // Position of field `id` (0-based, in schema order) in the buffer; 0 when absent.
  size_t field(int id) const {
    const int64_t vtable = static_cast<int64_t>(at_) - bytes_.read<int32_t>(at_);
    if (vtable < 0) throw Error("flatbuffer: vtable outside the buffer");
    const size_t slot = 4 + 2 * static_cast<size_t>(id);
    if (slot + 2 > bytes_.read<uint16_t>(static_cast<size_t>(vtable))) return 0;
    const uint16_t offset = bytes_.read<uint16_t>(static_cast<size_t>(vtable) + slot);
    return offset == 0 ? 0 : at_ + offset;
  }

  template <typename T>
  T scalar(int id, T absent) const {
    const size_t at = field(id);
    return at == 0 ? absent : bytes_.read<T>(at);
  }

  Table table(int id) const {
    const size_t at = field(id);
    return at == 0 ? Table() : Table(bytes_, at + bytes_.read<uint32_t>(at));
  }

  std::string_view string(int id) const {
    const size_t at = field(id);
    if (at == 0) return {};
    const size_t start = at + bytes_.read<uint32_t>(at);
    const uint32_t length = bytes_.read<uint32_t>(start);
    return {reinterpret_cast<const char*>(bytes_.range(start + 4, length)), length};
  }

  Vector vector(int id) const;

 private:
  Bytes bytes_;
  size_t at_ = 0;
};

class Vector {
 public:
  Vector() = default;
  Vector(Bytes bytes, size_t at) : bytes_(bytes), at_(at + 4), size_(bytes.read<uint32_t>(at)) {}

  size_t size() const { return size_; }

  template <typename T>
  T scalar(size_t i) const {
    check(i);
    return bytes_.read<T>(at_ + i * sizeof(T));
  }

  Table table(size_t i) const {
    check(i);
    const size_t slot = at_ + i * 4;
    return {bytes_, slot + bytes_.read<uint32_t>(slot)};
  }

  // The elements themselves, `width` bytes each.
  const uint8_t* data(size_t width) const { return bytes_.range(at_, size_ * width); }

 private:
  void check(size_t i) const {
    if (i >= size_) throw Error("flatbuffer: index outside a vector");
  }

  Bytes bytes_;
  size_t at_ = 0;
  size_t size_ = 0;
};

inline Vector Table::vector(int id) const {
  const size_t at = field(id);
  return at == 0 ? Vector() : Vector(bytes_, at + bytes_.read<uint32_t>(at));
}

}  // namespace edge_mtp::flatbuffer
