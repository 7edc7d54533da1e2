// A cursor over untrusted little-endian bytes. Every read says which field it is for, and a read past the end
// is an error that names it.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace larder {

static_assert(std::endian::native == std::endian::little, "GGUF values are read as they lie in the file");

// Bytes of a file for an error message: printable ASCII as it is, anything else as \xNN, at most 80
// characters.
std::string Quoted(std::string_view bytes);

// Names a field only when an error needs the text.
struct GgufField {
  std::string_view what;        // "length of the key"
  std::string_view owner = "";  // "metadata entry", "tensor", "key": what it belongs to
  std::string_view name = "";   // the owner's name, as it stands in the file
  int64_t index = -1;           // the owner's number where it has no name yet

  std::string Text() const;  // `length of the key of metadata entry 3`, `value type of key "general.name"`
};

class GgufReader {
 public:
  explicit GgufReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  uint64_t position() const { return position_; }
  uint64_t remaining() const { return bytes_.size() - position_; }

  Result<std::span<const std::byte>> Bytes(uint64_t size, const GgufField& field) {
    if (size > remaining()) return Short(size, field);
    const auto taken = bytes_.subspan(position_, size);
    position_ += size;
    return taken;
  }

  template <class T>
  Result<T> Number(const GgufField& field) {
    if (sizeof(T) > remaining()) return Short(sizeof(T), field);
    T value;
    std::memcpy(&value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  // A 64-bit length and that many bytes.
  Result<std::string_view> String(const GgufField& field) {
    LARDER_ASSIGN(const auto length, Number<uint64_t>(field));
    LARDER_ASSIGN(const auto bytes, Bytes(length, field));
    return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }

 private:
  std::unexpected<Error> Short(uint64_t wanted, const GgufField& field) const;

  std::span<const std::byte> bytes_;
  uint64_t position_ = 0;
};

}  // namespace larder
