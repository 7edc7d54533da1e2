// Tenants' ids and keys in memory, and the sealer over them.
#pragma once

#include <map>
#include <optional>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "store/cipher.h"
#include "store/keyring_file.h"
#include "store/sealer.h"

namespace larder {

// Thread-safe.
class KeyTable final : public Sealer {
 public:
  std::optional<SpaceId> IdOf(std::string_view tenant) const;
  std::optional<SpaceKey> Find(std::string_view tenant) const;
  std::vector<std::string> Tenants() const;
  std::vector<std::pair<std::string, SpaceId>> Spaces() const;
  size_t size() const;
  // The key that the tenant had before is gone when it returns.
  void Set(const std::string& tenant, const SpaceKey& entry);
  void Replace(SpaceKeys keys);  // all of them

  Status Seal(const SpaceId& space, std::span<const std::byte> bound, std::span<const std::byte> from,
              std::span<std::byte> to, CipherNonce& nonce, CipherTag& tag) const override;
  Status Open(const SpaceId& space, std::span<const std::byte> bound, const CipherNonce& nonce,
              const CipherTag& tag, std::span<std::byte> bytes) const override;

 private:
  Result<SpaceKey> KeyOf(const SpaceId& space) const;

  const Cipher cipher_;
  mutable std::shared_mutex mutex_;
  SpaceKeys keys_;
  std::map<SpaceId, SpaceKey> by_space_;
};

}  // namespace larder
