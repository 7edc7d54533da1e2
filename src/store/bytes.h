// Little-endian fields of the store's formats, written and read.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace larder {

class ByteWriter {
 public:
  explicit ByteWriter(std::vector<std::byte>& out) : out_(out) {}

  template <std::unsigned_integral T>
  void Number(T value) {
    std::array<std::byte, sizeof(T)> bytes;
    for (size_t i = 0; i < sizeof(T); ++i) bytes[i] = static_cast<std::byte>((value >> (8 * i)) & 0xff);
    Bytes(std::span<const std::byte>(bytes));
  }
  void Bytes(std::span<const std::byte> bytes);
  template <size_t N>
  void Bytes(const std::array<uint8_t, N>& bytes) {
    Bytes(std::as_bytes(std::span(bytes)));
  }

 private:
  std::vector<std::byte>& out_;
};

// Reads past the end give zeros and clear ok(); look at it before any value is used.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  bool ok() const { return ok_; }
  size_t position() const { return position_; }
  size_t left() const { return bytes_.size() - position_; }

  template <std::unsigned_integral T>
  T Number() {
    uint64_t value = 0;
    const auto bytes = Bytes(sizeof(T));
    for (size_t i = 0; i < bytes.size(); ++i)
      value |= static_cast<uint64_t>(std::to_integer<uint8_t>(bytes[i])) << (8 * i);
    return static_cast<T>(value);
  }
  // A view of the next `count` bytes; empty if there are fewer.
  std::span<const std::byte> Bytes(size_t count) {
    if (count > left()) {
      ok_ = false;
      return {};
    }
    position_ += count;
    return bytes_.subspan(position_ - count, count);
  }
  template <size_t N>
  void Bytes(std::array<uint8_t, N>& out) {
    out.fill(0);
    const auto bytes = Bytes(N);
    if (!bytes.empty()) std::memcpy(out.data(), bytes.data(), N);
  }

 private:
  std::span<const std::byte> bytes_;
  size_t position_ = 0;
  bool ok_ = true;
};

}  // namespace larder
