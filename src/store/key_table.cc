#include "store/key_table.h"

#include <mutex>
#include <utility>

namespace larder {

std::optional<SpaceId> KeyTable::IdOf(std::string_view tenant) const {
  const std::shared_lock guard(mutex_);
  const auto it = keys_.find(tenant);
  if (it == keys_.end()) return std::nullopt;
  return it->second.id;
}

std::optional<SpaceKey> KeyTable::Find(std::string_view tenant) const {
  const std::shared_lock guard(mutex_);
  const auto it = keys_.find(tenant);
  if (it == keys_.end()) return std::nullopt;
  return it->second;
}

std::vector<std::string> KeyTable::Tenants() const {
  const std::shared_lock guard(mutex_);
  std::vector<std::string> out;
  out.reserve(keys_.size());
  for (const auto& [tenant, entry] : keys_) out.push_back(tenant);
  return out;
}

std::vector<std::pair<std::string, SpaceId>> KeyTable::Spaces() const {
  const std::shared_lock guard(mutex_);
  std::vector<std::pair<std::string, SpaceId>> out;
  out.reserve(keys_.size());
  for (const auto& [tenant, entry] : keys_) out.emplace_back(tenant, entry.id);
  return out;
}

size_t KeyTable::size() const {
  const std::shared_lock guard(mutex_);
  return keys_.size();
}

void KeyTable::Set(const std::string& tenant, const SpaceKey& entry) {
  const std::unique_lock guard(mutex_);
  const auto [it, fresh] = keys_.try_emplace(tenant, entry);
  if (!fresh) {
    by_space_.erase(it->second.id);
    it->second = entry;
  }
  by_space_.insert_or_assign(entry.id, entry);
}

void KeyTable::Replace(SpaceKeys keys) {
  const std::unique_lock guard(mutex_);
  keys_ = std::move(keys);
  by_space_.clear();
  for (const auto& [tenant, entry] : keys_) by_space_.emplace(entry.id, entry);
}

Result<SpaceKey> KeyTable::KeyOf(const SpaceId& space) const {
  const std::shared_lock guard(mutex_);
  const auto it = by_space_.find(space);
  if (it == by_space_.end())
    return Fail(ErrorKind::kNotFound, "the tenant of this record has no key any more");
  return it->second;
}

Status KeyTable::Seal(const SpaceId& space, std::span<const std::byte> bound, std::span<const std::byte> from,
                      std::span<std::byte> to, CipherNonce& nonce, CipherTag& tag) const {
  LARDER_ASSIGN(const SpaceKey entry, KeyOf(space));
  return cipher_.Seal(entry.key, bound, from, to, nonce, tag);
}

Status KeyTable::Open(const SpaceId& space, std::span<const std::byte> bound, const CipherNonce& nonce,
                      const CipherTag& tag, std::span<std::byte> bytes) const {
  LARDER_ASSIGN(const SpaceKey entry, KeyOf(space));
  return cipher_.Open(entry.key, bound, nonce, tag, bytes);
}

}  // namespace larder
