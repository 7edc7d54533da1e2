#include "store/keyring_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <limits>
#include <vector>

#include "base/file.h"
#include "base/hash.h"
#include "store/bytes.h"

namespace larder {
namespace {

constexpr std::string_view kMagic = "larderKr", kKeyDomain = "larderKk";
constexpr uint32_t kVersion = 1, kFlagKeys = 1, kFlagUntold = 2;
constexpr size_t kFixedBytes = 20, kSealBytes = 28, kChecksumBytes = 8;

std::span<const std::byte> AsBytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// A wrapped key is bound to its tenant, its space and its generation, so that entries cannot be exchanged.
std::vector<std::byte> KeyBound(std::string_view tenant, const SpaceKey& entry) {
  std::vector<std::byte> bound;
  ByteWriter writer(bound);
  writer.Bytes(AsBytes(kKeyDomain));
  writer.Number(kVersion);
  writer.Bytes(entry.id);
  writer.Number(entry.generation);
  writer.Bytes(AsBytes(tenant));
  return bound;
}

Status WriteKey(ByteWriter& writer, std::string_view tenant, const SpaceKey& entry, const CipherKey& master,
                const Cipher& cipher) {
  CipherKey wrapped;
  CipherNonce nonce;
  CipherTag tag;
  const auto plain = std::as_bytes(std::span(entry.key));
  LARDER_TRY(cipher.Seal(master, KeyBound(tenant, entry), plain, std::as_writable_bytes(std::span(wrapped)),
                         nonce, tag));
  writer.Bytes(nonce);
  writer.Bytes(tag);
  writer.Bytes(wrapped);
  return {};
}

std::unexpected<Error> Corrupt(std::string_view what) {
  return Fail(ErrorKind::kCorrupt,
              "the keyring is damaged ({}); restore it from a copy, or move it away to begin anew", what);
}

// One entry after the fixed part; `master` null: ids only. `marked`: it says whether it is untold.
Status ReadEntry(ByteReader& reader, bool marked, const CipherKey* master, const Cipher& cipher,
                 SpaceKeys& keys) {
  const uint32_t tenant_bytes = reader.Number<uint32_t>();
  if (tenant_bytes > kMaxTenantBytes) return Corrupt("a tenant's name is too long");
  const auto name = reader.Bytes(tenant_bytes);
  const std::string tenant(reinterpret_cast<const char*>(name.data()), name.size());
  SpaceKey entry;
  reader.Bytes(entry.id);
  entry.generation = reader.Number<uint32_t>();
  const uint8_t mark = marked ? reader.Number<uint8_t>() : 0;
  if (mark > 1) return Corrupt("an entry has an unknown mark");
  entry.untold = mark == 1;
  if (master != nullptr) {
    CipherNonce nonce;
    CipherTag tag;
    reader.Bytes(nonce);
    reader.Bytes(tag);
    reader.Bytes(entry.key);
    if (!reader.ok()) return Corrupt("it is cut off");
    if (!cipher.Open(*master, KeyBound(tenant, entry), nonce, tag,
                     std::as_writable_bytes(std::span(entry.key))))
      return Corrupt("a key does not open");
  }
  if (!reader.ok()) return Corrupt("it is cut off");
  if (!keys.emplace(tenant, entry).second) return Corrupt("a tenant appears twice");
  return {};
}

// The seal over everything before it tells a wrong master key from damage, also in an empty ring.
Status CheckSeal(ByteReader& reader, std::span<const std::byte> sealed, const CipherKey& master,
                 const Cipher& cipher) {
  CipherNonce nonce;
  CipherTag tag;
  reader.Bytes(nonce);
  reader.Bytes(tag);
  if (!reader.ok() || !cipher.Open(master, sealed, nonce, tag, {}))
    return Fail(
        ErrorKind::kCorrupt,
        "the keyring was made with another store key; give that one, or move the keyring away to begin anew");
  return {};
}

// Held for as long as it lives. A file beside the ring, since the ring itself is replaced.
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

}  // namespace

Status CheckTenant(std::string_view tenant) {
  if (tenant.size() > kMaxTenantBytes)
    return Fail(ErrorKind::kInvalid, "a tenant's name has at most {} bytes", kMaxTenantBytes);
  return {};
}

std::unexpected<Error> KeyringFull() {
  return Fail(ErrorKind::kExhausted, "the keyring is full with {} tenants; forget some", kMaxTenants);
}

Result<SpaceKey> MakeSpaceKey(const StoreKey& store_key, uint32_t generation) {
  SpaceKey entry;
  entry.generation = generation;
  LARDER_TRY(FillRandom(entry.id));
  if (store_key.get() != nullptr) LARDER_TRY(FillRandom(entry.key));
  return entry;
}

Result<SpaceKey> NextSpaceKey(const StoreKey& store_key, std::string_view tenant, const SpaceKey& prior) {
  if (prior.generation == std::numeric_limits<uint32_t>::max())
    return Fail(ErrorKind::kExhausted, "tenant {} was forgotten too often; give it another name", tenant);
  LARDER_ASSIGN(SpaceKey next, MakeSpaceKey(store_key, prior.generation + 1));
  next.untold = true;  // also after a restart
  return next;
}

Result<StoreKey> StoreKey::Read(const std::string& path) {
  StoreKey out;
  if (path.empty()) return out;
  LARDER_ASSIGN(out.key_, ReadKeyFile(path));
  return out;
}

Result<SpaceKeys> KeyringFile::Open() const {
  LARDER_ASSIGN(const RingLock lock, RingLock::Take(path_));
  LARDER_ASSIGN(std::optional<SpaceKeys> keys, Read());
  if (!keys) LARDER_TRY(Write(keys.emplace()));
  return *std::move(keys);
}

Result<SpaceKeys> KeyringFile::Edit(const std::function<Result<bool>(SpaceKeys&)>& edit) const {
  LARDER_ASSIGN(const RingLock lock, RingLock::Take(path_));
  LARDER_ASSIGN(std::optional<SpaceKeys> keys, Read());
  if (!keys) return Fail(ErrorKind::kIo, "the keyring {} has disappeared; put it back or restart", path_);
  LARDER_ASSIGN(const bool changed, edit(*keys));
  if (changed) LARDER_TRY(Write(*keys));
  return *std::move(keys);
}

Result<std::optional<SpaceKeys>> KeyringFile::Read() const {
  const auto content = ReadFile(path_, kMaxKeyringBytes);
  if (!content && content.error().kind == ErrorKind::kNotFound) return std::nullopt;
  if (!content) return std::unexpected(content.error());
  return ParseKeyring(*content, store_key_.get(), cipher_);
}

Status KeyringFile::Write(const SpaceKeys& keys) const {
  LARDER_ASSIGN(const std::string content, FormatKeyring(keys, store_key_.get(), cipher_));
  return WriteFileAtomically(path_, content);
}

Result<std::string> FormatKeyring(const SpaceKeys& keys, const CipherKey* master, const Cipher& cipher) {
  std::vector<std::byte> out;
  ByteWriter writer(out);
  writer.Bytes(AsBytes(kMagic));
  writer.Number(kVersion);
  const bool marked = std::ranges::any_of(keys, [](const auto& entry) { return entry.second.untold; });
  writer.Number((master != nullptr ? kFlagKeys : 0) | (marked ? kFlagUntold : 0));
  writer.Number(static_cast<uint32_t>(keys.size()));
  for (const auto& [tenant, entry] : keys) {
    writer.Number(static_cast<uint32_t>(tenant.size()));
    writer.Bytes(AsBytes(tenant));
    writer.Bytes(entry.id);
    writer.Number(entry.generation);
    if (marked) writer.Number(static_cast<uint8_t>(entry.untold));
    if (master != nullptr) LARDER_TRY(WriteKey(writer, tenant, entry, *master, cipher));
  }
  if (master != nullptr) {
    CipherNonce nonce;
    CipherTag tag;
    LARDER_TRY(cipher.Seal(*master, out, {}, {}, nonce, tag));
    writer.Bytes(nonce);
    writer.Bytes(tag);
  }
  writer.Number(Checksum64(out));
  return std::string(reinterpret_cast<const char*>(out.data()), out.size());
}

Result<SpaceKeys> ParseKeyring(std::string_view content, const CipherKey* master, const Cipher& cipher) {
  const auto bytes = AsBytes(content);
  if (bytes.size() < kFixedBytes + kChecksumBytes) return Corrupt("it is cut off");
  const auto body = bytes.first(bytes.size() - kChecksumBytes);
  ByteReader reader(body);
  if (!std::ranges::equal(reader.Bytes(kMagic.size()), AsBytes(kMagic)))
    return Corrupt("it begins with other bytes");
  if (const uint32_t version = reader.Number<uint32_t>(); version != kVersion)
    return Fail(ErrorKind::kUnsupported, "the keyring has version {}; this program knows version {}", version,
                kVersion);
  if (ByteReader(bytes.last(kChecksumBytes)).Number<uint64_t>() != Checksum64(body))
    return Corrupt("it does not have its checksum");
  const uint32_t flags = reader.Number<uint32_t>(), count = reader.Number<uint32_t>();
  if ((flags & ~(kFlagKeys | kFlagUntold)) != 0 || count > kMaxTenants)
    return Corrupt("unknown flags or too many tenants");
  const bool has_keys = (flags & kFlagKeys) != 0, marked = (flags & kFlagUntold) != 0;
  if (has_keys && master == nullptr)
    return Fail(ErrorKind::kInvalid, "the keyring was made with a store key; give that key");
  if (!has_keys && master != nullptr)
    return Fail(ErrorKind::kInvalid,
                "the keyring was made without a store key; move it away to begin anew with encryption");
  if (has_keys) {
    if (reader.left() < kSealBytes) return Corrupt("it is cut off");
    const auto sealed = body.first(body.size() - kSealBytes);
    ByteReader seal(body.last(kSealBytes));
    LARDER_TRY(CheckSeal(seal, sealed, *master, cipher));
  }
  SpaceKeys keys;
  for (uint32_t i = 0; i < count; ++i) LARDER_TRY(ReadEntry(reader, marked, master, cipher, keys));
  if (reader.left() != (has_keys ? kSealBytes : 0)) return Corrupt("there are bytes left over");
  return keys;
}

Result<CipherKey> ReadKeyFile(const std::string& path) {
  constexpr size_t kMostBytes = 4096;  // 64 digits and a little white space
  LARDER_ASSIGN(std::string content, ReadFile(path, kMostBytes));
  CipherKey key{};
  bool good = content.size() == key.size();
  if (good) {
    std::ranges::copy(content, key.begin());
  } else {
    size_t digits = 0;
    good = true;
    for (const char c : content) {
      const auto byte = static_cast<unsigned char>(c);
      if (std::isspace(byte)) continue;
      good = good && std::isxdigit(byte) && digits < 2 * key.size();
      if (!good) break;
      const int value = std::isdigit(byte) ? c - '0' : std::tolower(byte) - 'a' + 10;
      key[digits / 2] = static_cast<uint8_t>(key[digits / 2] << 4 | value);
      ++digits;
    }
    good = good && digits == 2 * key.size();
  }
  Cleanse({reinterpret_cast<uint8_t*>(content.data()), content.size()});
  if (!good)
    return Fail(ErrorKind::kInvalid,
                "{} is not a key: 32 bytes or 64 hexadecimal digits are wanted (openssl rand -hex 32)", path);
  return key;
}

}  // namespace larder
