// AES-256-GCM through OpenSSL, and random bytes. The only place of the store that speaks to a cipher.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/result.h"

namespace larder {

using CipherKey = std::array<uint8_t, 32>;
using CipherNonce = std::array<uint8_t, 12>;
using CipherTag = std::array<uint8_t, 16>;

// Thread-safe: every call has a context of its own.
class Cipher {
 public:
  Cipher();
  ~Cipher();
  Cipher(const Cipher&) = delete;
  Cipher& operator=(const Cipher&) = delete;

  // `to` has the size of `from` and may be the same bytes. Draws `nonce`. kIo: the system has no randomness.
  Status Seal(const CipherKey& key, std::span<const std::byte> bound, std::span<const std::byte> from,
              std::span<std::byte> to, CipherNonce& nonce, CipherTag& tag) const;
  // In place. kCorrupt: not what was sealed with this key and these bound bytes; the bytes are then zeroed,
  // so that what was not authenticated cannot be used by mistake.
  Status Open(const CipherKey& key, std::span<const std::byte> bound, const CipherNonce& nonce,
              const CipherTag& tag, std::span<std::byte> bytes) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

Status FillRandom(std::span<uint8_t> bytes);  // kIo
void Cleanse(std::span<uint8_t> bytes);       // overwrites a secret; not optimised away

}  // namespace larder
