// Trust: whoever can write to a tier could plant keys and values under any name, since a name is the hash of
// inputs and not of the payload. A sealer binds what is stored to its name with AES-256-GCM under the key of
// its space (tenant). Space keys are random, kept wrapped by a master key in a keyring file; destroying a
// wrapped key makes everything of that space unreadable.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "store/tier.h"

namespace larder {

// Seals bytes of one space. Thread-safe.
class Sealer {
 public:
  virtual ~Sealer() = default;
  // Encrypts `from` to `to` (same size) with a fresh random nonce; `bound` is authenticated. kNotFound: the
  // space has no key (wiped).
  virtual Status Seal(const SpaceId& space, std::span<const std::byte> bound, std::span<const std::byte> from,
                      std::span<std::byte> to, std::array<uint8_t, 12>& nonce,
                      std::array<uint8_t, 16>& tag) const = 0;
  // In place. kCorrupt: not what was sealed under this name; kNotFound.
  virtual Status Open(const SpaceId& space, std::span<const std::byte> bound,
                      const std::array<uint8_t, 12>& nonce, const std::array<uint8_t, 16>& tag,
                      std::span<std::byte> bytes) const = 0;
};

struct KeyringStats {
  uint64_t tenants = 0;
  uint64_t refused_entries = 0;  // in Redis: cut, forged, or sealed under another store key
  uint64_t local_entries = 0;    // made without Redis, which did not answer
};

// Which id and key each tenant has. Open: a file of its own (docs/formats/keyring.md), replaced atomically
// and synced at each change. Servers that share a Redis share the ids too: store/redis/shared_keyring.h.
class Keyring {
 public:
  // `path` is made if it is not there. `store_key_file`: 32 bytes, or 64 hexadecimal digits and white space;
  // "" means ids without encryption. kInvalid: a key file of another size; kCorrupt: the ring is damaged or
  // was made with another master key.
  static Result<std::unique_ptr<Keyring>> Open(const std::string& path, const std::string& store_key_file);
  virtual ~Keyring() = default;
  // The tenant's id, made (durably, before it returns) at the first call.
  virtual Result<SpaceId> SpaceOf(const std::string& tenant) = 0;
  // Durably destroys the tenant's wrapped key and id; the next SpaceOf gives another id. Returns the old one.
  virtual Result<SpaceId> Forget(const std::string& tenant) = 0;
  // The tenants that are known here, with their ids.
  virtual std::vector<std::pair<std::string, SpaceId>> Spaces() const = 0;
  // Null without a store key.
  virtual const Sealer* sealer() const = 0;
  virtual KeyringStats stats() const = 0;
};

}  // namespace larder
