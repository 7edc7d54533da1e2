#include "store/sealer.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <utility>

#include "base/file.h"
#include "store/cipher.h"
#include "store/keyring_file.h"

namespace larder {
namespace {

// Held while the ring is read, changed and replaced, so that two servers with one ring do not lose each
// other's tenants. A file beside the ring, since the ring itself is replaced.
class RingLock {
 public:
  static Result<RingLock> Take(const std::string& ring) {
    const std::string path = ring + ".lock";
    RingLock lock(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    int taken = -1;
    if (lock.fd_ >= 0) {
      do taken = flock(lock.fd_, LOCK_EX);
      while (taken != 0 && errno == EINTR);
    }
    if (taken != 0) return Fail(ErrorKind::kIo, "cannot lock {}: {}", path, std::strerror(errno));
    return lock;
  }
  RingLock(RingLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  RingLock& operator=(RingLock&&) = delete;
  ~RingLock() {
    if (fd_ >= 0) close(fd_);
  }

 private:
  explicit RingLock(int fd) : fd_(fd) {}
  int fd_;
};

class FileKeyring final : public Keyring, public Sealer {
 public:
  FileKeyring(std::string path, std::optional<CipherKey> master) : path_(std::move(path)), master_(master) {}
  ~FileKeyring() override {
    if (master_) Cleanse(*master_);
    Replace({});
  }
  FileKeyring(const FileKeyring&) = delete;
  FileKeyring& operator=(const FileKeyring&) = delete;

  Status Load() {
    LARDER_ASSIGN(const RingLock lock, RingLock::Take(path_));
    LARDER_ASSIGN(std::optional<SpaceKeys> keys, ReadRing());
    if (!keys) LARDER_TRY(WriteRing(keys.emplace()));
    const std::unique_lock guard(mutex_);
    Replace(std::move(*keys));
    return {};
  }

  Result<SpaceId> SpaceOf(const std::string& tenant) override {
    if (tenant.size() > kMaxTenantBytes)
      return Fail(ErrorKind::kInvalid, "a tenant's name has at most {} bytes", kMaxTenantBytes);
    {
      const std::shared_lock guard(mutex_);
      if (const auto it = keys_.find(tenant); it != keys_.end()) return it->second.id;
    }
    LARDER_ASSIGN(const RingLock lock, RingLock::Take(path_));
    LARDER_ASSIGN(SpaceKeys keys, CurrentRing());
    auto it = keys.find(tenant);
    if (it == keys.end()) {
      if (keys.size() >= kMaxTenants)
        return Fail(ErrorKind::kExhausted, "the keyring is full with {} tenants; forget some", kMaxTenants);
      SpaceKey entry;
      LARDER_TRY(FillRandom(entry.id));
      if (master_) LARDER_TRY(FillRandom(entry.key));
      it = keys.emplace(tenant, entry).first;
      LARDER_TRY(WriteRing(keys));
    }
    const SpaceId id = it->second.id;
    const std::unique_lock guard(mutex_);
    Replace(std::move(keys));
    return id;
  }

  Result<SpaceId> Forget(const std::string& tenant) override {
    LARDER_ASSIGN(const RingLock lock, RingLock::Take(path_));
    LARDER_ASSIGN(SpaceKeys keys, CurrentRing());
    const auto it = keys.find(tenant);
    if (it == keys.end()) return Fail(ErrorKind::kNotFound, "tenant {} has no key", tenant);
    const SpaceId id = it->second.id;
    Cleanse(it->second.key);
    keys.erase(it);
    LARDER_TRY(WriteRing(keys));
    const std::unique_lock guard(mutex_);
    Replace(std::move(keys));
    return id;
  }

  const Sealer* sealer() const override { return master_ ? this : nullptr; }

  Status Seal(const SpaceId& space, std::span<const std::byte> bound, std::span<const std::byte> from,
              std::span<std::byte> to, std::array<uint8_t, 12>& nonce,
              std::array<uint8_t, 16>& tag) const override {
    LARDER_ASSIGN(CipherKey key, KeyOf(space));
    const Status status = cipher_.Seal(key, bound, from, to, nonce, tag);
    Cleanse(key);
    return status;
  }
  Status Open(const SpaceId& space, std::span<const std::byte> bound, const std::array<uint8_t, 12>& nonce,
              const std::array<uint8_t, 16>& tag, std::span<std::byte> bytes) const override {
    LARDER_ASSIGN(CipherKey key, KeyOf(space));
    const Status status = cipher_.Open(key, bound, nonce, tag, bytes);
    Cleanse(key);
    return status;
  }

 private:
  const CipherKey* master() const { return master_ ? &*master_ : nullptr; }

  Result<CipherKey> KeyOf(const SpaceId& space) const {
    const std::shared_lock guard(mutex_);
    const auto it = by_space_.find(space);
    if (it == by_space_.end())
      return Fail(ErrorKind::kNotFound, "the tenant of this record has no key any more");
    return it->second;
  }

  // Nothing if there is no file.
  Result<std::optional<SpaceKeys>> ReadRing() const {
    const auto content = ReadFile(path_, kMaxKeyringBytes);
    if (!content && content.error().kind == ErrorKind::kNotFound) return std::nullopt;
    if (!content) return std::unexpected(content.error());
    return ParseKeyring(*content, master(), cipher_);
  }

  // What another process may have changed since this one read it.
  Result<SpaceKeys> CurrentRing() const {
    LARDER_ASSIGN(std::optional<SpaceKeys> keys, ReadRing());
    if (!keys) return Fail(ErrorKind::kIo, "the keyring {} has disappeared; put it back or restart", path_);
    return *std::move(keys);
  }

  Status WriteRing(const SpaceKeys& keys) const {
    LARDER_ASSIGN(const std::string content, FormatKeyring(keys, master(), cipher_));
    return WriteFileAtomically(path_, content);
  }

  // With mutex_ held (or alone).
  void Replace(SpaceKeys keys) {
    for (auto& [tenant, entry] : keys_) Cleanse(entry.key);
    for (auto& [space, key] : by_space_) Cleanse(key);
    keys_ = std::move(keys);
    by_space_.clear();
    for (const auto& [tenant, entry] : keys_) by_space_.emplace(entry.id, entry.key);
  }

  const std::string path_;
  std::optional<CipherKey> master_;
  const Cipher cipher_;
  mutable std::shared_mutex mutex_;
  SpaceKeys keys_;
  std::map<SpaceId, CipherKey> by_space_;
};

}  // namespace

Result<std::unique_ptr<Keyring>> Keyring::Open(const std::string& path, const std::string& store_key_file) {
  std::optional<CipherKey> master;
  if (!store_key_file.empty()) {
    LARDER_ASSIGN(master, ReadKeyFile(store_key_file));
  }
  auto ring = std::make_unique<FileKeyring>(path, master);
  if (master) Cleanse(*master);
  LARDER_TRY(ring->Load());
  return ring;
}

}  // namespace larder
