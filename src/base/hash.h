// Names and checksums. Names are SHA-256 over tagged, length-prefixed fields, so that no two field lists
// collide by concatenation; payload checksums are XXH3, which is fast and not meant to resist an attacker.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace larder {

struct Digest {
  std::array<uint8_t, 32> bytes{};

  auto operator<=>(const Digest&) const = default;
  std::string Hex() const;       // 64 lower-case digits
  std::string ShortHex() const;  // the first 16, for logs and listings
};

struct DigestHash {
  size_t operator()(const Digest& d) const {
    size_t h;
    std::memcpy(&h, d.bytes.data(), sizeof h);
    return h;
  }
};

// SHA-256 over fields. Each field is hashed as (tag length, tag, value length, value), lengths as 8 bytes
// little endian.
class FieldHasher {
 public:
  FieldHasher();
  ~FieldHasher();
  FieldHasher(const FieldHasher&) = delete;
  FieldHasher& operator=(const FieldHasher&) = delete;

  FieldHasher& Add(std::string_view tag, std::span<const std::byte> value);
  FieldHasher& Add(std::string_view tag, std::string_view value);
  FieldHasher& Add(std::string_view tag, uint64_t value);
  FieldHasher& Add(std::string_view tag, const Digest& value);
  FieldHasher& Add(std::string_view tag, std::span<const int32_t> value);
  Digest Finish();  // once

 private:
  struct State;
  std::unique_ptr<State> state_;
};

Digest Sha256(std::span<const std::byte> bytes);
uint64_t Checksum64(std::span<const std::byte> bytes);  // XXH3

}  // namespace larder
